package pyhook

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/tensor"
)

func TestParametersAreTheSameObjectsInEachStep(t *testing.T) {
	config := func(t *testing.T, params []*Parameter) BucketConfig {
		return BucketConfig{Index: 0, Count: 1, Buffer: tensorOf(t, tensor.Float32, []float32{1, 2, 3, 4, 5}),
			Offsets: []int64{0, 4}, Lengths: []int64{4, 1}, Sizes: [][]int64{{2, 2}, {1}}, Parameters: params}
	}
	param := func(name string, shape ...int64) *Parameter {
		return &Parameter{Name: name, Shape: shape, DType: tensor.Float32}
	}
	for name, params := range map[string][]*Parameter{
		"given":      {param("w", 2, 2), param("b", 1)},
		"some given": {nil, param("b", 1)},
		"none given": nil,
	} {
		check(t, name, func(t *testing.T) {
			b, err := NewGradBucket(config(t, params))
			require.NoError(t, err)
			defer b.Close()
			saw := sees(t, "looks_at_parameters", HookConfig{}, b)
			ids := saw("ids")
			assert.Equal(t, true, saw("are_parameters"))
			assert.Equal(t, []any{[]any{int64(2), int64(2)}, []any{int64(1)}}, saw("shapes"))
			assert.Equal(t, []any{true, true}, saw("nan"), "no values to show")
			assert.Equal(t, []any{[]any{1.0, 2.0, 3.0, 4.0}, []any{5.0}}, saw("grads"))
			assert.Equal(t, []any{true, true}, saw("grad_is_view"))
			assert.Equal(t, int64(2), saw("in_dict"))
			for i := range 3 {
				x := float32(i)
				require.NoError(t, b.SetBuffer(tensorOf(t, tensor.Float32, []float32{x, x, x, x, x})))
				saw := sees(t, "looks_at_parameters", HookConfig{}, b)
				assert.Equal(t, ids, saw("ids"))
				assert.Equal(t, []any{true, true}, saw("grad_is_view"))
				assert.Equal(t, []any{float64(x)}, saw("grads").([]any)[1])
			}
			for _, p := range params {
				if p != nil {
					p.Close()
					p.Close()
				}
			}
		})
	}
	check(t, "whichever bucket they are in", func(t *testing.T) {
		p := param("w", 1)
		defer p.Close()
		var ids []any
		for index := range 2 {
			b, err := NewGradBucket(BucketConfig{Index: index, Count: 2, Buffer: tensorOf(t, tensor.Float32, []float32{1}),
				Offsets: []int64{0}, Lengths: []int64{1}, Sizes: [][]int64{{1}}, Parameters: []*Parameter{p}})
			require.NoError(t, err)
			defer b.Close()
			ids = append(ids, sees(t, "looks_at_parameters", HookConfig{}, b)("ids"))
		}
		assert.Equal(t, ids[0], ids[1])
	})
}

func TestGradientsOfKeptParametersFollowTheMemory(t *testing.T) {
	check(t, "", func(t *testing.T) {
		b := bucket(t, []float32{1}, []float32{2})
		h := load(t, "contract:keeps_parameters", HookConfig{State: []any{}})
		for i := range 3 {
			x := float32(i)
			require.NoError(t, b.SetBuffer(tensorOf(t, tensor.Float32, []float32{x, x + 1})))
			_, err := run(t, h, b)
			require.NoError(t, err)
			assert.Equal(t, []any{[]any{float64(x)}, []any{float64(x + 1)}}, python(t, "contract.get", "kept_grads"))
		}
	})
}

