package compare

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/tensor"
)

func TestParseNetwork(t *testing.T) {
	for text, want := range map[string]Network{
		"10Gbit":        {"10Gbit", 1e10, 50e-6},
		"2.5Gbit":       {"2.5Gbit", 2.5e9, 50e-6},
		"100Mbit@2ms":   {"100Mbit@2ms", 1e8, 2e-3},
		"1Tbit@0s":      {"1Tbit@0s", 1e12, 0},
		"56kbit@1.5ms":  {"56kbit@1.5ms", 56e3, 1.5e-3},
		"100Gbit@800ns": {"100Gbit@800ns", 1e11, 800e-9},
	} {
		got, err := ParseNetwork(text, 50*time.Microsecond)
		require.NoError(t, err)
		assert.Equal(t, want.Name, got.Name)
		assert.InEpsilon(t, want.BitsPerSecond, got.BitsPerSecond, 1e-12)
		assert.InDelta(t, want.Latency, got.Latency, 1e-12)
	}
	for _, text := range []string{"", "10", "10Gb", "Gbit", "-1Gbit", "0Gbit", "1e3Gbit", "10 Gbit", "1Gbit@", "1Gbit@5", "1Gbit@-1ms", "10GBit", "10Gbit,1Gbit"} {
		_, err := ParseNetwork(text, 0)
		assert.ErrorIs(t, err, ErrNetwork, text)
		assert.ErrorContains(t, err, text)
	}
}

func TestCollective_cost(t *testing.T) {
	for _, c := range []struct {
		one  Collective
		n    int
		want cost
	}{
		{Collective{"all_reduce", 1000}, 2, cost{2, 1000, 1000}},
		{Collective{"all_reduce", 1000}, 4, cost{6, 1500, 1500}},
		{Collective{"all_gather", 1000}, 4, cost{3, 3000, 3000}},
		{Collective{"reduce_scatter", 1000}, 4, cost{3, 750, 750}},
		{Collective{"broadcast", 1000}, 5, cost{3, 3000, 800}},
		{Collective{"barrier", 0}, 1024, cost{10, 0, 0}},
		{Collective{"all_gather", 1000}, 1, cost{}},
	} {
		got, known := c.one.cost(c.n)
		assert.True(t, known)
		assert.Equal(t, c.want, got, "%v on %d", c.one, c.n)
	}
	_, known := Collective{Kind: "permute"}.cost(2)
	assert.False(t, known)
}

func TestPredict(t *testing.T) {
	// 10 us a message and 1 ns a byte here.
	constants := calibrate(2, 1000, 1_001_000, 2*10e-6+1000e-9, 2*10e-6+1_001_000e-9)
	assert.InEpsilon(t, 10.5e-6, constants.MessageSeconds, 1e-9, "the few bytes are its software's too")
	assert.InEpsilon(t, 1e-9, constants.ByteSeconds, 1e-2)
	constants = Calibration{10e-6, 1e-9}
	link := func(rate float64) Network { return Network{"link", rate / payload, 5e-6} }
	bucket := BucketCost{Elements: 1000, HookSeconds: 1e-3, CollectiveSeconds: 2*10e-6 + 4000*1e-9, Collectives: []Collective{{"all_reduce", 4000}}}

	t.Run("a slow link is what takes the time", func(t *testing.T) {
		p := Predict([]BucketCost{bucket, bucket}, constants, 2, link(8e6), 4, 0) // 1 us a byte
		assert.InEpsilon(t, 2*(1e-3+6*15e-6+6000e-6+3e-6), p.Seconds, 1e-5)
		assert.InEpsilon(t, 2*(6*15e-6+6000e-6+3e-6), p.CollectiveSeconds, 1e-9)
		assert.EqualValues(t, 12000, p.Bytes)
		assert.Zero(t, p.StepSeconds)
	})
	t.Run("a fast one leaves the software's", func(t *testing.T) {
		p := Predict([]BucketCost{bucket}, constants, 2, link(8e15), 2, 0)
		assert.InEpsilon(t, 1e-3+2*15e-6+4e-6, p.Seconds, 1e-5)
	})
	t.Run("what the hook's collectives took more here they take there", func(t *testing.T) {
		slow := bucket
		slow.CollectiveSeconds += 100e-6
		p := Predict([]BucketCost{slow}, constants, 2, link(8e15), 2, 0)
		assert.InEpsilon(t, 1e-3+2*15e-6+104e-6, p.Seconds, 1e-5)
		p = Predict([]BucketCost{slow}, constants, 2, link(8e15), 4, 0)
		assert.InEpsilon(t, 1e-3+6*15e-6+6e-6+150e-6, p.Seconds, 1e-5)
	})
	t.Run("the backward pass hides all but the last bucket", func(t *testing.T) {
		p := Predict([]BucketCost{bucket, bucket}, constants, 2, link(8e15), 2, 3)
		assert.InEpsilon(t, 3+1e-3+34e-6, p.StepSeconds, 1e-8)
		p = Predict([]BucketCost{bucket, bucket}, constants, 2, link(8e15), 2, 3e-6)
		assert.InDelta(t, 2e-6+2*(1e-3+34e-6), p.StepSeconds, 1e-8, "from the first ready bucket on, where the passes are short")
	})
}

