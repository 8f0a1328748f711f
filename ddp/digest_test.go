package ddp_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// digested runs steps on each rank of a group in memory, with values of zero and DigestEvery 2, and
// returns the ranks' first errors. before is called before each step.
func digested(t *testing.T, size, steps int, before func(rank, step int, params []*c10d.Parameter)) []error {
	t.Helper()
	groups, errs := memoryGroups(size), make([]error, size)
	lists := make([][]*c10d.Parameter, size)
	for rank := range lists {
		lists[rank] = withData(t)
	}
	onRanks(size, func(rank int) {
		r, err := ddp.NewReducer(testutil.Soon(t), lists[rank], ddp.Options{Group: groups[rank], DigestEvery: 2, BucketCapMB: tiny})
		if !assert.NoError(t, err) {
			return
		}
		defer r.Close()
		for step := range steps {
			before(rank, step, lists[rank])
			if errs[rank] = oneStep(t, r, lists[rank]); errs[rank] != nil {
				errs[rank] = fmt.Errorf("step %d: %w", step, errs[rank])
				return
			}
		}
	})
	return errs
}

// oneStep has gradients of 1.
func oneStep(t *testing.T, r *ddp.Reducer, params []*c10d.Parameter) error {
	for i := range params {
		if err := r.Ready(i); err != nil {
			return err
		}
	}
	_, err := r.Wait(testutil.Soon(t))
	return err
}

func TestReducer_Wait_digest(t *testing.T) {
	for _, size := range []int{2, 4} {
		t.Run(fmt.Sprintf("one bit of the last rank's, of %d", size), func(t *testing.T) {
			errs := digested(t, size, 4, func(rank, step int, params []*c10d.Parameter) {
				if step == 1 && rank == size-1 { // not compared in this step, but in the next one
					bits := math.Float32bits(floats(params[1].Data)[2])
					floats(params[1].Data)[2] = math.Float32frombits(bits ^ 1)
				}
			})
			others := "rank 0"
			if size == 4 {
				others = "ranks 0, 1 and 2"
			}
			for rank, err := range errs {
				require.ErrorIs(t, err, ddp.ErrValues)
				assert.ErrorContains(t, err, "step 2: ")
				assert.ErrorContains(t, err, fmt.Sprintf("a.bias: parameter 1, the first of them, has one value on %s, another on rank %d", others, size-1))
				var step *ddp.StepError
				require.ErrorAs(t, err, &step)
				assert.Equal(t, []any{rank, size - 1, -1, ddp.ErrValues}, []any{step.Rank, step.Origin, step.Bucket, step.Code})
				var parameter *ddp.ParameterError
				require.ErrorAs(t, err, &parameter)
				assert.Equal(t, []string{"a.bias"}, parameter.Names)
				assert.Equal(t, rank, parameter.Rank)
			}
		})
	}
	t.Run("ranks of two kinds, from the first step on", func(t *testing.T) {
		errs := digested(t, 4, 1, func(rank, _ int, params []*c10d.Parameter) { floats(params[0].Data)[0] = float32(rank % 2) })
		for _, err := range errs {
			require.ErrorIs(t, err, ddp.ErrValues)
			assert.ErrorContains(t, err, "a.weight: parameter 0, the first of them, has one value on ranks 0 and 2, another on ranks 1 and 3")
			var step *ddp.StepError
			require.ErrorAs(t, err, &step)
			assert.Equal(t, 1, step.Origin)
		}
	})
	t.Run("NaNs are compared by their bits", func(t *testing.T) {
		const payload = 0x7fc01234
		assert.NoError(t, errors.Join(digested(t, 2, 3, func(_, _ int, params []*c10d.Parameter) {
			floats(params[0].Data)[0] = math.Float32frombits(payload)
		})...))
		for _, err := range digested(t, 2, 1, func(rank, _ int, params []*c10d.Parameter) {
			floats(params[0].Data)[0] = math.Float32frombits(payload + uint32(rank))
		}) {
			require.ErrorIs(t, err, ddp.ErrValues)
		}
	})
	t.Run("gradients stay, Retry does not repeat it, and a broadcast mends it", func(t *testing.T) {
		groups := memoryGroups(2)
		onRanks(2, func(rank int) {
			params := withData(t)
			floats(params[1].Data)[0] = float32(rank)
			own := tensorOf(t, float32(rank), 2, 3)
			r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: groups[rank], Hook: &hooks.AllReduceCommHook{Group: groups[rank]}, DigestEvery: 1})
			if !assert.NoError(t, err) {
				return
			}
			defer r.Close()
			tries := 0
			step := func() error {
				tries++
				if err := errors.Join(r.Ready(0), r.ReadyFrom(1, own), r.Ready(2)); err != nil {
					return err
				}
				_, err := r.Wait(testutil.Soon(t))
				return err
			}
			assert.ErrorIs(t, ddp.Retry(testutil.Soon(t), r, step), ddp.ErrValues)
			assert.Equal(t, 1, tries)
			assert.Equal(t, []float32{float32(rank), 2, 3}, floats(own))
			assert.NoError(t, ddp.BroadcastParameters(testutil.Soon(t), groups[rank], params))
			assert.NoError(t, step())
			assert.Equal(t, []float32{0.5, 2, 3}, floats(own))
		})
	})
	t.Run("values of the step's begin, which its hook may change", func(t *testing.T) {
		groups := memoryGroups(2)
		onRanks(2, func(rank int) {
			params := withData(t)
			hook := &drifting{AllReduceCommHook: hooks.AllReduceCommHook{Group: groups[rank]}, value: &floats(params[0].Data)[0], rank: rank}
			r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: groups[rank], Hook: hook, DigestEvery: 1})
			if !assert.NoError(t, err) {
				return
			}
			defer r.Close()
			assert.NoError(t, oneStep(t, r, params))
			assert.ErrorIs(t, oneStep(t, r, params), ddp.ErrValues)
		})
	})
	t.Run("accumulated steps, and ranks that have joined", func(t *testing.T) {
		groups := memoryGroups(3)
		onRanks(3, func(rank int) {
			params := withData(t)
			r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: groups[rank], Join: true, DigestEvery: 1})
			if !assert.NoError(t, err) {
				return
			}
			defer r.Close()
			assert.NoError(t, r.NoSync(func() error { return oneStep(t, r, params) }))
			assert.NoError(t, oneStep(t, r, params))
			if rank > 0 { // rank 0's model is left behind
				floats(params[0].Data)[0] = 1
				assert.NoError(t, oneStep(t, r, params))
				floats(params[0].Data)[0] = float32(rank)
				err := oneStep(t, r, params)
				assert.ErrorContains(t, err, "has one value on rank 1, another on rank 2")
				floats(params[0].Data)[0] = 1
			} else {
				_, err := r.Join(testutil.Soon(t))
				assert.ErrorIs(t, err, ddp.ErrValues)
			}
			_, err = r.Join(testutil.Soon(t))
			assert.NoError(t, err)
		})
	})
	t.Run("values that were closed", func(t *testing.T) {
		groups := memgroup.New(2)
		onRanks(2, func(rank int) {
			params := withData(t)
			r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: groups[rank], DigestEvery: 1})
			if !assert.NoError(t, err) {
				return
			}
			defer r.Close()
			if rank == 1 {
				params[2].Data.Close()
			}
			err = oneStep(t, r, params)
			assert.ErrorContains(t, err, "scale: ")
			assert.ErrorContains(t, err, "Options.DigestEvery reads them")
		})
		for _, group := range groups { // rank 0's collective, which rank 1 did not come to, ends and lets go of its memory
			group.Close()
		}
	})
}

