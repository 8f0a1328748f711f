package ddp_test

import (
	"context"
	"errors"
	"fmt"
	"math"
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
)

// faulty averages, and does on one rank, in one bucket of one step, what fault says.
type faulty struct {
	c10d.CommHook
	bucket, step int // where; step counts the hook's calls for bucket 0
	fault        func(ctx context.Context, run func() (*c10d.Future[c10d.Result], error)) (*c10d.Future[c10d.Result], error)
	steps        int
}

func (h *faulty) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	if b.Index() == 0 {
		h.steps++
	}
	run := func() (*c10d.Future[c10d.Result], error) { return h.CommHook.RunHook(ctx, b) }
	if h.fault == nil || b.Index() != h.bucket || h.steps != h.step {
		return run()
	}
	return h.fault(ctx, run)
}

type fault = func(context.Context, func() (*c10d.Future[c10d.Result], error)) (*c10d.Future[c10d.Result], error)

var faults = map[string]fault{
	"raises": func(context.Context, func() (*c10d.Future[c10d.Result], error)) (*c10d.Future[c10d.Result], error) {
		return nil, errBoom
	},
	"raises after its collective": func(_ context.Context, run func() (*c10d.Future[c10d.Result], error)) (*c10d.Future[c10d.Result], error) {
		_, _ = run()
		return nil, errBoom
	},
	"fails in its callback": func(_ context.Context, run func() (*c10d.Future[c10d.Result], error)) (*c10d.Future[c10d.Result], error) {
		f, err := run()
		if err != nil {
			return nil, err
		}
		return f.Then(func(c10d.Result) (c10d.Result, error) { return nil, errBoom }), nil
	},
	"returns no future": func(context.Context, func() (*c10d.Future[c10d.Result], error)) (*c10d.Future[c10d.Result], error) {
		return nil, nil
	},
	"returns None": func(context.Context, func() (*c10d.Future[c10d.Result], error)) (*c10d.Future[c10d.Result], error) {
		return c10d.CompletedFuture[c10d.Result](c10d.TensorResult{}, nil), nil
	},
}

// ranksOf runs each rank on a goroutine, with a Reducer over memgroup.
func ranksOf(t *testing.T, size, params int, opts ddp.Options, hook func(rank int, h c10d.CommHook) c10d.CommHook, train func(rank int, r *ddp.Reducer)) {
	t.Helper()
	groups := memgroup.New(size)
	var ranks sync.WaitGroup
	for rank, group := range groups {
		ranks.Go(func() {
			mine := opts
			mine.Group, mine.BucketCapMB = group, tiny
			mine.Hook = hook(rank, &hooks.AllReduceCommHook{Group: group})
			r, err := ddp.NewReducer(testutil.Soon(t), scalars(params), mine)
			if !assert.NoError(t, err) {
				return
			}
			defer r.Close()
			train(rank, r)
		})
	}
	ranks.Wait()
}

// gradientOf is what rank's parameter i has in a step.
func gradientOf(step, rank, i int) float32 { return float32(1000*step + 10*rank + i) }

// mark does a rank's backward pass.
func mark(r *ddp.Reducer, params, step, rank int) error {
	for i := params - 1; i >= 0; i-- {
		floats(r.Gradient(i))[0] = gradientOf(step, rank, i)
		if err := r.Ready(i); err != nil {
			return err
		}
	}
	return nil
}

// isMean asserts that all gradients are the ranks' mean.
func isMean(t *testing.T, r *ddp.Reducer, params, step, size int) {
	t.Helper()
	for i := range params {
		want := float32(0)
		for rank := range size {
			want += gradientOf(step, rank, i)
		}
		assert.Equal(t, want/float32(size), floats(r.Gradient(i))[0], "step %d, parameter %d", step, i)
	}
}