func TestAHookReadsAndUpdatesTheWeightsInPlace(t *testing.T) {
	check(t, "", func(t *testing.T) {
		weights := []float32{1, 2, 3}
		data, err := tensor.FromSlice(weights)
		require.NoError(t, err)
		p := &Parameter{Name: "w", Shape: []int64{3}, DType: tensor.Float32, Data: data}
		b, err := NewGradBucket(BucketConfig{Index: 0, Count: 1, Buffer: tensorOf(t, tensor.Float32, []float32{2, 4, 6}),
			Offsets: []int64{0}, Lengths: []int64{3}, Sizes: [][]int64{{3}}, Parameters: []*Parameter{p}})
		require.NoError(t, err)
		saw := sees(t, "looks_at_parameters", HookConfig{}, b)
		assert.Equal(t, []any{[]any{1.0, 2.0, 3.0}}, saw("values"))
		sees(t, "descends", HookConfig{}, b)
		assert.Equal(t, []float32{0, 0, 0}, weights)
		weights[0] = float32(math.Pi)
		assert.InDelta(t, math.Pi, sees(t, "looks_at_parameters", HookConfig{}, b)("values").([]any)[0].([]any)[0], 1e-6)
		b.Close()
		p.Close()
		data.Close()
	})
}

func TestABufferMayMoveInEachStep(t *testing.T) {
	check(t, "Go slices", func(t *testing.T) {
		b := bucket(t, []float32{0, 0, 0})
		h := load(t, "sample:doubled_in_place", HookConfig{})
		for i := range 50 {
			memory := slices.Repeat([]float32{float32(i)}, 3)
			buffer, err := tensor.FromSlice(memory)
			require.NoError(t, err)
			require.NoError(t, b.SetBuffer(buffer))
			got, err := run(t, h, b)
			require.NoError(t, err)
			assert.Equal(t, float32(2*i), got[0])
			assert.Equal(t, slices.Repeat([]float32{float32(2 * i)}, 3), memory)
			buffer.Close()
		}
	})
	check(t, "but not change", func(t *testing.T) {
		b := bucket(t, []float32{1, 2})
		for says, bad := range map[string]*tensor.Tensor{
			"float32[3] on cpu in place of float32[2]": tensorOf(t, tensor.Float32, []float32{1, 2, 3}),
			"float64[2] on cpu in place of float32[2]": tensorOf(t, tensor.Float64, []float32{1, 2}),
			"no buffer": nil,
		} {
			require.ErrorContains(t, b.SetBuffer(bad), says)
			require.ErrorContains(t, b.SetBuffer(bad), "bucket 2: ")
		}
		closed := tensorOf(t, tensor.Float32, []float32{1, 2})
		closed.Close()
		require.ErrorIs(t, b.SetBuffer(closed), ErrClosed)
		got, err := run(t, load(t, "noop", HookConfig{}), b)
		require.NoError(t, err)
		assert.Equal(t, []float32{1, 2}, got)
	})
}

func TestSparseIndicesReachTheHook(t *testing.T) {
	check(t, "", func(t *testing.T) {
		indices, err := tensor.FromSlice([]int64{3, 1})
		require.NoError(t, err)
		defer indices.Close()
		for _, given := range []*tensor.Tensor{indices, nil} {
			b, err := NewGradBucket(BucketConfig{Index: 0, Count: 1, Buffer: tensorOf(t, tensor.Float32, []float32{1, 2}),
				Offsets: []int64{0}, Lengths: []int64{2}, Sizes: [][]int64{{2}}, SparseIndices: given})
			require.NoError(t, err)
			var want any
			if given != nil {
				want = []any{int64(3), int64(1)}
			}
			assert.Equal(t, want, sees(t, "sees_sparse_indices", HookConfig{}, b)("indices"))
			assert.Same(t, given, b.SparseIndices())
			b.Close()
		}
	})
}

