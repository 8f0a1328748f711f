package compare

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/tensor"
)

// filled returns what a source gives of the first bucket.
func filled(t *testing.T, s Source, step, rank int) []float32 {
	t.Helper()
	into, err := tensor.New(tensor.Float32, s.Buckets()[0].Elements)
	require.NoError(t, err)
	t.Cleanup(into.Close)
	require.NoError(t, s.Fill(step, 0, rank, into))
	values, err := tensor.Slice[float32](into)
	require.NoError(t, err)
	return values
}

// moments are the mean and the variance.
func moments(values []float32) (mean, variance float64) {
	for _, v := range values {
		mean += float64(v) / float64(len(values))
	}
	for _, v := range values {
		variance += (float64(v) - mean) * (float64(v) - mean) / float64(len(values))
	}
	return mean, variance
}

func correlation(a, b []float32) float64 {
	_, va := moments(a)
	_, vb := moments(b)
	ma, _ := moments(a)
	mb, _ := moments(b)
	sum := 0.0
	for i := range a {
		sum += (float64(a[i]) - ma) * (float64(b[i]) - mb) / float64(len(a))
	}
	return sum / math.Sqrt(va*vb)
}

func TestDrawn_Fill(t *testing.T) {
	m := &Model{Name: "one", Parameters: []Parameter{{Name: "w", Shape: []int64{512, 256}}}}
	assert.Len(t, distributions, len(DistributionNames()))
	for _, kind := range DistributionNames() {
		t.Run(kind, func(t *testing.T) {
			s, err := newDrawn(m, SourceConfig{Gradients: kind, CapMB: 25, Seed: 3})
			require.NoError(t, err)
			assert.Contains(t, s.Describe(), distributions[kind])
			mine := filled(t, s, 0, 0)
			mean, variance := moments(mine)
			assert.InDelta(t, 0, mean, 2e-4)
			assert.InDelta(t, 1.25e-4, variance, 0.3e-4, "common 1, own 1/4, of 0.01")
			other := filled(t, s, 0, 1)
			assert.InDelta(t, 0.8, correlation(mine, other), 0.07, "two ranks share the common part")
			again := filled(t, s, 0, 0)
			assert.Equal(t, mine, again, "the same for everybody who asks")
			later := correlation(mine, filled(t, s, 1, 0))
			if kind == "lowrank" {
				assert.InDelta(t, 0.8*0.64, later, 0.1, "0.8 of the common part stays")
			} else {
				assert.InDelta(t, 0, later, 0.02)
			}
		})
	}
	t.Run("heavy has most of its square in few elements", func(t *testing.T) {
		s, err := newDrawn(m, SourceConfig{Gradients: "heavy", CapMB: 25})
		require.NoError(t, err)
		fourth, second := 0.0, 0.0
		for _, v := range filled(t, s, 0, 0) {
			second += float64(v) * float64(v)
			fourth += math.Pow(float64(v), 4)
		}
		kurtosis := fourth / second / second * float64(512*256)
		assert.Greater(t, kurtosis, 10.0, "a normal number's is 3")
	})
	t.Run("an unknown one", func(t *testing.T) {
		_, err := newDrawn(m, SourceConfig{Gradients: "gamma", CapMB: 25})
		assert.ErrorIs(t, err, ErrDistribution)
	})
}

func TestDigitsSource_Fill(t *testing.T) {
	s, err := NewSource(SourceConfig{Model: Digits, CapMB: 25, Seed: 1, Ranks: 2})
	require.NoError(t, err)
	first := filled(t, s, 0, 0)
	assert.NotEqual(t, first, filled(t, s, 0, 1), "each rank has digits of its own")
	assert.NotEqual(t, first, filled(t, s, 1, 0))
	assert.Less(t, correlation(first, filled(t, s, 80, 0)), 0.9)
	into, err := tensor.New(tensor.Float32, s.Buckets()[0].Elements)
	require.NoError(t, err)
	defer into.Close()
	assert.ErrorContains(t, s.Fill(3, 0, 0, into), "in order")
	_, mid := moments(filled(t, s, 150, 0))
	_, begin := moments(first)
	assert.Less(t, mid, begin, "it learns")
}

func TestNewSource(t *testing.T) {
	_, err := NewSource(SourceConfig{Model: "resnet50", Gradients: "normal"})
	assert.ErrorContains(t, err, "must be above 0")
	_, err = NewSource(SourceConfig{Model: Digits, CapMB: 25, Ranks: 65})
	assert.ErrorContains(t, err, "1 to 64 ranks")
}