func TestReducer_Recover(t *testing.T) {
	const params, steps, bad = 4, 4, 2
	for name, f := range faults {
		for _, size := range []int{2, 3} {
			for bucket := range params {
				t.Run(fmt.Sprintf("%s in bucket %d of the last of %d ranks", name, bucket, size), func(t *testing.T) {
					failures := make([]*ddp.StepError, size)
					ranksOf(t, size, params, ddp.Options{}, func(rank int, h c10d.CommHook) c10d.CommHook {
						h1 := &faulty{CommHook: h, bucket: bucket, step: bad}
						if rank == size-1 {
							h1.fault = f
						}
						return h1
					}, func(rank int, r *ddp.Reducer) {
						for step := 1; step <= steps; step++ {
							assert.NoError(t, mark(r, params, step, rank))
							_, err := r.Wait(testutil.Soon(t))
							if step == bad {
								assert.ErrorAs(t, err, &failures[rank])
								if name != "returns None" { // the collectives of the others may be under way
									assert.ErrorIs(t, r.Ready(0), c10d.ErrOutOfStep)
								}
								assert.NoError(t, r.Recover(testutil.Soon(t)))
								assert.NoError(t, mark(r, params, step, rank))
								_, err = r.Wait(testutil.Soon(t))
							}
							assert.NoError(t, err)
							isMean(t, r, params, step, size)
						}
					})
					for rank, failed := range failures {
						require.NotNil(t, failed)
						assert.Equal(t, rank, failed.Rank)
						assert.Equal(t, size-1, failed.Origin)
						assert.Equal(t, bucket, failed.Bucket)
						assert.Equal(t, failures[0].Code, failed.Code)
						assert.Equal(t, failures[0].Names, failed.Names)
						require.ErrorIs(t, failed, failures[0].Code)
					}
				})
			}
		}
	}
}

