package hookbench

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestRatioIsTheMedianOverNeighbouringBlocks(t *testing.T) {
	// The machine is twice as slow in the second block, for both sides.
	a := []int64{10, 10, 20, 20, 10, 90}
	b := []int64{20, 20, 40, 40, 20, 20}
	assert.Equal(t, []float64{0.5, 0.5, 2.5}, pairwise(a, b, 2))
	assert.InDelta(t, 0.5, Quantile(pairwise(a, b, 2), 0.5), 0)
}

func TestQuantileInterpolates(t *testing.T) {
	assert.InDelta(t, 2.5, Quantile([]int64{4, 1, 3, 2}, 0.5), 0)
	assert.InDelta(t, 1, Quantile([]int64{4, 1, 3, 2}, 0), 0)
	assert.InDelta(t, 4, Quantile([]int64{4, 1, 3, 2}, 1), 0)
}

func TestShapesFillTheBuffer(t *testing.T) {
	for _, c := range Suite() {
		shape := c.shape()
		assert.Equal(t, c.Bytes, shape[0]*shape[1]*4*int64(c.Params), c.Name())
	}
}
