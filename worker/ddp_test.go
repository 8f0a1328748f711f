package worker_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/worker"
)

// model is some buckets, with matrices that PowerSGD compresses.
func model() []*c10d.Parameter {
	var params []*c10d.Parameter
	for i, shape := range [][]int64{{48, 32}, {48}, {32, 48}, {32}, {16, 32}, {16}, {64, 16}} {
		params = append(params, &c10d.Parameter{Name: fmt.Sprintf("p%d", i), Shape: shape, DType: tensor.Float32})
	}
	return params
}

// bucketCap in MiB: several buckets of the model.
const bucketCap = 8.0 / 1024

// backward writes the gradients of a step, different on each rank, and marks them.
func backward(r *ddp.Reducer, rank, step, params int) error {
	random := rand.New(rand.NewPCG(uint64(rank), uint64(step)))
	for i := params - 1; i >= 0; i-- {
		g, err := tensor.Slice[float32](r.Gradient(i))
		if err != nil {
			return err
		}
		for k := range g {
			g[k] = float32(random.NormFloat64())
		}
		if err := r.Ready(i); err != nil {
			return err
		}
	}
	return nil
}

// trained is a digest of all gradients of some steps, bit by bit.
func trained(ctx context.Context, group c10d.ProcessGroup, hook c10d.CommHook, steps int) (string, error) {
	params := model()
	defer func() {
		for _, p := range params {
			p.Close()
		}
	}()
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: group, Hook: hook, BucketCapMB: bucketCap})
	if err != nil {
		return "", err
	}
	defer r.Close()
	digest := sha256.New()
	for step := range steps {
		if err := backward(r, group.Rank(), step, len(params)); err != nil {
			return "", err
		}
		if _, err := r.Wait(ctx); err != nil {
			return "", err
		}
		for i := range params {
			bytes, err := tensor.RawBytes(r.Gradient(i))
			if err != nil {
				return "", err
			}
			digest.Write(bytes)
		}
	}
	return fmt.Sprintf("%x", digest.Sum(nil)), nil
}

const parityState, paritySteps = "powersgd", 6

var powerSGD = map[string]any{"matrix_approximation_rank": 2, "start_powerSGD_iter": 2}

// spec of each hook, and what state it has.
var parityHooks = []struct{ spec, state string }{{"allreduce", ""}, {"fp16", ""}, {"powersgd", parityState}}

// inProcess trains with the hooks in the rank's own process.
func inProcess(ctx context.Context, r *ranks.Rank) error {
	rt, err := pyhook.Start(ctx, pyhook.Config{})
	if err != nil {
		return err
	}
	group, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo"})
	if err != nil {
		return err
	}
	refused, err := group.DTypes(ctx)
	if err != nil {
		return err
	}
	digests := map[string]string{}
	for _, c := range parityHooks {
		if c.spec == "fp16" && refused["float16"] != "" {
			continue
		}
		cfg := pyhook.HookConfig{}
		if c.state != "" {
			if cfg.State, err = rt.NewState(ctx, c.state, powerSGD, group); err != nil {
				return err
			}
		}
		hook, err := rt.NewHook(ctx, c.spec, cfg)
		if err != nil {
			return err
		}
		if digests[c.spec], err = trained(ctx, group, hook, paritySteps); err != nil {
			return fmt.Errorf("%s: %w", c.spec, err)
		}
	}
	if digests["none"], err = trained(ctx, group, nil, paritySteps); err != nil {
		return err
	}
	return r.Report(digests)
}

func TestHook_InAReducer(t *testing.T) {
	t.Run("steps are bitwise those of this process", func(t *testing.T) {
		for _, size := range []int{1, 2, 4} {
			t.Run(fmt.Sprint(size, " ranks"), func(t *testing.T) {
				job := ranks.Run(t, size, "in-process", nil)
				workers := start(t, size, worker.Config{})
				for _, err := range onRanks(size, func(rank int) error {
					w := workers[rank]
					want := ranks.Result[map[string]string](t, job, rank)
					for _, c := range parityHooks {
						if want[c.spec] == "" {
							continue // this gloo does not reduce the dtype
						}
						cfg := worker.HookConfig{SnapshotEvery: 2}
						if c.state != "" {
							cfg.State = worker.State{Spec: c.state, Args: powerSGD}
						}
						h, err := w.NewHook(t.Context(), c.spec, cfg)
						if err != nil {
							return err
						}
						defer h.Close()
						got, err := trained(testutil.Soon(t), w.Group(), h, paritySteps)
						if err != nil {
							return fmt.Errorf("%s: %w", c.spec, err)
						}
						assert.Equal(t, want[c.spec], got, c.spec)
					}
					got, err := trained(testutil.Soon(t), w.Group(), nil, paritySteps)
					assert.Equal(t, want["none"], got, "no hook")
					return err
				}) {
					require.NoError(t, err)
				}
			})
		}
	})
}

