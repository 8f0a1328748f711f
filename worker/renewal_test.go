package worker_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/tensor"
	"pyhook/worker"
)

// TestWorker_Renew_afterAnException: rank 1's hook raises in bucket 1 of its second step. Both ranks have
// that error, and their next steps are right, with buckets of one size and of several.
func TestWorker_Renew_afterAnException(t *testing.T) {
	for name, sizes := range map[string][]int64{"equal buckets": {3, 3, 3}, "unequal buckets": {2, 3, 5}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			workers := start(t, 2, worker.Config{Timeout: 20 * time.Second, StartTimeout: time.Minute})
			raised := filepath.Join(t.TempDir(), "raised")
			failures := make([][]string, 2)
			errs := onRanks(2, func(rank int) error {
				w := workers[rank]
				state := worker.State{Spec: "raises_once:State", Args: map[string]any{"raised": raised}}
				hook, err := w.NewHook(ctx, "raises_once:hook", worker.HookConfig{State: state})
				if err != nil {
					return err
				}
				defer hook.Close()
				var params []*c10d.Parameter
				for i, n := range sizes {
					params = append(params, &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: []int64{n}, DType: tensor.Float32})
				}
				r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: w.Group(), Hook: hook, Rollback: true, BucketCapMB: 1e-6})
				if err != nil {
					return err
				}
				defer r.Close()
				for step := range 4 {
					err := ddp.Retry(ctx, r, func() error {
						for i := len(params) - 1; i >= 0; i-- {
							fill(t, r.Gradient(i), float32(10*step+i+rank))
							if err := r.Ready(i); err != nil {
								return err
							}
						}
						_, err := r.Wait(ctx)
						var failed *ddp.StepError
						if errors.As(err, &failed) {
							failures[rank] = append(failures[rank], fmt.Sprintf("step %d: rank %d, bucket %d: %s", step, failed.Origin, failed.Bucket, string(failed.Code)))
							assert.ErrorContains(t, err, "ValueError: only once")
						}
						return err
					})
					if err != nil {
						return err
					}
					for i := range params {
						g, err := tensor.Slice[float32](r.Gradient(i))
						if err != nil {
							return err
						}
						for _, x := range g {
							assert.Equal(t, float32(2*(10*step+i)+1), x, "step %d, parameter %d", step, i)
						}
					}
				}
				return nil
			})
			require.NoError(t, errors.Join(errs...))
			want := []string{"step 1: rank 1, bucket 1: hook_raised"}
			assert.Equal(t, [][]string{want, want}, failures)
		})
	}
}

func fill(t *testing.T, gradient *tensor.Tensor, value float32) {
	t.Helper()
	g, err := tensor.Slice[float32](gradient)
	assert.NoError(t, err)
	for k := range g {
		g[k] = value
	}
}

// TestWorker_Renew trains with PowerSGD, whose state counts steps and has each rank's own error
// feedback. Rank 1's worker is killed in each second step, once before a hook call and once within
// the step. All ranks have the same error, and the run ends with the bits of the one without kills.
func TestWorker_Renew(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	const steps = 6
	run := func(kill func(w *worker.Worker, step, tries int)) ([][]float32, [][]c10d.Code) {
		workers := start(t, 2, worker.Config{Timeout: 20 * time.Second, StartTimeout: time.Minute})
		weights, codes := make([][]float32, 2), make([][]c10d.Code, 2)
		errs := onRanks(2, func(rank int) error {
			w := workers[rank]
			hook, err := w.NewHook(ctx, "powersgd", worker.HookConfig{State: worker.State{Spec: "powersgd", Args: map[string]any{
				"matrix_approximation_rank": 1, "start_powerSGD_iter": 2, "min_compression_rate": 0.5}}})
			if err != nil {
				return err
			}
			defer hook.Close()
			params := []*c10d.Parameter{{Name: "w", Shape: []int64{6, 5}, DType: tensor.Float32}, {Name: "v", Shape: []int64{4, 7}, DType: tensor.Float32}}
			r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: w.Group(), Hook: hook, Rollback: true, BucketCapMB: 1e-6})
			if err != nil {
				return err
			}
			defer r.Close()
			for step := range steps {
				tries := 0
				err := ddp.Retry(ctx, r, func() error {
					for i := range params {
						g, err := tensor.Slice[float32](r.Gradient(i))
						if err != nil {
							return err
						}
						for k := range g {
							g[k] = float32((step+1)*(k%7) + rank*(i+k%3))
						}
						if rank == 1 && i == step/2%2 {
							kill(w, step, tries)
						}
						if err := r.Ready(i); err != nil {
							return err
						}
					}
					tries++
					_, err := r.Wait(ctx)
					var failed *ddp.StepError
					if errors.As(err, &failed) {
						codes[rank] = append(codes[rank], failed.Code)
					}
					return err
				})
				if err != nil {
					return err
				}
				for i := range params {
					g, err := tensor.Slice[float32](r.Gradient(i))
					if err != nil {
						return err
					}
					weights[rank] = append(weights[rank], g...)
				}
			}
			return nil
		})
		require.NoError(t, errors.Join(errs...))
		return weights, codes
	}
	want, none := run(func(*worker.Worker, int, int) {})
	got, codes := run(func(w *worker.Worker, step, tries int) {
		if step%2 == 1 && tries == 0 {
			_ = syscall.Kill(w.Pid(), syscall.SIGKILL)
		}
	})
	assert.Equal(t, want, got)
	assert.Equal(t, [][]c10d.Code{nil, nil}, none)
	assert.Len(t, codes[0], steps/2)
	assert.Equal(t, codes[0], codes[1])
}
