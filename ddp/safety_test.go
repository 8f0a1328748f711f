package ddp_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/debuggc"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// safetyHooks calls a function of safety_hooks.py.
func safetyHooks(t *testing.T, function string, args ...any) {
	t.Helper()
	m, err := rt.Import(context.Background(), "safety_hooks") // in cleanups too, where t.Context has ended
	require.NoError(t, err)
	defer m.Close()
	_, err = m.CallValue(function, args...)
	require.NoError(t, err)
}

// guarded makes a reducer of three buckets, of 2, 4 and 2 elements.
func guarded(t *testing.T, spec string, opts ddp.Options) *ddp.Reducer {
	t.Helper()
	safetyHooks(t, "be_bad", true)
	params := parameters([]int64{2}, []int64{3}, []int64{1}, []int64{2})
	t.Cleanup(func() { closeParameters(params); safetyHooks(t, "forget") })
	opts.Group, opts.Hook, opts.BucketCapMB = world, python(t, spec, nil), 16.0/(1<<20)
	opts.FirstBucketMB = twoFloats
	r := reducer(t, params, opts)
	require.Equal(t, [][]int{{3}, {2, 1}, {0}}, r.Buckets())
	return r
}

// mine is what setAll wrote.
func mine(t *testing.T, r *ddp.Reducer) {
	t.Helper()
	for i := range 4 {
		for _, x := range floats(r.Gradient(i)) {
			assert.Equal(t, float32(i+1), x, "gradient %d", i)
		}
	}
}

func TestRollbackLeavesTheGradientsAsTheyWere(t *testing.T) {
	for spec, kind := range map[string]error{
		"safety_hooks:raises": c10d.ErrRaised, "safety_hooks:raises_after_a_collective": c10d.ErrRaised, "safety_hooks:fails_later": c10d.ErrFutureFailed,
		"safety_hooks:is_short": c10d.ErrShort, "safety_hooks:never_ends": context.DeadlineExceeded,
	} {
		for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped, ddp.OrderOrdered} {
			t.Run(spec+" "+order.String(), func(t *testing.T) {
				r := guarded(t, spec, ddp.Options{Rollback: true, Order: order})
				var addresses []any
				for i := range 4 {
					addresses = append(addresses, r.Gradient(i).Data())
				}
				for range 2 {
					safetyHooks(t, "be_bad", true)
					before := calls(t, 1)
					setAll(t, r, 4)
					limit := 20 * time.Second
					if kind == context.DeadlineExceeded {
						testutil.Eventually(t, func() bool { return calls(t, 1) != before })
						limit = 100 * time.Millisecond
					}
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					_, err := r.Wait(ctx)
					cancel()
					require.ErrorIs(t, err, kind)
					mine(t, r)
					for i, address := range addresses {
						assert.Equal(t, address, r.Gradient(i).Data(), "gradient %d moved", i)
					}
					safetyHooks(t, "write", 0) // late
					safetyHooks(t, "write", 1)
					mine(t, r)
					safetyHooks(t, "be_bad", false)
					stepWorks(t, r, 4)
				}
			})
		}
	}
}

func TestWithoutRollbackAHookMayDamageItsBuckets(t *testing.T) {
	if debuggc.On {
		t.Skip("the tag gives hooks other memory")
	}
	r := guarded(t, "safety_hooks:raises", ddp.Options{})
	setAll(t, r, 4)
	_, err := r.Wait(testutil.Soon(t))
	require.ErrorIs(t, err, c10d.ErrRaised)
	assert.Equal(t, []float32{-7, -7}, floats(r.Gradient(3)))
}

func TestRollbackOfSparseGradients(t *testing.T) {
	safetyHooks(t, "be_bad", true)
	params := embedding()
	defer closeParameters(params)
	r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, "safety_hooks:damages_sparse", nil), Rollback: true})
	g := coo(t, []int64{5, 1}, 3, 1)
	before := append([]float32{}, floats(g.Values)...)
	require.NoError(t, r.ReadySparse(0, g))
	for i := 1; i < len(params); i++ {
		set(t, r, i, 1)
	}
	_, err := r.Wait(testutil.Soon(t))
	require.ErrorIs(t, err, c10d.ErrRaised)
	assert.Equal(t, before, floats(g.Values))
}

