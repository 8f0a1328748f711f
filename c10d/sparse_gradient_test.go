package c10d_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

// made makes a tensor of a shape and closes it with the test.
func made[T tensor.Element](t *testing.T, values []T, shape ...int64) *tensor.Tensor {
	t.Helper()
	x, err := tensor.FromSlice(values, shape...)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	return x
}

func TestASparseGradientMustFitItsParameter(t *testing.T) {
	p := &c10d.Parameter{Name: "table", Shape: []int64{4, 2}, DType: tensor.Float32, Sparse: true}
	rows, values := made(t, []int64{1, 3, 1}, 1, 3), made(t, []float32{1, 2, 3, 4, 5, 6}, 3, 2)
	strided, err := values.View(0, []int64{3, 2}, []int64{1, 3})
	require.NoError(t, err)
	defer strided.Close()
	closed := made(t, []int64{0}, 1, 1)
	closed.Close()
	for name, c := range map[string]struct {
		g    *c10d.SparseGradient
		says string // empty: it fits
	}{
		"rows, one twice":        {&c10d.SparseGradient{Indices: rows, Values: values}, ""},
		"no rows":                {&c10d.SparseGradient{Indices: made(t, []int64{}, 1, 0), Values: made(t, []float32{}, 0, 2)}, ""},
		"two sparse dimensions":  {&c10d.SparseGradient{Indices: made(t, []int64{0, 3, 1, 0}, 2, 2), Values: made(t, []float32{1, 2}, 2)}, ""},
		"nil":                    {nil, "it is nil"},
		"no tensors":             {&c10d.SparseGradient{}, "indices or values are nil"},
		"a closed tensor":        {&c10d.SparseGradient{Indices: closed, Values: values}, "the indices: "},
		"other values than rows": {&c10d.SparseGradient{Indices: rows, Values: made(t, []float32{1, 2}, 1, 2)}, "for 3 rows"},
		"another dtype":          {&c10d.SparseGradient{Indices: rows, Values: made(t, make([]float64, 6), 3, 2)}, "the values are float64[3 2]"},
		"indices of int32":       {&c10d.SparseGradient{Indices: made(t, []int32{1, 3, 1}, 1, 3), Values: values}, "not int64 of shape"},
		"flat indices":           {&c10d.SparseGradient{Indices: made(t, []int64{1, 3, 1}, 3), Values: values}, "not int64 of shape"},
		"too many dimensions":    {&c10d.SparseGradient{Indices: made(t, []int64{0, 0, 0}, 3, 1), Values: values}, "for a parameter of shape [4 2]"},
		"a row beyond the end":   {&c10d.SparseGradient{Indices: made(t, []int64{1, 4, 1}, 1, 3), Values: values}, "index 4 of row 1 is not in 0..3"},
		"a negative row":         {&c10d.SparseGradient{Indices: made(t, []int64{1, 3, -1}, 1, 3), Values: values}, "index -1 of row 2"},
		"strided values":         {&c10d.SparseGradient{Indices: rows, Values: strided}, "not contiguous CPU memory"},
	} {
		t.Run(name, func(t *testing.T) {
			before := tensor.LiveTensors()
			b, err := c10d.NewSparseGradBucket(1, 2, p, c.g)
			if c.says != "" {
				require.ErrorIs(t, err, c10d.ErrSparseGradient)
				require.ErrorContains(t, err, c.says)
				require.ErrorContains(t, err, "bucket 1, table: ")
				assert.Equal(t, before, tensor.LiveTensors())
				return
			}
			require.NoError(t, err)
			assert.Nil(t, b.Buffer())
			assert.Equal(t, []any{1, 2, true, []*c10d.Parameter{p}}, []any{b.Index(), b.Count(), b.IsLast(), b.Parameters()})
			assert.NotSame(t, c.g.Values, b.Sparse().Values, "handles of its own")
			assert.Equal(t, c.g.Values.Data(), b.Sparse().Values.Data(), "on the same memory")
			assert.ErrorContains(t, b.SetBuffer(values), "bucket 1")
			b.Close()
			b.Close()
			assert.Equal(t, before, tensor.LiveTensors())
		})
	}
	_, err = c10d.NewSparseGradBucket(2, 2, p, &c10d.SparseGradient{Indices: rows, Values: values})
	require.ErrorContains(t, err, "bucket 2 of 2: the index is not in 0..1")
	_, err = c10d.NewSparseGradient(p, 3, 1)
	require.ErrorIs(t, err, c10d.ErrSparseGradient)
	_, err = c10d.NewSparseGradient(p, 0, 1)
	require.ErrorIs(t, err, c10d.ErrSparseGradient)
}

func TestSparseGradient_Keys(t *testing.T) {
	p := &c10d.Parameter{Shape: []int64{4, 5, 2}, DType: tensor.Float32}
	g, err := c10d.NewSparseGradient(p, 2, 3)
	require.NoError(t, err)
	defer g.Close()
	assert.Equal(t, []int64{3, 2}, g.Values.Shape())
	keys := []int64{0, 13, 19} // (0, 0), (2, 3), (3, 4)
	require.NoError(t, g.SetKeys(keys, p.Shape))
	indices, err := tensor.Slice[int64](g.Indices)
	require.NoError(t, err)
	assert.Equal(t, []int64{0, 2, 3, 0, 3, 4}, indices)
	got, err := g.Keys(p.Shape)
	require.NoError(t, err)
	assert.Equal(t, keys, got)
	_, err = g.Keys([]int64{1 << 62, 1 << 62, 2})
	require.ErrorIs(t, err, c10d.ErrSparseGradient)
}
