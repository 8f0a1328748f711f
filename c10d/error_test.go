package c10d_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/c10d"
)

func TestAnErrorNamesOnlyWhatThereIs(t *testing.T) {
	e := &c10d.Error{Op: "hook m.hook", Rank: -1, Bucket: -1, Code: c10d.ErrRaised}
	assert.Equal(t, "hook m.hook: the hook raised an exception", e.Error())
	e = &c10d.Error{Op: "hook m.hook", Rank: 3, Bucket: 0, Code: c10d.ErrRaised, Detail: "boom", Hint: "duck"}
	assert.Equal(t, "hook m.hook, rank 3, bucket 0: the hook raised an exception: boom\nhint: duck", e.Error())
}
