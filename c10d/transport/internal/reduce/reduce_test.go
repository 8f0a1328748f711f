package reduce_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d/transport/internal/reduce"
	"pyhook/tensor"
)

// into reduces rows of numbers in dtype d and reads the result as float64.
func into(t *testing.T, op string, d tensor.DType, rows ...[]float64) []float64 {
	t.Helper()
	parts := make([]*tensor.Tensor, len(rows))
	for i, row := range rows {
		from, err := tensor.FromSlice(row)
		require.NoError(t, err)
		defer from.Close()
		parts[i], err = tensor.New(d, int64(len(row)))
		require.NoError(t, err)
		defer parts[i].Close()
		require.NoError(t, tensor.Copy(parts[i], from))
	}
	require.NoError(t, reduce.Into(op, parts[len(parts)-1], parts))
	wide, err := tensor.New(tensor.Float64, int64(len(rows[0])))
	require.NoError(t, err)
	defer wide.Close()
	require.NoError(t, tensor.Copy(wide, parts[len(parts)-1]))
	out, err := tensor.Slice[float64](wide)
	require.NoError(t, err)
	return append([]float64{}, out...)
}

func TestInto(t *testing.T) {
	want := map[string][]float64{
		reduce.Sum: {9, 9, 10}, reduce.Product: {15, 12, 14}, reduce.Min: {1, 1, 1}, reduce.Max: {5, 6, 7},
		reduce.BAnd: {1, 0, 0}, reduce.BOr: {7, 7, 7}, reduce.BXor: {7, 5, 4},
	}
	for _, d := range tensor.DTypes() {
		for op, numbers := range want {
			t.Run(d.String()+" "+op, func(t *testing.T) {
				if !reduce.Supported(op, d) {
					t.Skip("has no meaning")
				}
				if d == tensor.Bool {
					numbers = map[string][]float64{reduce.Sum: {1, 1, 0}, reduce.Product: {1, 0, 0}, reduce.Min: {1, 0, 0},
						reduce.Max: {1, 1, 0}, reduce.BAnd: {1, 0, 0}, reduce.BOr: {1, 1, 0}, reduce.BXor: {0, 1, 0}}[op]
					assert.Equal(t, numbers, into(t, op, d, []float64{1, 1, 0}, []float64{1, 0, 0}))
					return
				}
				assert.Equal(t, numbers, into(t, op, d, []float64{5, 6, 7}, []float64{1, 1, 2}, []float64{3, 2, 1}))
			})
		}
	}
}

func TestInto_values(t *testing.T) {
	t.Run("half precision is rounded once", func(t *testing.T) {
		// 2048+1 rounds to 2048 in float16: added one by one, the ones would be lost.
		assert.Equal(t, []float64{2050}, into(t, reduce.Sum, tensor.Float16, []float64{2048}, []float64{1}, []float64{1}))
	})
	t.Run("a NaN wins", func(t *testing.T) {
		for _, op := range []string{reduce.Min, reduce.Max, reduce.Sum} {
			got := into(t, op, tensor.Float32, []float64{1, math.NaN()}, []float64{math.NaN(), 1})
			assert.True(t, math.IsNaN(got[0]) && math.IsNaN(got[1]), "%s: %v", op, got)
		}
	})
	t.Run("every element of several blocks", func(t *testing.T) {
		rows := [][]float64{make([]float64, 5000), make([]float64, 5000)}
		want := make([]float64, 5000)
		for i := range want {
			rows[0][i], rows[1][i], want[i] = float64(i), 1, float64(i+1)
		}
		assert.Equal(t, want, into(t, reduce.Sum, tensor.Float64, rows...))
	})
}

func TestInto_refused(t *testing.T) {
	t.Run("an operation without a meaning for the dtype", func(t *testing.T) {
		for _, c := range []struct {
			op string
			d  tensor.DType
		}{{reduce.BAnd, tensor.Float32}, {reduce.Min, tensor.Complex64}, {reduce.Sum, tensor.Float8E5M2}, {"PREMUL_SUM", tensor.Float32}} {
			x, err := tensor.New(c.d, 1)
			require.NoError(t, err)
			assert.ErrorContains(t, reduce.Into(c.op, x, []*tensor.Tensor{x, x}), c.op+" of "+c.d.String())
			x.Close()
		}
	})
}