func TestReducer_Wait_agreement(t *testing.T) {
	t.Run("a result that one rank refuses is written on none, and the next step can begin", func(t *testing.T) {
		bad := true
		ranksOf(t, 2, 2, ddp.Options{CheckFinite: true}, func(rank int, h c10d.CommHook) c10d.CommHook {
			return hook{run: func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
				f, err := h.RunHook(ctx, b)
				if err != nil || rank == 0 || !bad || b.Index() == 0 {
					return f, err
				}
				return f.Then(func(v c10d.Result) (c10d.Result, error) {
					floats(v.(c10d.TensorResult).Tensor)[0] = float32(math.NaN())
					return v, nil
				}), nil
			}}
		}, func(rank int, r *ddp.Reducer) {
			own := []*tensor.Tensor{tensorOf(t, gradientOf(1, rank, 0)), tensorOf(t, gradientOf(1, rank, 1))}
			for i := range own {
				assert.NoError(t, r.ReadyFrom(i, own[i]))
			}
			_, err := r.Wait(testutil.Soon(t))
			assert.ErrorIs(t, err, c10d.ErrNonFinite)
			var failed *ddp.StepError
			if assert.ErrorAs(t, err, &failed) {
				assert.Equal(t, [2]int{1, 1}, [2]int{failed.Origin, failed.Bucket})
			}
			for i := range own {
				assert.Equal(t, gradientOf(1, rank, i), floats(own[i])[0], "it was written")
			}
			if rank == 1 {
				bad = false
			}
			assert.NoError(t, mark(r, 2, 2, rank))
			_, err = r.Wait(testutil.Soon(t))
			assert.NoError(t, err)
			isMean(t, r, 2, 2, 2)
		})
	})
	t.Run("a rank that waits too early fails the step of all", func(t *testing.T) {
		ranksOf(t, 2, 3, ddp.Options{}, func(_ int, h c10d.CommHook) c10d.CommHook { return h }, func(rank int, r *ddp.Reducer) {
			if rank == 0 {
				assert.NoError(t, mark(r, 3, 1, rank))
			} else {
				assert.NoError(t, r.Ready(2))
			}
			_, err := r.Wait(testutil.Soon(t))
			var failed *ddp.StepError
			assert.ErrorIs(t, err, ddp.ErrNotReady)
			if assert.ErrorAs(t, err, &failed) {
				assert.Equal(t, 1, failed.Origin)
				assert.Equal(t, []string{"p0", "p1"}, failed.Names)
			}
		})
	})
	t.Run("the end of one rank's context is the end of all ranks' step", func(t *testing.T) {
		began := make(chan struct{})
		ranksOf(t, 2, 2, ddp.Options{}, func(_ int, h c10d.CommHook) c10d.CommHook { return h }, func(rank int, r *ddp.Reducer) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if rank == 0 {
				assert.NoError(t, mark(r, 2, 1, rank))
				_, err := r.Wait(ctx)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				close(began)
				return
			}
			<-began
			assert.NoError(t, mark(r, 2, 1, rank))
			_, err := r.Wait(testutil.Soon(t))
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			var failed *ddp.StepError
			if assert.ErrorAs(t, err, &failed) {
				assert.Equal(t, 0, failed.Origin)
			}
		})
	})
	t.Run("a rank that closes its Reducer is named, and does not come back", func(t *testing.T) {
		ranksOf(t, 3, 2, ddp.Options{}, func(_ int, h c10d.CommHook) c10d.CommHook { return h }, func(rank int, r *ddp.Reducer) {
			if rank == 1 {
				return
			}
			assert.NoError(t, mark(r, 2, 1, rank))
			_, err := r.Wait(testutil.Soon(t))
			assert.ErrorIs(t, err, c10d.ErrPeer)
			assert.ErrorContains(t, err, "on rank 1: ")
			assert.ErrorContains(t, err, "it closed its Reducer, after a failure of its own or fewer steps than others (ddp.Options.Join")
			err = r.Recover(testutil.Soon(t))
			assert.ErrorIs(t, err, c10d.ErrPeer)
			assert.ErrorContains(t, err, "rank 1 takes part no more")
		})
	})
	t.Run("Close ends a Wait that waits for the others' votes", func(t *testing.T) {
		closed := make(chan struct{})
		ranksOf(t, 2, 1, ddp.Options{}, func(rank int, _ c10d.CommHook) c10d.CommHook {
			return hook{run: identity} // no collective: the vote is what rank 0 waits in
		}, func(rank int, r *ddp.Reducer) {
			if rank == 1 {
				<-closed
				return
			}
			assert.NoError(t, mark(r, 1, 1, rank))
			done := make(chan error)
			go func() {
				_, err := r.Wait(testutil.Soon(t))
				done <- err
			}()
			time.Sleep(50 * time.Millisecond)
			r.Close()
			assert.ErrorIs(t, <-done, ddp.ErrClosed)
			close(closed)
		})
	})
	t.Run("a group that is a part of what would be made anew", func(t *testing.T) {
		ranksOf(t, 2, 1, ddp.Options{}, func(rank int, h c10d.CommHook) c10d.CommHook {
			return &faulty{CommHook: h, step: 1, fault: faults["raises"]}
		}, func(_ int, r *ddp.Reducer) {
			assert.NoError(t, mark(r, 1, 1, 0))
			_, err := r.Wait(testutil.Soon(t))
			assert.ErrorIs(t, err, ddp.ErrStep)
			assert.NoError(t, r.Recover(testutil.Soon(t)))
		})
		// The same over a group whose Renewal is of three ranks.
		var ranks sync.WaitGroup
		for _, group := range memgroup.New(2) {
			ranks.Go(func() {
				part := &partGroup{group}
				r, err := ddp.NewReducer(testutil.Soon(t), scalars(1), ddp.Options{Group: part, Hook: &faulty{CommHook: &hooks.AllReduceCommHook{Group: part}, step: 1, fault: faults["raises"]}})
				if !assert.NoError(t, err) {
					return
				}
				defer r.Close()
				assert.NoError(t, mark(r, 1, 1, 0))
				_, err = r.Wait(testutil.Soon(t))
				assert.ErrorIs(t, err, ddp.ErrStep)
				err = r.Recover(testutil.Soon(t))
				assert.ErrorIs(t, err, c10d.ErrOutOfStep)
				assert.ErrorContains(t, err, "the group has 2 ranks of the 3")
			})
		}
		ranks.Wait()
	})
	t.Run("a rank that cannot make its Reducer", func(t *testing.T) {
		groups := memgroup.New(2)
		errs := make([]error, 2)
		var ranks sync.WaitGroup
		for rank, group := range groups {
			ranks.Go(func() {
				var h c10d.CommHook = hook{run: identity}
				if rank == 1 {
					h = orderless{h}
				}
				_, errs[rank] = ddp.NewReducer(testutil.Soon(t), scalars(2), ddp.Options{Group: group, Hook: h})
			})
		}
		ranks.Wait()
		require.ErrorContains(t, errs[0], "rank 1 failed: "+errs[1].Error())
	})
	t.Run("options that must be alike", func(t *testing.T) {
		for text, other := range map[string]ddp.Options{
			"Options.Join: Join is false on rank 0 and true on rank 1":                                                                        {Join: true},
			"Options.BucketCapMB, Options.FirstBucketMB: BucketCapMB is 25 on rank 0 and 0.5 on rank 1; FirstBucketMB is 1 on rank 0 and 0.5": {BucketCapMB: 0.5},
			"Options.Buckets: Buckets is [] on rank 0 and [[0] [1]] on rank 1":                                                                {Buckets: [][]int{{0}, {1}}},
			"Options.Order: Order is auto on rank 0 and overlapped on rank 1":                                                                 {Order: ddp.OrderOverlapped},
			"Options.Layout: Layout is LayoutFixed on rank 0 and LayoutRebuilt on rank 1":                                                     {Layout: ddp.LayoutRebuilt},
			"Options.Unused: Unused is UnusedIsError on rank 0 and UnusedFind on rank 1":                                                      {Unused: ddp.UnusedFind},
			"Options.DigestEvery: DigestEvery is 0 on rank 0 and 1 on rank 1":                                                                 {DigestEvery: 1},
			"Options.Rollback: Rollback is false on rank 0 and true on rank 1":                                                                {Rollback: true},
			"Options.Agreement: some ranks would vote and some would not":                                                                     {Agreement: ddp.AgreementNone},
			"Options.Hook: Hook is none on rank 0 and Go's AllReduceCommHook on rank 1":                                                       {Hook: &hooks.AllReduceCommHook{}},
		} {
			var ranks sync.WaitGroup
			for rank, group := range memgroup.New(2) {
				ranks.Go(func() {
					opts := ddp.Options{}
					if rank == 1 {
						opts = other
					}
					opts.Group = group
					_, err := ddp.NewReducer(testutil.Soon(t), scalars(2), opts)
					assert.ErrorIs(t, err, ddp.ErrMismatch)
					assert.ErrorContains(t, err, text)
				})
			}
			ranks.Wait()
		}
	})
	t.Run("after Wait has returned a step is not done again", func(t *testing.T) {
		ranksOf(t, 2, 1, ddp.Options{}, func(_ int, h c10d.CommHook) c10d.CommHook { return h }, func(rank int, r *ddp.Reducer) {
			err := ddp.Retry(testutil.Soon(t), r, func() error {
				if err := mark(r, 1, 1, rank); err != nil {
					return err
				}
				_, err := r.Wait(testutil.Soon(t))
				assert.NoError(t, err)
				if rank == 0 {
					return errBoom
				}
				return nil
			})
			if rank == 0 {
				assert.ErrorIs(t, err, errBoom)
				assert.ErrorContains(t, err, "the step counts on all ranks")
			} else {
				assert.NoError(t, err)
			}
			assert.NoError(t, mark(r, 1, 2, rank))
			_, err = r.Wait(testutil.Soon(t))
			assert.NoError(t, err)
			isMean(t, r, 1, 2, 2)
		})
	})
	t.Run("a function that leaves between its marks and Wait fails the step of all", func(t *testing.T) {
		tries := make([]int, 2)
		ranksOf(t, 2, 2, ddp.Options{}, func(_ int, h c10d.CommHook) c10d.CommHook { return h }, func(rank int, r *ddp.Reducer) {
			assert.NoError(t, ddp.Retry(testutil.Soon(t), r, func() error {
				tries[rank]++
				if err := mark(r, 2, 1, rank); err != nil {
					return err
				}
				if rank == 0 && tries[0] == 1 {
					return errBoom
				}
				_, err := r.Wait(testutil.Soon(t))
				return err
			}))
			isMean(t, r, 2, 1, 2)
		})
		assert.Equal(t, []int{2, 2}, tries)
	})
	t.Run("Recover whose context ended works when it is called again", func(t *testing.T) {
		ended := make(chan struct{})
		ranksOf(t, 2, 1, ddp.Options{}, func(rank int, h c10d.CommHook) c10d.CommHook {
			f := &faulty{CommHook: h, step: 1}
			if rank == 1 {
				f.fault = faults["raises"]
			}
			return f
		}, func(rank int, r *ddp.Reducer) {
			assert.NoError(t, mark(r, 1, 1, rank))
			_, err := r.Wait(testutil.Soon(t))
			assert.ErrorIs(t, err, ddp.ErrStep)
			if rank == 0 {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer cancel()
				assert.ErrorIs(t, r.Recover(ctx), context.DeadlineExceeded)
				close(ended)
			}
			<-ended
			assert.NoError(t, r.Recover(testutil.Soon(t)))
			assert.NoError(t, mark(r, 1, 1, rank))
			_, err = r.Wait(testutil.Soon(t))
			assert.NoError(t, err)
			isMean(t, r, 1, 1, 2)
		})
	})
	t.Run("a rank that failed before the others' first mark, with parameters that are not marked", func(t *testing.T) {
		failed := make(chan struct{})
		ranksOf(t, 2, 2, ddp.Options{Unused: ddp.UnusedFind}, func(_ int, h c10d.CommHook) c10d.CommHook { return h }, func(rank int, r *ddp.Reducer) {
			if rank == 1 {
				ctx, cancel := context.WithCancelCause(t.Context())
				cancel(errBoom)
				_, err := r.Wait(ctx)
				assert.ErrorIs(t, err, errBoom)
				close(failed)
				return
			}
			<-failed
			_, err := r.Wait(testutil.Soon(t))
			assert.ErrorContains(t, err, "boom")
		})
	})
	t.Run("Retry refuses what NoSync has left outside its function", func(t *testing.T) {
		ranksOf(t, 2, 1, ddp.Options{}, func(_ int, h c10d.CommHook) c10d.CommHook { return h }, func(_ int, r *ddp.Reducer) {
			assert.NoError(t, r.NoSync(func() error { return r.Ready(0) }))
			assert.ErrorContains(t, ddp.Retry(testutil.Soon(t), r, func() error { return nil }), "call NoSync in the function")
		})
	})
}

