package ddp_test

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/ddp"
	"pyhook/pyhook"
)

func TestReducer_Wait_cancelledStepsLeaveNothing(t *testing.T) {
	steps := 1000
	if n, err := strconv.Atoi(os.Getenv("CANCELS")); err == nil {
		steps = n
	}
	noLeaks(t, func() {
		h, err := rt.NewHook("hooks:doubles", pyhook.HookConfig{})
		require.NoError(t, err)
		defer h.Close()
		params := parameters([]int64{2}, []int64{2})
		defer closeParameters(params)
		r, err := ddp.NewReducer(soon(t), params, ddp.Options{Group: world, Hook: h, BucketCapMB: twoFloats})
		require.NoError(t, err)
		defer r.Close()
		kinds := map[string]int{}
		for i := range steps {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(600))*time.Microsecond)
			setAll(t, r, 2)
			_, err := r.Wait(ctx)
			cancel()
			if err != nil {
				kinds[err.Error()]++
			}
			if i%2 == 1 && os.Getenv("NORIGHT") == "" {
				setAll(t, r, 2)
				_, err := r.Wait(soon(t))
				require.NoError(t, err)
				assert.Equal(t, float32(2), floats(r.Gradient(0))[0])
			}
		}
		for k, n := range kinds {
			t.Log(n, k)
		}
		t.Log(counters(), len(goStacks()))
	})
}
