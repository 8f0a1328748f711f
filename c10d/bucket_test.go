package c10d_test

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

func TestABucketsPartsMustFitEachOther(t *testing.T) {
	flat := floats(t, 1, 2, 3, 4)
	matrix, err := tensor.New(tensor.Float32, 2, 2)
	require.NoError(t, err)
	defer matrix.Close()
	strided, err := flat.View(0, []int64{2}, []int64{2})
	require.NoError(t, err)
	defer strided.Close()
	good := func() c10d.BucketConfig {
		return c10d.BucketConfig{Index: 0, Count: 1, Buffer: flat, Offsets: []int64{0}, Lengths: []int64{4}, Sizes: [][]int64{{2, 2}}}
	}
	_, err = c10d.NewGradBucket(good())
	require.NoError(t, err)
	gradient := func(c *c10d.BucketConfig, offset, length int64, size ...int64) {
		c.Offsets, c.Lengths, c.Sizes = []int64{offset}, []int64{length}, [][]int64{size}
	}
	empty := good()
	gradient(&empty, 4, 0, 100, 0, 7)
	_, err = c10d.NewGradBucket(empty)
	require.NoError(t, err, "no elements, whatever the other sizes")
	const huge = math.MaxInt64
	cases := map[string]struct {
		change func(*c10d.BucketConfig)
		says   string
	}{
		"an index beyond the count":  {func(c *c10d.BucketConfig) { c.Index = 1 }, "bucket 1 of 1: the index is not in 0..0"},
		"a negative index":           {func(c *c10d.BucketConfig) { c.Index = -1 }, "not in 0..0"},
		"no count":                   {func(c *c10d.BucketConfig) { c.Count = 0 }, "not in 0..-1"},
		"no buffer":                  {func(c *c10d.BucketConfig) { c.Buffer = nil }, "no buffer"},
		"a matrix":                   {func(c *c10d.BucketConfig) { c.Buffer = matrix }, "flat and contiguous, not of shape [2 2]"},
		"a strided buffer":           {func(c *c10d.BucketConfig) { c.Buffer = strided }, "with strides [2]"},
		"more offsets than lengths":  {func(c *c10d.BucketConfig) { c.Offsets = []int64{0, 1} }, "2 offsets, 1 lengths and 1 sizes"},
		"a size of another length":   {func(c *c10d.BucketConfig) { gradient(c, 0, 3, 2, 2) }, "does not fit"},
		"a negative offset":          {func(c *c10d.BucketConfig) { gradient(c, -1, 1, 1) }, "does not fit"},
		"beyond the end":             {func(c *c10d.BucketConfig) { gradient(c, 3, 2, 2) }, "does not fit a buffer of 4"},
		"negative sizes":             {func(c *c10d.BucketConfig) { gradient(c, 0, 4, -2, -2) }, "does not fit"},
		"a negative size, and none":  {func(c *c10d.BucketConfig) { gradient(c, 0, 0, -1, 0) }, "does not fit"},
		"sizes that overflow":        {func(c *c10d.BucketConfig) { gradient(c, 0, 0, 1<<32, 1<<32) }, "does not fit"},
		"an offset that overflows":   {func(c *c10d.BucketConfig) { gradient(c, huge, 1, 1) }, "does not fit"},
		"a parameter too many":       {func(c *c10d.BucketConfig) { c.Parameters = make([]*c10d.Parameter, 2) }, "2 parameters for 1 gradients"},
		"a parameter of other shape": {func(c *c10d.BucketConfig) { c.Parameters = []*c10d.Parameter{{Name: "w", Shape: []int64{4}}} }, "parameter w of shape [4]"},
		"data of other shape": {func(c *c10d.BucketConfig) {
			c.Parameters = []*c10d.Parameter{{Name: "w", Shape: []int64{2, 2}, Data: flat}}
		}, "parameter w of shape [2 2] has data of shape [4]"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := good()
			c.change(&cfg)
			_, err := c10d.NewGradBucket(cfg)
			require.ErrorContains(t, err, c.says)
		})
	}
	cfg := good()
	cfg.Buffer = floats(t, 1, 2, 3, 4)
	cfg.Buffer.Close()
	_, err = c10d.NewGradBucket(cfg)
	require.ErrorIs(t, err, c10d.ErrClosed)
}

func TestNewGradBucket_Device(t *testing.T) {
	memory := floats(t, 1, 2, 3, 4)
	on := func(device tensor.DeviceType) error {
		there, err := tensor.FromPointer(memory.Data(), tensor.Float32, []int64{4}, nil, tensor.Device{Type: device, ID: 63}, nil)
		require.NoError(t, err)
		defer there.Close()
		b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 2, Count: 4, Buffer: there, Offsets: []int64{0}, Lengths: []int64{4}, Sizes: [][]int64{{4}}})
		if err == nil {
			b.Close()
		}
		return err
	}
	const metal = 8
	err := on(metal)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "hint: ")
	require.NoError(t, on(tensor.CUDA))
	require.NoError(t, on(tensor.ROCM))
	require.NoError(t, on(tensor.XPU))
	require.NoError(t, on(tensor.Private))
}