func TestRetry(t *testing.T) {
	const params, steps = 3, 5
	t.Run("does the step again on all ranks", func(t *testing.T) {
		tries := make([]int, 2)
		ranksOf(t, 2, params, ddp.Options{}, func(rank int, h c10d.CommHook) c10d.CommHook {
			h1 := &faulty{CommHook: h, bucket: 1, step: 3}
			if rank == 1 {
				h1.fault = faults["raises"]
			}
			return h1
		}, func(rank int, r *ddp.Reducer) {
			for step := 1; step <= steps; step++ {
				assert.NoError(t, ddp.Retry(testutil.Soon(t), r, func() error {
					tries[rank]++
					if step == 5 && tries[rank] == steps+1 && rank == 0 {
						return errors.New("the trainer's own")
					}
					if err := mark(r, params, step, rank); err != nil {
						return err
					}
					_, err := r.Wait(testutil.Soon(t))
					return err
				}))
				isMean(t, r, params, step, 2)
			}
		})
		assert.Equal(t, []int{steps + 2, steps + 2}, tries)
	})
	t.Run("gives up where a hook always raises", func(t *testing.T) {
		tries := make([]int, 2)
		ranksOf(t, 2, params, ddp.Options{}, func(rank int, h c10d.CommHook) c10d.CommHook {
			if rank == 0 {
				return h
			}
			return hook{run: func(context.Context, *c10d.GradBucket) (*c10d.Future[c10d.Result], error) { return nil, errBoom }}
		}, func(rank int, r *ddp.Reducer) {
			err := ddp.Retry(testutil.Soon(t), r, func() error {
				tries[rank]++
				if err := mark(r, params, 1, rank); err != nil {
					return err
				}
				_, err := r.Wait(testutil.Soon(t))
				return err
			})
			assert.ErrorIs(t, err, ddp.ErrStep)
			assert.ErrorContains(t, err, "boom")
		})
		assert.Equal(t, []int{3, 3}, tries)
	})
}

