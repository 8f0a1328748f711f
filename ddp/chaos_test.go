package ddp_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
	"pyhook/tests/deep"
)

// chaos is what goes wrong in one hook call.
type chaos struct{ rank, step, bucket, kind int }

const chaosKinds = 8

// unruly averages, and does at each of its calls what the plan says, once.
type unruly struct {
	*hooks.AllReduceCommHook
	rank   int
	plan   map[chaos]bool
	step   int // the trainer's
	cancel context.CancelCauseFunc
	did    int
}

func (h *unruly) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	kind := -1
	for k := range chaosKinds {
		at := chaos{h.rank, h.step, b.Index(), k}
		if h.plan[at] {
			delete(h.plan, at)
			h.did++
			kind = k
			break
		}
	}
	after := func(then func(*tensor.Tensor) (*tensor.Tensor, error)) (*c10d.Future[c10d.Result], error) {
		f, err := h.AllReduceCommHook.RunHook(ctx, b)
		if err != nil {
			return nil, err
		}
		return f.Then(func(v c10d.Result) (c10d.Result, error) {
			t, err := then(v.(c10d.TensorResult).Tensor)
			return c10d.TensorResult{Tensor: t}, err
		}), nil
	}
	switch kind {
	case 0: // raises at the call
		return nil, errBoom
	case 1: // raises after its collective was issued
		_, _ = h.AllReduceCommHook.RunHook(ctx, b)
		return nil, errBoom
	case 2: // in a callback
		return after(func(*tensor.Tensor) (*tensor.Tensor, error) { return nil, errBoom })
	case 3: // no future
		return nil, nil
	case 4: // None
		return after(func(*tensor.Tensor) (*tensor.Tensor, error) { return nil, nil })
	case 5: // not finite
		return after(func(t *tensor.Tensor) (*tensor.Tensor, error) {
			floats(t)[0] = float32(math.Inf(1))
			return t, nil
		})
	case 6: // the trainer's context ends
		h.cancel(context.Canceled)
	case 7: // slow, and then right
		time.Sleep(3 * time.Millisecond)
	}
	return h.AllReduceCommHook.RunHook(ctx, b)
}

// TestReducer_Chaos: seeded faults at random buckets, steps and ranks. With Retry the weights are
// bitwise those of the run without faults, on every rank, and every failure is the same on all.
func TestReducer_Chaos(t *testing.T) {
	const params, steps = 5, 12
	faults := deep.Times(t, 40)
	random := rand.New(rand.NewPCG(2026, 11))
	noLeaks(t, func() {
		for done, run := 0, 0; done < faults; run++ {
			size := 2 + run%3
			order := []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped}[run/3%2]
			plan := map[chaos]bool{}
			inStep := [steps]int{} // Retry gives up at a step's third failure
			for range 1 + random.IntN(6) {
				at := chaos{random.IntN(size), random.IntN(steps), random.IntN(params), random.IntN(chaosKinds)}
				if inStep[at.step]++; inStep[at.step] <= 2 {
					plan[at] = true
				}
			}
			want, _, _ := chaosRun(t, size, params, steps, order, nil)
			got, did, failures := chaosRun(t, size, params, steps, order, plan)
			for rank := range size {
				require.Equal(t, want[rank], got[rank], "run %d, rank %d of %d", run, rank, size)
				require.Equal(t, failures[0], failures[rank], "run %d, rank %d of %d", run, rank, size)
			}
			done += did
		}
	})
}

func chaosRun(t *testing.T, size, params, steps int, order ddp.Order, plan map[chaos]bool) (weights [][]float32, did int, failures [][]string) {
	t.Helper()
	groups := memgroup.New(size)
	weights, failures = make([][]float32, size), make([][]string, size)
	hooked := make([]*unruly, size)
	var ranks sync.WaitGroup
	for rank, group := range groups {
		mine := map[chaos]bool{}
		for at := range plan {
			if at.rank == rank {
				mine[at] = true
			}
		}
		h := &unruly{AllReduceCommHook: &hooks.AllReduceCommHook{Group: group}, rank: rank, plan: mine}
		hooked[rank] = h
		ranks.Go(func() {
			defer group.Close()
			r, err := ddp.NewReducer(testutil.Soon(t), scalars(params), ddp.Options{Group: group, Hook: h, BucketCapMB: tiny, Order: order, CheckFinite: true})
			if !assert.NoError(t, err) {
				return
			}
			defer r.Close()
			weights[rank] = make([]float32, params)
			for step := range steps {
				h.step = step
				grads := make([]*tensor.Tensor, params)
				err := ddp.Retry(testutil.Soon(t), r, func() error {
					ctx, cancel := context.WithCancelCause(testutil.Soon(t))
					defer cancel(nil)
					h.cancel = cancel
					for i := params - 1; i >= 0; i-- {
						grads[i].Close()
						grads[i] = tensorOf(t, gradientOf(step, rank, i)+weights[rank][i])
						if err := r.ReadyFrom(i, grads[i]); err != nil {
							return err
						}
					}
					_, err := r.Wait(ctx)
					var failed *ddp.StepError
					if err != nil && assert.ErrorAs(t, err, &failed) {
						failures[rank] = append(failures[rank], fmt.Sprint(step, failed.Origin, failed.Bucket, failed.Code))
					}
					return err
				})
				if !assert.NoError(t, err) {
					return
				}
				for i := range weights[rank] {
					weights[rank][i] -= floats(grads[i])[0] / 1024
					grads[i].Close()
				}
			}
		})
	}
	ranks.Wait()
	for _, h := range hooked {
		did += h.did
	}
	return weights, did, failures
}
