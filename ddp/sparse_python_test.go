package ddp_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/cbridge"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
)

func TestPythonHooksReduceSparseGradients(t *testing.T) {
	for spec, want := range map[string]string{
		"allreduce": "1:4,40 5:3,30 ", "sparse_hooks:average": "1:4,40 5:3,30 ", "noop": "1:4,40 5:3,30 ", "sparse_hooks:gives_double": "1:8,80 5:6,60 ",
		"sparse_hooks:by_thread": "1:8,80 5:6,60 ", "sparse_hooks:in_place": "1:8,80 5:6,60 ",
	} {
		for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped, ddp.OrderOrdered} {
			t.Run(spec+" "+order.String(), func(t *testing.T) {
				noLeaks(t, func() {
					h, err := rt.NewHook(t.Context(), spec, pyhook.HookConfig{})
					require.NoError(t, err)
					defer h.Close()
					params := embedding()
					defer closeParameters(params)
					r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: world, Hook: h, Layout: ddp.LayoutRebuilt, Order: order})
					require.NoError(t, err)
					defer r.Close()
					for range 3 {
						g := coo(t, []int64{5, 1, 1}, 3, 1, 3)
						sparseStep(t, r, 1, g)
						g.Close()
						assert.Equal(t, want, cooText(r.SparseGradient(0)))
						sparseStep(t, r, 1, nil)
						assert.Empty(t, cooText(r.SparseGradient(0)))
					}
				})
			})
		}
	}
}

func TestASparseBucketIsWhatHooksOfPyTorchExpectWithoutACopy(t *testing.T) {
	seen := must(cbridge.Convert([]any{}))
	defer seen.Close()
	params := embedding()
	defer closeParameters(params)
	h := python(t, "sparse_hooks:sees", seen)
	r := reducer(t, params, ddp.Options{Group: world, Hook: h})
	g := coo(t, []int64{5}, 3) // one row: a result that may be the trainer's memory
	sparseStep(t, r, 1, g)
	list, err := cbridge.As[[]any](seen)
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, []any{int64(1), true, []any{int64(6), int64(2)}, int64(uintptr(g.Values.Data())), int64(uintptr(g.Indices.Data()))}, list[0])
	floats(g.Values)[0] = -1
	assert.Equal(t, "5:3,30 ", cooText(r.SparseGradient(0)), "the result is not the trainer's memory")
}

func TestABadPythonHookForASparseBucketIsAStepErrorAndTheNextStepWorks(t *testing.T) {
	for spec, c := range map[string]struct {
		kind error
		says string
	}{
		"gives_dense":       {c10d.ErrSparse, "a torch.strided tensor for a bucket of layout torch.sparse_coo"},
		"gives_rows":        {c10d.ErrSparse, "torch.sparse_csr"},
		"gives_other_shape": {c10d.ErrShort, "shape (6, 3), not (6, 2)"},
		"gives_two_dims":    {c10d.ErrSparse, "2 sparse dimensions, not 1"},
		"gives_complex":     {c10d.ErrComplex, "imaginary"},
		"gives_none_value":  {c10d.ErrNotTensor, "None"},
		"gives_meta":        {c10d.ErrSparse, "layout"},
		"returns_none":      {c10d.ErrNoneResult, "(None)"},
		"raises":            {c10d.ErrRaised, "ValueError: boom"},
		"no_such_operation": {c10d.ErrRaised, "hint: the bucket's buffer is a sparse gradient"},
		"fails_later":       {c10d.ErrFutureFailed, "hint: the bucket's buffer is a sparse gradient"},
	} {
		t.Run(spec, func(t *testing.T) {
			noLeaks(t, func() {
				h, err := rt.NewHook(t.Context(), "sparse_hooks:"+spec, pyhook.HookConfig{})
				require.NoError(t, err)
				defer h.Close()
				params := embedding()
				defer closeParameters(params)
				r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: world, Hook: h})
				require.NoError(t, err)
				defer r.Close()
				for range 2 {
					g := coo(t, []int64{5, 1}, 3, 1)
					floats(r.Gradient(1))[0] = 7
					require.NoError(t, r.Ready(1))
					require.NoError(t, r.ReadySparse(0, g))
					_, err = r.Wait(testutil.Soon(t))
					g.Close()
					require.ErrorIs(t, err, c.kind)
					require.ErrorContains(t, err, c.says)
					var step *ddp.StepError
					require.ErrorAs(t, err, &step)
					assert.Equal(t, 1, step.Bucket)
					var of *c10d.Error
					require.ErrorAs(t, err, &of)
					assert.Equal(t, 1, of.Bucket)
					assert.Equal(t, 0, of.Rank)
					assert.Nil(t, r.SparseGradient(0))
				}
			})
		})
	}
}

