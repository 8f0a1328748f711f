package quantile

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestAt(t *testing.T) {
	assert.InDelta(t, 2.5, At([]int64{4, 1, 3, 2}, 0.5), 0)
	assert.InDelta(t, 1, At([]int64{4, 1, 3, 2}, 0), 0)
	assert.InDelta(t, 4, At([]int64{4, 1, 3, 2}, 1), 0)
	assert.True(t, math.IsNaN(Median([]float64{})), "no values")
}
