package ddp_test

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// complexParameters are two complex ones with a real one between them.
func complexParameters(t *testing.T) []*c10d.Parameter {
	t.Helper()
	params := parameters([]int64{2}, []int64{3}, []int64{1, 2})
	params[0].DType, params[2].DType = tensor.Complex64, tensor.Complex64
	t.Cleanup(func() { closeParameters(params) })
	return params
}

func complexes(t *tensor.Tensor) []complex64 { return must(tensor.Slice[complex64](t)) }

// doubling is a Go hook whose result is other memory, twice the bucket, of a dtype.
type doubling struct {
	t     *testing.T
	dtype tensor.DType
	n     int64
}

func (h doubling) RunHook(_ context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	n := h.n
	if n == 0 {
		n = b.Buffer().Len()
	}
	to := must(tensor.New(h.dtype, n))
	if n == b.Buffer().Len() {
		require.NoError(h.t, tensor.Scale(b.Buffer(), b.Buffer(), 2))
		require.NoError(h.t, tensor.Copy(to, b.Buffer()))
	}
	return c10d.CompletedFuture[c10d.Result](c10d.TensorResult{Tensor: to, Owned: true}, nil), nil
}

func (h doubling) ParseHookResult(_ *c10d.GradBucket, v c10d.Result) (*tensor.Tensor, error) {
	return c10d.ParseTensor(v)
}

func TestHooksGetTheRealPartsOfComplexParameters(t *testing.T) {
	noLeaks(t, func() {
		t.Run("", func(t *testing.T) {
			for _, opts := range []ddp.Options{{}, {Rollback: true}, {Layout: ddp.LayoutRebuilt}, {CheckFinite: true}} {
				opts.Hook = doubling{t: t, dtype: tensor.Float64}
				r := reducer(t, complexParameters(t), opts)
				for range 3 {
					copy(complexes(r.Gradient(0)), []complex64{1 + 2i, -3 + 4i})
					copy(complexes(r.Gradient(2)), []complex64{5i, 6})
					copy(floats(r.Gradient(1)), []float32{7, 8, 9})
					assert.Equal(t, []int64{1, 2}, r.Gradient(2).Shape())
					for i := range 3 {
						require.NoError(t, r.Ready(i))
					}
					_, err := r.Wait(testutil.Soon(t))
					require.NoError(t, err)
					assert.Equal(t, []complex64{2 + 4i, -6 + 8i}, complexes(r.Gradient(0)))
					assert.Equal(t, []complex64{10i, 12}, complexes(r.Gradient(2)))
					assert.Equal(t, []float32{14, 16, 18}, floats(r.Gradient(1)))
				}
				assert.Len(t, r.Buckets(), 2, "real and complex apart")
			}
		})
	})
}

func TestAComplexResultForRealPartsIsRefused(t *testing.T) {
	for _, h := range []doubling{{t: t, dtype: tensor.Complex64}, {t: t, dtype: tensor.Complex64, n: 2}} {
		r := reducer(t, complexParameters(t)[:1], ddp.Options{Hook: h})
		copy(complexes(r.Gradient(0)), []complex64{1 + 2i, -3 + 4i})
		require.NoError(t, r.Ready(0))
		_, err := r.Wait(testutil.Soon(t))
		require.ErrorIs(t, err, c10d.ErrComplex)
	}
	r := reducer(t, parameters([]int64{2}), ddp.Options{Hook: doubling{t: t, dtype: tensor.Complex64}})
	set(t, r, 0, 1)
	_, err := r.Wait(testutil.Soon(t))
	require.ErrorIs(t, err, c10d.ErrComplex, "nor for real parameters")
}

// The reduced gradient goes back to the trainer's memory, and a real one has no place
// for the imaginary parts.
func TestGradientsOfTheOtherKindAreRefused(t *testing.T) {
	params := complexParameters(t)
	r := reducer(t, params, ddp.Options{Unused: ddp.UnusedFind})
	for i, dtype := range map[int]tensor.DType{0: tensor.Float32, 1: tensor.Complex64} {
		g := must(tensor.New(dtype, params[i].Shape...))
		defer g.Close()
		require.ErrorIs(t, r.ReadyFrom(i, g), c10d.ErrComplex)
		require.ErrorIs(t, r.MarkUnusedInto(i, g), c10d.ErrComplex)
	}
	wide := must(tensor.FromSlice([]complex128{1 + 2i, 3}))
	defer wide.Close()
	require.NoError(t, r.ReadyFrom(0, wide))
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	assert.Equal(t, []complex128{1 + 2i, 3}, must(tensor.Slice[complex128](wide)))
}

func TestANaNInAnImaginaryPartIsNamedByItsParameter(t *testing.T) {
	r := reducer(t, complexParameters(t), ddp.Options{Hook: doubling{t: t, dtype: tensor.Float32}, CheckFinite: true})
	complexes(r.Gradient(2))[1] = complex(1, float32(math.NaN()))
	for i := range 3 {
		require.NoError(t, r.Ready(i))
	}
	_, err := r.Wait(testutil.Soon(t))
	require.ErrorIs(t, err, c10d.ErrNonFinite)
	require.ErrorContains(t, err, "element 1 of parameter p2")
}