// PyTorch's PowerSGD leaves sparse gradients unreduced without a word, and its
// other compressing hooks raise what torch happens to.
func TestPyTorchsCompressingHooksOnASparseGradient(t *testing.T) {
	for _, c := range []struct {
		spec string
		kind error
		says string
	}{
		{"powersgd", c10d.ErrSparse, "powerSGD_hook does not reduce sparse gradients"},
		{"batched_powersgd", c10d.ErrSparse, "batched_powerSGD_hook does not reduce sparse gradients"},
		{"fp16_wrapper(powersgd)", c10d.ErrSparse, "powerSGD_hook does not reduce sparse gradients"},
		{"quantize_perchannel", c10d.ErrRaised, "hint: the bucket's buffer is a sparse gradient"},
	} {
		t.Run(c.spec, func(t *testing.T) {
			params := embedding()[:1] // of a dense bucket before it, a quantised one's future would never end
			defer closeParameters(params)
			var state any
			if c.kind == c10d.ErrSparse {
				made, err := rt.NewState(t.Context(), "powersgd", map[string]any{"start_powerSGD_iter": 2}, world)
				require.NoError(t, err)
				defer made.Close()
				state = made
			}
			r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, c.spec, state)})
			require.NoError(t, r.ReadySparse(0, coo(t, []int64{1}, 1)))
			_, err := r.Wait(testutil.Soon(t))
			require.ErrorIs(t, err, c.kind)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// The hook guide's way to compress the other buckets.
func TestPowerSGDAroundSparseBuckets(t *testing.T) {
	state, err := rt.NewState(t.Context(), "powersgd", map[string]any{"start_powerSGD_iter": 2, "min_compression_rate": 0.1}, world)
	require.NoError(t, err)
	defer state.Close()
	params := parameters([]int64{4, 4}, []int64{6, 2})
	params[1].Sparse = true
	defer closeParameters(params)
	r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, "sparse_hooks:powersgd_but_sparse", state)})
	assert.Equal(t, [][]int{{1}, {0}}, r.Buckets(), "the dense bucket is the last one")
	for step := range 4 {
		for k := range floats(r.Gradient(0)) {
			floats(r.Gradient(0))[k] = float32(k*k%7 - step)
		}
		require.NoError(t, r.Ready(0))
		require.NoError(t, r.ReadySparse(1, coo(t, []int64{5, 1, 1}, 3, 1, 3)))
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err)
		assert.Equal(t, "1:4,40 5:3,30 ", cooText(r.SparseGradient(1)))
		_, exact := math.Modf(float64(floats(r.Gradient(0))[1]))
		assert.Equal(t, step < 2, exact == 0, "step %d: compressed from the second on", step)
	}
}

func TestAClosedHookFailsTheSparseBucket(t *testing.T) {
	params := embedding()
	defer closeParameters(params)
	h := python(t, "allreduce", nil)
	g := coo(t, []int64{1}, 1)
	b, err := c10d.NewSparseGradBucket(0, 1, params[0], g)
	require.NoError(t, err)
	defer b.Close()
	assert.True(t, b.IsLast())
	assert.Equal(t, []any{0, 1, params[0], int64(1)}, []any{b.Index(), b.Count(), b.Parameters()[0], b.Sparse().NNZ()})
	_, err = h.ParseSparseHookResult(b, c10d.TensorResult{Tensor: tensorOf(t, 1)})
	require.ErrorIs(t, err, c10d.ErrBadResult)
	h.Close()
	_, err = h.RunHook(testutil.Soon(t), b)
	require.ErrorIs(t, err, c10d.ErrClosed)
	_, err = c10d.NewSparseGradBucket(1, 1, params[0], g)
	require.ErrorContains(t, err, "bucket 1 of 1")
	half := &c10d.Parameter{Name: "half", Shape: []int64{1, 1}, DType: tensor.Float16}
	rows := must(c10d.NewSparseGradient(half, 1, 1))
	defer rows.Close()
	_, err = hooks.AverageSparse(testutil.Soon(t), world, half, rows)
	require.ErrorIs(t, err, c10d.ErrSparseGradient)
	require.ErrorContains(t, err, "only float32 and float64")
	_, err = c10d.NewSparseGradient(half, 3, 1)
	require.ErrorIs(t, err, c10d.ErrSparseGradient)
}
