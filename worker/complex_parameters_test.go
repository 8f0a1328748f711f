package worker_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
	"pyhook/worker"
)

// As in the process itself: a real bucket where the worker's torch has one, else
// c10d.ErrComplex.
func TestHook_ComplexParameters(t *testing.T) {
	t.Run("a real bucket where torch has one, else ErrComplex", func(t *testing.T) {
		w := shared(t)
		h := hook(t, w, "allreduce", worker.HookConfig{})
		params := []*c10d.Parameter{{Name: "c", Shape: []int64{2}, DType: tensor.Complex64}}
		defer params[0].Close()
		r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: w.Group(), Hook: h})
		if refused := h.ComplexParameters(); refused != nil {
			require.ErrorIs(t, refused, c10d.ErrComplex)
			require.ErrorIs(t, err, c10d.ErrComplex)
			require.ErrorContains(t, err, "DistributedDataParallel of torch ")
			require.False(t, strings.Contains(err.Error(), "of torch 2.15"), err)
			return
		}
		require.NoError(t, err)
		defer r.Close()
		gradient, err := tensor.Slice[complex64](r.Gradient(0))
		require.NoError(t, err)
		for range 3 {
			copy(gradient, []complex64{1 + 2i, -3 + 4i})
			require.NoError(t, r.Ready(0))
			_, err = r.Wait(testutil.Soon(t))
			require.NoError(t, err)
			assert.Equal(t, []complex64{1 + 2i, -3 + 4i}, gradient)
		}
	})
}