// TestWorker_Restart_Rollback: a worker dies in the middle of a step of PowerSGD. The
// gradients stay, the state restored, and the run is bit by bit the one in
// which nothing happened.
func TestWorker_Restart_Rollback(t *testing.T) {
	t.Run("a lost step is taken again", func(t *testing.T) {
		const size, steps, lost = 2, 6, 4
		workers := start(t, size, worker.Config{Timeout: 20 * time.Second})
		digests := make([][2]string, size)
		for run := range 2 {
			for _, err := range onRanks(size, func(rank int) (err error) {
				w := workers[rank]
				h, err := w.NewHook(t.Context(), "powersgd", worker.HookConfig{State: &worker.State{Spec: "powersgd", Args: powerSGD}, SnapshotEvery: 1})
				if err != nil {
					return err
				}
				defer h.Close()
				digests[rank][run], err = trainedWithLoss(t, w, h, steps, map[int]int{0: -1, 1: lost}[run])
				return err
			}) {
				require.NoError(t, err)
			}
		}
		for rank := range size {
			assert.Equal(t, digests[rank][0], digests[rank][1])
		}
	})
}

// trainedWithLoss is trained, but rank 1's worker is killed within a step.
func trainedWithLoss(t *testing.T, w *worker.Worker, h *worker.Hook, steps, lost int) (string, error) {
	ctx := testutil.Soon(t)
	params := model()
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: w.Group(), Hook: h, BucketCapMB: bucketCap, Rollback: true, Agreement: ddp.AgreementNone})
	if err != nil {
		return "", err
	}
	defer r.Close()
	digest := sha256.New()
	local := func() string {
		all := sha256.New()
		for i := range params {
			bytes, err := tensor.RawBytes(r.Gradient(i))
			assert.NoError(t, err)
			all.Write(bytes)
		}
		return string(all.Sum(nil))
	}
	for step := range steps {
		if step == lost {
			if err := loseStep(ctx, t, w, h, r, params, step, local); err != nil {
				return "", err
			}
		} else if err := backward(r, w.Group().Rank(), step, len(params)); err != nil {
			return "", err
		}
		if _, err := r.Wait(ctx); err != nil {
			return "", fmt.Errorf("step %d: %w", step, err)
		}
		digest.Write([]byte(local()))
	}
	return string(digest.Sum(nil)), nil
}

// loseStep has a step fail whose buckets are at work, and marks it once more.
func loseStep(ctx context.Context, t *testing.T, w *worker.Worker, h *worker.Hook, r *ddp.Reducer, params []*c10d.Parameter, step int, local func() string) error {
	if err := backward(r, w.Group().Rank(), step, len(params)-1); err != nil { // the first bucket is not ready
		return err
	}
	if err := worker.WaitForSnapshot(ctx, h); err != nil {
		return err
	}
	if w.Group().Rank() == 1 {
		if err := killWorker(w); err != nil {
			return err
		}
	}
	g, err := tensor.Slice[float32](r.Gradient(len(params) - 1))
	if err != nil {
		return err
	}
	for k := range g {
		g[k] = float32(k)
	}
	before := local()
	if err := r.Ready(len(params) - 1); err != nil {
		return err
	}
	_, err = r.Wait(ctx)
	var failed *ddp.StepError
	if !errors.As(err, &failed) {
		return fmt.Errorf("the step did not fail: %v", err)
	}
	recovery, err := w.Restart(ctx)
	if err != nil {
		return err
	}
	assert.Equal(t, [][]int64{{int64(step), int64(step)}}, recovery.Completed)
	assert.Equal(t, []int64{int64(step)}, recovery.Restored)
	assert.Equal(t, before, local(), "the gradients are this rank's again")
	// As backward would have written them at once.
	return backward(r, w.Group().Rank(), step, len(params))
}
