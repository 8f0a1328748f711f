package check

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/tensor"
)

// gradient is one element of fillGradients.
func gradient(seed uint64, step, bucket, rank, i int) float64 {
	return gradientScale * (uniform(stream(seed, step, bucket, -1), i) + uniform(stream(seed, step, bucket, rank), i)/2)
}

func TestGradientsAreAPureFunction(t *testing.T) {
	const n = 1000
	values, again := make([]float64, n), make([]float64, n)
	fillGradients(values, 7, 2, 1, 3)
	fillGradients(again, 7, 2, 1, 3)
	assert.Equal(t, values, again)
	for i := range values {
		require.Equal(t, gradient(7, 2, 1, 3, i), values[i], i)
	}
}

func TestGradientsDependOnEveryArgument(t *testing.T) {
	base := gradient(1, 0, 0, 0, 0)
	for name, other := range map[string]float64{
		"seed": gradient(2, 0, 0, 0, 0), "step": gradient(1, 1, 0, 0, 0), "bucket": gradient(1, 0, 1, 0, 0),
		"rank": gradient(1, 0, 0, 1, 0), "element": gradient(1, 0, 0, 0, 1),
	} {
		assert.NotEqual(t, base, other, name)
	}
	assert.NotEqual(t, gradient(1, 0, 1, 0, 0), gradient(1, 1, 0, 0, 0), "step and bucket must not be exchangeable")
}

func TestGradientsAreSpreadAndCentred(t *testing.T) {
	const n = 20000
	values := make([]float64, n)
	fillGradients(values, 1, 0, 0, 0)
	sum, squares := 0.0, 0.0
	for _, v := range values {
		require.LessOrEqual(t, math.Abs(v), 1.5*gradientScale)
		sum, squares = sum+v, squares+v*v
	}
	assert.InDelta(t, 0, sum/n, gradientScale/50)
	// Two uniforms, one half as wide: variance 1/3 + 1/12.
	assert.InDelta(t, math.Sqrt(5.0/12)*gradientScale, math.Sqrt(squares/n), gradientScale/50)
}

func TestExactMeanIsOfTheRoundedGradients(t *testing.T) {
	const n, ranks = 100, 3
	mean, err := exactMean(n, tensor.Float64, 5, 1, 2, ranks)
	require.NoError(t, err)
	rounded, err := exactMean(n, tensor.BFloat16, 5, 1, 2, ranks)
	require.NoError(t, err)
	for i := range n {
		want := 0.0
		for rank := range ranks {
			want += gradient(5, 1, 2, rank, i)
		}
		require.InDelta(t, want/ranks, mean[i], 1e-17)
		require.InDelta(t, want/ranks, rounded[i], gradientScale/100)
	}
	assert.NotEqual(t, mean, rounded)
}

func TestCompare(t *testing.T) {
	d, bad := compare([]float64{1, 2, 3}, []float64{1, 2, 4})
	assert.Zero(t, bad)
	assert.InDelta(t, 0.25, d.Max, 1e-15)
	assert.InDelta(t, 1/math.Sqrt(21), d.RMS, 1e-15)

	d, bad = compare([]float64{1, math.NaN(), math.Inf(-1)}, []float64{1, 2, 4})
	assert.EqualValues(t, 2, bad)
	assert.Zero(t, d, "elements that are not finite have no error")

	d, _ = compare([]float64{3, 4}, []float64{0, 0})
	assert.Equal(t, deviation{4, 5}, d, "absolute where the mean is zero")
}
