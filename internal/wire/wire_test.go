package wire

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestMeter_add(t *testing.T) {
	t.Run("closed and reused sockets", func(t *testing.T) {
		m := Meter{last: map[uint64]uint64{1: 10, 2: 20, 3: 30}, closed: 5}
		// 1 grew, 2 closed, 3 closed and its inode went to a new socket, 4 is new.
		assert.EqualValues(t, 5+20+30+15+7+4, m.add(map[uint64]uint64{1: 15, 3: 7, 4: 4}))
	})
}