func TestABucketsPartsMustFitEachOther(t *testing.T) {
	flat := tensorOf(t, tensor.Float32, []float32{1, 2, 3, 4})
	matrix, err := tensor.New(tensor.Float32, 2, 2)
	require.NoError(t, err)
	defer matrix.Close()
	strided, err := flat.View(0, []int64{2}, []int64{2})
	require.NoError(t, err)
	defer strided.Close()
	good := func() BucketConfig {
		return BucketConfig{Index: 0, Count: 1, Buffer: flat, Offsets: []int64{0}, Lengths: []int64{4}, Sizes: [][]int64{{2, 2}}}
	}
	_, err = NewGradBucket(good())
	require.NoError(t, err)
	gradient := func(c *BucketConfig, offset, length int64, size ...int64) {
		c.Offsets, c.Lengths, c.Sizes = []int64{offset}, []int64{length}, [][]int64{size}
	}
	const huge = math.MaxInt64
	cases := map[string]struct {
		change func(*BucketConfig)
		says   string
	}{
		"an index beyond the count":  {func(c *BucketConfig) { c.Index = 1 }, "bucket 1 of 1: the index is not in 0..0"},
		"a negative index":           {func(c *BucketConfig) { c.Index = -1 }, "not in 0..0"},
		"no count":                   {func(c *BucketConfig) { c.Count = 0 }, "not in 0..-1"},
		"no buffer":                  {func(c *BucketConfig) { c.Buffer = nil }, "no buffer"},
		"a matrix":                   {func(c *BucketConfig) { c.Buffer = matrix }, "flat and contiguous, not of shape [2 2]"},
		"a strided buffer":           {func(c *BucketConfig) { c.Buffer = strided }, "with strides [2]"},
		"more offsets than lengths":  {func(c *BucketConfig) { c.Offsets = []int64{0, 1} }, "2 offsets, 1 lengths and 1 sizes"},
		"a size of another length":   {func(c *BucketConfig) { gradient(c, 0, 3, 2, 2) }, "does not fit"},
		"a negative offset":          {func(c *BucketConfig) { gradient(c, -1, 1, 1) }, "does not fit"},
		"beyond the end":             {func(c *BucketConfig) { gradient(c, 3, 2, 2) }, "does not fit a buffer of 4"},
		"negative sizes":             {func(c *BucketConfig) { gradient(c, 0, 4, -2, -2) }, "does not fit"},
		"sizes that overflow":        {func(c *BucketConfig) { gradient(c, 0, 0, 1<<32, 1<<32) }, "does not fit"},
		"an offset that overflows":   {func(c *BucketConfig) { gradient(c, huge, 1, 1) }, "does not fit"},
		"a parameter too many":       {func(c *BucketConfig) { c.Parameters = make([]*Parameter, 2) }, "2 parameters for 1 gradients"},
		"a parameter of other shape": {func(c *BucketConfig) { c.Parameters = []*Parameter{{Name: "w", Shape: []int64{4}}} }, "parameter w of shape [4]"},
		"data of other shape": {func(c *BucketConfig) { c.Parameters = []*Parameter{{Name: "w", Shape: []int64{2, 2}, Data: flat}} },
			"parameter w of shape [2 2] has data of shape [4]"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := good()
			c.change(&cfg)
			_, err := NewGradBucket(cfg)
			require.ErrorContains(t, err, c.says)
		})
	}
	cfg := good()
	cfg.Buffer = tensorOf(t, tensor.Float32, []float32{1, 2, 3, 4})
	cfg.Buffer.Close()
	_, err = NewGradBucket(cfg)
	require.ErrorIs(t, err, ErrClosed)
}

func TestABucketKeepsNoneOfTheCallersSlices(t *testing.T) {
	check(t, "", func(t *testing.T) {
		cfg := BucketConfig{Index: 0, Count: 1, Buffer: tensorOf(t, tensor.Float32, []float32{1, 2}),
			Offsets: []int64{0, 1}, Lengths: []int64{1, 1}, Sizes: [][]int64{{1}, {1}}}
		b, err := NewGradBucket(cfg)
		require.NoError(t, err)
		defer b.Close()
		cfg.Offsets[0], cfg.Lengths[0], cfg.Sizes[0][0] = 7, 7, 7
		assert.Equal(t, []any{[]any{1.0}, []any{2.0}}, sees(t, "look", HookConfig{}, b)("gradients"))
	})
}