// A gradient without a hook is divided in place before it is summed.
func TestWithRollbackResultsAreTheSame(t *testing.T) {
	groups := memoryGroups(2)
	for _, rollback := range []bool{false, true} {
		got := make([][]float32, 2)
		own := []*tensor.Tensor{tensorOf(t, 0.5), tensorOf(t, 1.5)}
		done := make(chan error, 2)
		for rank := range 2 {
			go func() {
				params := parameters([]int64{2}, []int64{1})
				r, err := ddp.NewReducer(context.Background(), params, ddp.Options{Group: groups[rank], Rollback: rollback})
				if err != nil {
					done <- err
					return
				}
				defer r.Close()
				copy(floats(r.Gradient(0)), []float32{float32(rank), 3})
				if err = r.Ready(0); err == nil {
					err = r.ReadyFrom(1, own[rank])
				}
				if err == nil {
					_, err = r.Wait(context.Background())
				}
				got[rank] = append(append(got[rank], floats(r.Gradient(0))...), floats(r.Gradient(1))...)
				done <- err
			}()
		}
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		assert.Equal(t, [][]float32{{0.5, 3, 1}, {0.5, 3, 1}}, got)
	}
}

// isLate asserts that err names hook, rank and bucket.
func isLate(t *testing.T, err error, bucket int) {
	t.Helper()
	require.ErrorIs(t, err, ddp.ErrLateWrite)
	var e *c10d.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, [3]any{0, bucket, true}, [3]any{e.Rank, e.Bucket, e.Hint != ""})
	assert.Contains(t, err.Error(), "hook safety_hooks.damaging.<locals>.hook, rank 0, bucket")
}

func TestReducer_LateWrites(t *testing.T) {
	for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped, ddp.OrderOrdered} {
		t.Run(order.String(), func(t *testing.T) {
			r := guarded(t, "safety_hooks:is_good", ddp.Options{LateWrites: true, Order: order})
			safetyHooks(t, "be_bad", false)
			stepWorks(t, r, 4)
			require.NoError(t, r.LateWrites())
			stepWorks(t, r, 4)

			safetyHooks(t, "write", 1) // after the step
			isLate(t, r.LateWrites(), 1)
			setAll(t, r, 4)
			_, err := r.Wait(testutil.Soon(t))
			isLate(t, err, 1)
			mine(t, r)
			require.NoError(t, r.LateWrites(), "it was told")
			stepWorks(t, r, 4)

			before := calls(t, 1) // within the step
			for i := 3; i > 0; i-- {
				set(t, r, i, float32(i+1))
			}
			testutil.Eventually(t, func() bool { return calls(t, 1) != before })
			safetyHooks(t, "write", 0) // whose hook was called before that of bucket 1
			set(t, r, 0, 1)
			_, err = r.Wait(testutil.Soon(t))
			isLate(t, err, 0)
			mine(t, r)
			stepWorks(t, r, 4)
			require.NoError(t, r.LateWrites())
		})
	}
}

// calls is how often the hook was called for a bucket.
func calls(t *testing.T, bucket int) any {
	m, err := rt.Import(context.Background(), "safety_hooks") // in cleanups too, where t.Context has ended
	require.NoError(t, err)
	defer m.Close()
	n, err := m.CallValue("calls", bucket)
	require.NoError(t, err)
	return n
}

func TestHooksThatAreRightWriteNothingLate(t *testing.T) {
	refused, err := world.DTypes(t.Context())
	require.NoError(t, err)
	for spec, dtype := range map[string]string{"allreduce": "float32", "fp16": "float16", "powersgd": "float32", "hooks:later": "float32", "hooks:odd": "float32"} {
		if refused[dtype] != "" {
			continue
		}
		t.Run(spec, func(t *testing.T) {
			var state any
			if spec == "powersgd" {
				made, err := rt.NewState(t.Context(), spec, map[string]any{"matrix_approximation_rank": 1, "start_powerSGD_iter": 2}, world)
				require.NoError(t, err)
				defer made.Close()
				state = made
			}
			params := parameters([]int64{16, 16}, []int64{16}, []int64{16, 16})
			defer closeParameters(params)
			r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, spec, state), BucketCapMB: tiny, LateWrites: true})
			for range 5 {
				setAll(t, r, 3)
				_, err := r.Wait(testutil.Soon(t))
				require.NoError(t, err)
				require.NoError(t, r.LateWrites())
			}
		})
	}
}

func TestAResultThatIsNotFiniteIsRefusedIfAsked(t *testing.T) {
	for _, check := range []bool{true, false} {
		r := guarded(t, "safety_hooks:not_finite", ddp.Options{CheckFinite: check})
		setAll(t, r, 4)
		_, err := r.Wait(testutil.Soon(t))
		if !check {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, c10d.ErrNonFinite)
		require.ErrorIs(t, err, c10d.ErrBadResult)
		var e *c10d.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, [3]any{"hook safety_hooks.not_finite", 0, 1}, [3]any{e.Op, e.Rank, e.Bucket})
		assert.Contains(t, err.Error(), "element 2 of the result's 4 is NaN or infinite, the first of them: element 1 of parameter p1")
		mine(t, r)
		safetyHooks(t, "be_bad", false)
		stepWorks(t, r, 4)
	}
}
