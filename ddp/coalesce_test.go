package ddp

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/tensor"
)

func TestBroadcastsAreCoalescedByDTypeUpToTheLimit(t *testing.T) {
	f, d := tensor.Float32, tensor.Float64
	items := []Item{{Len: 1, DType: f}, {Len: 1, DType: d}, {Len: 2, DType: f}, {Len: 1, DType: f}, {Len: 9, DType: d}, {Len: 1, DType: d}}
	assert.Equal(t, [][]int{{0, 2}, {1}, {3}, {4}, {5}}, coalesce(items, 12))
	assert.Empty(t, coalesce(nil, 12))
}