// drifting changes a value, otherwise on each rank.
type drifting struct {
	hooks.AllReduceCommHook
	value *float32
	rank  int
}

func (h *drifting) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	*h.value += float32(h.rank)
	return h.AllReduceCommHook.RunHook(ctx, b)
}

func TestNewReducer_digest(t *testing.T) {
	strided := withData(t)
	wide := must(tensor.New(tensor.Float32, 6))
	t.Cleanup(wide.Close)
	strided[1].Data = must(wide.View(0, []int64{3}, []int64{2}))
	t.Cleanup(strided[1].Data.Close)
	for name, c := range map[string]struct {
		params []*c10d.Parameter
		opts   ddp.Options
		say    string
	}{
		"negative":       {withData(t), ddp.Options{DigestEvery: -1}, "Options.DigestEvery is -1"},
		"no Data":        {layers(), ddp.Options{DigestEvery: 1}, `parameter 0, "a.weight", has no Data: give every parameter its values (Parameter.Data)`},
		"strided":        {strided, ddp.Options{DigestEvery: 1}, "a.bias: "},
		"without a vote": {withData(t), ddp.Options{DigestEvery: 1, Agreement: ddp.AgreementNone}, "needs AgreementVote"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 2} {
				groups := memoryGroups(size)
				onRanks(size, func(rank int) {
					opts := c.opts
					opts.Group = groups[rank]
					_, err := ddp.NewReducer(testutil.Soon(t), c.params, opts)
					assert.ErrorContains(t, err, c.say)
				})
			}
		})
	}
	t.Run("another number on one rank", func(t *testing.T) {
		groups := memoryGroups(2)
		onRanks(2, func(rank int) {
			_, err := ddp.NewReducer(testutil.Soon(t), withData(t), ddp.Options{Group: groups[rank], DigestEvery: 1 + rank})
			assert.ErrorIs(t, err, ddp.ErrMismatch)
		})
	})
	t.Run("alone nothing is compared", func(t *testing.T) {
		params := withData(t)
		r := reducer(t, params, ddp.Options{DigestEvery: 1})
		require.NoError(t, oneStep(t, r, params))
	})
}

// BenchmarkReducer_digest is a step of two ranks in memory, with 64 parameters, without a digest and
// with one.
func BenchmarkReducer_digest(b *testing.B) {
	for _, mib := range []int64{1, 64, 256} {
		for _, every := range []int{0, 1} {
			b.Run(fmt.Sprintf("%dMiB/every=%d", mib, every), func(b *testing.B) {
				groups := memoryGroups(2)
				onRanks(2, func(rank int) {
					params := parameters()
					for i := range 64 {
						n := mib << 20 / 64 / 4
						params = append(params, &c10d.Parameter{Name: fmt.Sprint(i), Shape: []int64{n}, DType: tensor.Float32, Data: must(tensor.New(tensor.Float32, n))})
					}
					r := must(ddp.NewReducer(context.Background(), params, ddp.Options{Group: groups[rank], DigestEvery: every}))
					if rank == 0 {
						b.ResetTimer()
					}
					for range b.N {
						for i := range params {
							_ = r.Ready(i)
						}
						must(r.Wait(context.Background()))
					}
					r.Close()
					for _, p := range params {
						p.Data.Close()
					}
				})
			})
		}
	}
}
