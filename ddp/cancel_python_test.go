package ddp_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// cancels is how many steps are cancelled: PYHOOK_CANCELS of them, or 1000.
func cancels() int {
	if n, err := strconv.Atoi(os.Getenv("PYHOOK_CANCELS")); err == nil {
		return n
	}
	return often(1000)
}

// Each is cancelled at a random moment within 0.6 ms, and followed by a step that must be right.
func TestReducer_Wait_cancelledStepsLeaveNothing(t *testing.T) {
	for hook, n := range map[string]int{"doubles": cancels(), "doubles_by_its_own_future": cancels() / 5, "doubles_at_length": cancels() / 5} {
		t.Run(hook, func(t *testing.T) {
			noLeaks(t, func() {
				h, err := rt.NewHook(t.Context(), "hooks:"+hook, pyhook.HookConfig{})
				require.NoError(t, err)
				defer h.Close()
				params := parameters([]int64{2}, []int64{2})
				defer closeParameters(params)
				r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: world, Hook: h, BucketCapMB: twoFloats})
				require.NoError(t, err)
				defer r.Close()
				cut, most := 0, int64(0)
				for i := range n {
					if cancelledStep(t, r) {
						cut++
					}
					setAll(t, r, 2)
					_, err := r.Wait(testutil.Soon(t))
					require.NoError(t, err, "the step after the cancelled one %d", i)
					for k := range 2 {
						want := 2 * float32(k+1)
						require.Equal(t, []float32{want, want}, floats(r.Gradient(k)), "step %d", i)
					}
					most = max(most, tensor.LiveMemory())
				}
				t.Logf("%d of %d steps were cut short; at most %d memories at once", cut, n, most)
				assert.NotZero(t, cut)
				// Two in use, for each the one of before, and what a collective still works on.
				assert.LessOrEqual(t, most, int64(12))
			})
		})
	}
}

// cancelledStep returns whether the step was cut short. It may be done before.
func cancelledStep(t *testing.T, r *ddp.Reducer) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(600))*time.Microsecond)
	defer cancel()
	setAll(t, r, 2)
	_, err := r.Wait(ctx)
	if err == nil {
		return false
	}
	var step *ddp.StepError
	require.ErrorAs(t, err, &step)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	for _, other := range []error{c10d.ErrRaised, c10d.ErrFutureFailed, c10d.ErrClosed, c10d.ErrBadResult} {
		require.NotErrorIs(t, err, other)
	}
	require.Equal(t, errors.Is(err, c10d.ErrInterrupted), strings.Contains(strings.ToLower(err.Error()), "interrupted"), "%v", err)
	return true
}
