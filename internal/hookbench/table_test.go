package hookbench

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/internal/quantile"
)

func TestRatioIsTheMedianOverNeighbouringBlocks(t *testing.T) {
	// The machine is twice as slow in the second block, for both sides.
	a := []int64{10, 10, 20, 20, 10, 90}
	b := []int64{20, 20, 40, 40, 20, 20}
	assert.Equal(t, []float64{0.5, 0.5, 2.5}, pairwise(a, b, 2))
	assert.InDelta(t, 0.5, quantile.At(pairwise(a, b, 2), 0.5), 0)
}

func TestShapesFillTheBuffer(t *testing.T) {
	for _, c := range Suite() {
		shape := c.shape()
		assert.Equal(t, c.Bytes, shape[0]*shape[1]*4*int64(c.Params), c.Name())
	}
}
