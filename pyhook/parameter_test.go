package pyhook

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

func TestParametersAreTheSameObjectsInEachStep(t *testing.T) {
	config := func(t *testing.T, params []*c10d.Parameter) c10d.BucketConfig {
		return c10d.BucketConfig{Index: 0, Count: 1, Buffer: tensorOf(t, tensor.Float32, []float32{1, 2, 3, 4, 5}),
			Offsets: []int64{0, 4}, Lengths: []int64{4, 1}, Sizes: [][]int64{{2, 2}, {1}}, Parameters: params}
	}
	param := func(name string, shape ...int64) *c10d.Parameter {
		return &c10d.Parameter{Name: name, Shape: shape, DType: tensor.Float32}
	}
	for name, params := range map[string][]*c10d.Parameter{
		"given":      {param("w", 2, 2), param("b", 1)},
		"some given": {nil, param("b", 1)},
		"none given": nil,
	} {
		check(t, name, func(t *testing.T) {
			b, err := c10d.NewGradBucket(config(t, params))
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
			b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: index, Count: 2, Buffer: tensorOf(t, tensor.Float32, []float32{1}),
				Offsets: []int64{0}, Lengths: []int64{1}, Sizes: [][]int64{{1}}, Parameters: []*c10d.Parameter{p}})
			require.NoError(t, err)
			defer b.Close()
			ids = append(ids, sees(t, "looks_at_parameters", HookConfig{}, b)("ids"))
		}
		assert.Equal(t, ids[0], ids[1])
	})
}

func TestParameterObject_gradientIsTheBucketsMemory(t *testing.T) {
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
		p := &c10d.Parameter{Name: "w", Shape: []int64{3}, DType: tensor.Float32, Data: data}
		b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 0, Count: 1, Buffer: tensorOf(t, tensor.Float32, []float32{2, 4, 6}),
			Offsets: []int64{0}, Lengths: []int64{3}, Sizes: [][]int64{{3}}, Parameters: []*c10d.Parameter{p}})
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
		require.ErrorContains(t, b.SetBuffer(tensorOf(t, tensor.Float32, []float32{1, 2, 3})), "bucket 2: ")
		got, err := run(t, load(t, "noop", HookConfig{}), b)
		require.NoError(t, err)
		assert.Equal(t, []float32{1, 2}, got)
	})
}

func TestABucketKeepsNoneOfTheCallersSlices(t *testing.T) {
	check(t, "", func(t *testing.T) {
		cfg := c10d.BucketConfig{Index: 0, Count: 1, Buffer: tensorOf(t, tensor.Float32, []float32{1, 2}),
			Offsets: []int64{0, 1}, Lengths: []int64{1, 1}, Sizes: [][]int64{{1}, {1}}}
		b, err := c10d.NewGradBucket(cfg)
		require.NoError(t, err)
		defer b.Close()
		cfg.Offsets[0], cfg.Lengths[0], cfg.Sizes[0][0] = 7, 7, 7
		assert.Equal(t, []any{[]any{1.0}, []any{2.0}}, sees(t, "look", HookConfig{}, b)("gradients"))
	})
}