func TestABufferMayMoveButNotChange(t *testing.T) {
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 2, Count: 4, Buffer: floats(t, 1, 2), Offsets: []int64{0}, Lengths: []int64{2}, Sizes: [][]int64{{2}}})
	require.NoError(t, err)
	defer b.Close()
	doubles, err := tensor.FromSlice([]float64{1, 2})
	require.NoError(t, err)
	defer doubles.Close()
	first := b.Buffer()
	for says, bad := range map[string]*tensor.Tensor{
		"float32[3] on cpu in place of float32[2]": floats(t, 1, 2, 3),
		"float64[2] on cpu in place of float32[2]": doubles,
		"no buffer": nil,
	} {
		require.ErrorContains(t, b.SetBuffer(bad), says)
		require.ErrorContains(t, b.SetBuffer(bad), "bucket 2: ")
	}
	closed := floats(t, 1, 2)
	closed.Close()
	require.ErrorIs(t, b.SetBuffer(closed), c10d.ErrClosed)
	assert.Same(t, first, b.Buffer())
	other := floats(t, 3, 4)
	require.NoError(t, b.SetBuffer(other))
	assert.Same(t, other, b.Buffer())
	b.Close()
	require.ErrorIs(t, b.SetBuffer(first), c10d.ErrClosed)
}

func TestABucketIsDescribed(t *testing.T) {
	cfg := c10d.BucketConfig{Index: 1, Count: 3, Buffer: floats(t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
		Offsets: []int64{1, 7, 7}, Lengths: []int64{6, 0, 1}, Sizes: [][]int64{{2, 3}, {4, 0}, {}}}
	b, err := c10d.NewGradBucket(cfg)
	require.NoError(t, err)
	defer b.Close()
	cfg.Offsets[0], cfg.Lengths[0], cfg.Sizes[0][0] = 7, 7, 7
	assert.Equal(t, []int64{1, 7, 7}, b.Offsets(), "it keeps none of the caller's slices")
	assert.Equal(t, []int64{6, 0, 1}, b.Lengths())
	assert.Equal(t, [][]int64{{2, 3}, {4, 0}, {}}, b.Sizes())
	assert.Equal(t, []any{1, 3, false}, []any{b.Index(), b.Count(), b.IsLast()})
	views, err := b.Gradients()
	require.NoError(t, err)
	elements, err := tensor.Slice[float32](views[0])
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 2, 3, 4, 5, 6}, elements)
	assert.Equal(t, b.Sizes(), [][]int64{views[0].Shape(), views[1].Shape(), views[2].Shape()})
	for _, view := range views {
		view.Close()
	}
	last, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 2, Count: 3, Buffer: floats(t)})
	require.NoError(t, err)
	defer last.Close()
	assert.True(t, last.IsLast())
}

// attachment notes how often it was closed.
type attachment struct{ closed int }

func (a *attachment) Close() { a.closed++ }

func TestWhatIsAttachedIsMadeOnceAndClosed(t *testing.T) {
	made := []*attachment{}
	make := func() (c10d.Attachment, error) {
		made = append(made, &attachment{})
		return made[len(made)-1], nil
	}
	p := &c10d.Parameter{Name: "w", Shape: []int64{2}, DType: tensor.Float32}
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: floats(t, 1, 2), Offsets: []int64{0}, Lengths: []int64{2},
		Sizes: [][]int64{{2}}, Parameters: []*c10d.Parameter{p}})
	require.NoError(t, err)
	for _, attach := range []func(any, func() (c10d.Attachment, error)) (c10d.Attachment, error){b.Attach, p.Attach} {
		first, err := attach("key", make)
		require.NoError(t, err)
		again, err := attach("key", make)
		require.NoError(t, err)
		assert.Same(t, first, again)
		other, err := attach("other key", make)
		require.NoError(t, err)
		assert.NotSame(t, first, other)
		boom := errors.New("boom")
		_, err = attach("third key", func() (c10d.Attachment, error) { return nil, boom })
		require.ErrorIs(t, err, boom)
	}
	require.Len(t, made, 4)
	b.Detach("key", made[1])
	assert.Zero(t, made[0].closed+made[1].closed, "that is another key's")
	b.Detach("key", made[0])
	b.Detach("key", made[0])
	assert.Equal(t, 1, made[0].closed)
	b.Close()
	b.Close()
	assert.Equal(t, 1, made[1].closed)
	_, err = b.Attach("key", make)
	require.ErrorIs(t, err, c10d.ErrClosed)
	assert.Zero(t, made[2].closed+made[3].closed, "a parameter lives longer than its bucket")
	p.Close()
	p.Close()
	assert.Equal(t, []int{1, 1}, []int{made[2].closed, made[3].closed})
	again, err := p.Attach("key", make)
	require.NoError(t, err, "it may be used again")
	assert.Same(t, made[4], again)
	p.Close()
}