// A function that does not return what Wait did: the other ranks go by what Wait returned.
func TestRetry_hiddenErrors(t *testing.T) {
	const params = 2
	for name, hide := range map[string]func(error) error{
		"another error": func(error) error { return errBoom },
		"no error":      func(error) error { return nil },
	} {
		t.Run(name+" in place of Wait's", func(t *testing.T) {
			tries := make([]int, 2)
			ranksOf(t, 2, params, ddp.Options{CheckFinite: true}, func(_ int, h c10d.CommHook) c10d.CommHook { return h }, func(rank int, r *ddp.Reducer) {
				assert.NoError(t, ddp.Retry(testutil.Soon(t), r, func() error {
					tries[rank]++
					for i := range params {
						if floats(r.Gradient(i))[0] = gradientOf(1, rank, i); tries[rank] == 1 {
							floats(r.Gradient(i))[0] = float32(math.NaN())
						}
						if err := r.Ready(i); err != nil {
							return err
						}
					}
					_, err := r.Wait(testutil.Soon(t))
					if err != nil && rank == 1 {
						return hide(err)
					}
					return err
				}))
				isMean(t, r, params, 1, 2)
			})
			assert.Equal(t, []int{2, 2}, tries)
		})
	}
	t.Run("no Reducer", func(t *testing.T) {
		assert.ErrorContains(t, ddp.Retry(testutil.Soon(t), nil, func() error { return nil }), "Retry without a Reducer")
	})
	t.Run("a nil before Wait", func(t *testing.T) {
		ranksOf(t, 2, params, ddp.Options{}, func(_ int, h c10d.CommHook) c10d.CommHook { return h }, func(rank int, r *ddp.Reducer) {
			err := ddp.Retry(testutil.Soon(t), r, func() error {
				if err := mark(r, params, 1, rank); err != nil {
					return err
				}
				if rank == 1 {
					return nil
				}
				_, err := r.Wait(testutil.Soon(t))
				return err
			})
			assert.ErrorAs(t, err, new(*ddp.StepError))
			assert.ErrorContains(t, err, "the function returned nil before its Wait")
		})
	})
}

// partGroup is two ranks of a job of three.
type partGroup struct{ *memgroup.Group }

func (g *partGroup) Renewal() c10d.Renewal { return partRenewal{g.Group.Renewal()} }

type partRenewal struct{ c10d.Renewal }

func (partRenewal) Ranks() int { return 3 }

// orderless is a hook that says its order in a way that is not known.
type orderless struct{ c10d.CommHook }

func (orderless) RunHookChained(context.Context, *c10d.GradBucket) (*c10d.Future[c10d.Result], c10d.Chain, error) {
	return nil, nil, errBoom
}

func (orderless) Independent() (bool, error) { return false, errBoom }