func TestCovered(t *testing.T) {
	assert.InDelta(t, 7.0, covered([][2]float64{{8, 10}, {0, 3}, {2, 5}, {3, 4}}), 1e-12)
	assert.Zero(t, covered(nil))
}

func TestSteady(t *testing.T) {
	assert.InDelta(t, 4.0, steady([]float64{100, 100, 100, 5, 4, 3}), 1e-12)
	assert.InDelta(t, 3.5, steady([]float64{100, 100, 4, 3}), 1e-12)
}

func TestDeviation(t *testing.T) {
	flat := func(values ...float32) *tensor.Tensor {
		x, err := tensor.FromSlice(values, int64(len(values)))
		require.NoError(t, err)
		t.Cleanup(x.Close)
		return x
	}
	d, err := newDeviation(3)
	require.NoError(t, err)
	defer d.close()
	gradients := []*tensor.Tensor{flat(0, 4), flat(2, 4)} // mean 1, 4
	last := []*tensor.Tensor{flat(2), flat(2)}
	add := func(first, second *tensor.Tensor) Deviation {
		require.NoError(t, d.add(first, gradients))
		require.NoError(t, d.add(second, last))
		got, ok := d.step()
		require.True(t, ok)
		return got
	}
	got := add(flat(1, 4), flat(2))
	assert.Equal(t, Deviation{Error: 0, Accumulated: 0, Cosine: 1}, got)
	got = add(flat(1, 4), flat(5)) // off by 3 of |(1, 4, 2)|
	assert.InDelta(t, 3/4.58257569, got.Error, 1e-6)
	assert.InDelta(t, 3/(2*4.58257569), got.Accumulated, 1e-6)
	got = add(flat(1, 4), flat(-1)) // the other way: error feedback
	assert.InDelta(t, 3/4.58257569, got.Error, 1e-6)
	assert.InDelta(t, 0, got.Accumulated, 1e-12)
	got = add(flat(0, 0), flat(0))
	assert.InDelta(t, 1, got.Error, 1e-12)
	assert.Zero(t, got.Cosine, "nothing has no direction")

	inf := float32(1e38)
	require.NoError(t, d.add(flat(inf*10, 0), gradients))
	require.NoError(t, d.add(flat(0), last))
	_, ok := d.step()
	assert.False(t, ok)
}

func TestDeviation_sample(t *testing.T) {
	const n = sampled + 5
	d, err := newDeviation(n)
	require.NoError(t, err)
	defer d.close()
	assert.EqualValues(t, 2, d.stride)
	zeros, err := tensor.New(tensor.Float32, n)
	require.NoError(t, err)
	defer zeros.Close()
	ones, err := tensor.New(tensor.Float32, n)
	require.NoError(t, err)
	defer ones.Close()
	values, err := tensor.Slice[float32](ones)
	require.NoError(t, err)
	for i := range values {
		values[i] = 1
	}
	require.NoError(t, d.add(zeros, []*tensor.Tensor{ones}))
	got, ok := d.step()
	require.True(t, ok)
	assert.InDelta(t, 1, got.Error, 1e-9)
	assert.InDelta(t, 1, got.Accumulated, 1e-9)
}
