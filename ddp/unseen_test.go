package ddp_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
)

// pythonList is a state that a hook may append to.
func pythonList(t *testing.T) *pyhook.Object {
	t.Helper()
	builtins, err := rt.Import(t.Context(), "builtins")
	require.NoError(t, err)
	defer builtins.Close()
	list, err := builtins.Call("list")
	require.NoError(t, err)
	t.Cleanup(list.Close)
	return list
}

// unseen asserts that the step fails with what nobody looked at, in the last bucket, and that
// the next step works.
func unseen(t *testing.T, spec string, order ddp.Order, kind error) {
	t.Helper()
	params := scalars(3)
	defer closeParameters(params)
	h := python(t, spec, pythonList(t))
	r := reducer(t, params, ddp.Options{Group: world, Hook: h, BucketCapMB: tiny, Order: order})
	setAll(t, r, 3)
	_, err := r.Wait(testutil.Soon(t))
	require.ErrorIs(t, err, kind)
	var step *ddp.StepError
	require.ErrorAs(t, err, &step)
	assert.Equal(t, 2, step.Bucket)
	var of *c10d.Error
	require.ErrorAs(t, err, &of)
	assert.Equal(t, 2, of.Bucket)
	assert.Equal(t, "hook "+h.Name(), of.Op)
	assert.Equal(t, world.Rank(), of.Rank)
	assert.Contains(t, err.Error(), "Invalid scalar type")
	if kind == c10d.ErrCollective {
		assert.Contains(t, err.Error(), "all_reduce, which the hook issued and did not look at, failed")
		assert.NotEmpty(t, of.Hint)
	}
	stepWorks(t, r, 3)
}

func TestReducerWaitFailsWhereACollectiveFailsUnseen(t *testing.T) {
	for _, hook := range []string{"drops_work", "reads_no_value", "drops_future", "drops_in_callback", "collects_without_a_look"} {
		for _, order := range []ddp.Order{ddp.OrderAuto, ddp.OrderOrdered} {
			t.Run(hook+" "+order.String(), func(t *testing.T) { unseen(t, "order_hooks:"+hook, order, c10d.ErrCollective) })
		}
	}
	// Of real futures nobody can tell who looks at them, nor what gloo's threads issue.
	t.Run("drops_work overlapped", func(t *testing.T) {
		unseen(t, "order_hooks:drops_work", ddp.OrderOverlapped, c10d.ErrCollective)
	})
}

// A work that the hook keeps may be looked at later, so it is not waited for.
func TestReducerWaitFailsLaterWhereAKeptCollectiveFailsUnseen(t *testing.T) {
	for _, order := range []ddp.Order{ddp.OrderAuto, ddp.OrderOverlapped} {
		t.Run(order.String(), func(t *testing.T) {
			params := scalars(3)
			defer closeParameters(params)
			r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, "order_hooks:keeps_work", pythonList(t)), BucketCapMB: tiny, Order: order})
			failures := 0
			for range 20 {
				setAll(t, r, 3)
				if _, err := r.Wait(testutil.Soon(t)); err != nil {
					require.ErrorIs(t, err, c10d.ErrCollective)
					failures++
				}
				time.Sleep(time.Millisecond)
			}
			assert.Equal(t, 1, failures, "told once")
		})
	}
}

func TestReducer_Wait_returnsTheFuturesOwnErrorFirst(t *testing.T) {
	for _, order := range []ddp.Order{ddp.OrderAuto, ddp.OrderOrdered, ddp.OrderOverlapped} {
		t.Run(order.String(), func(t *testing.T) { unseen(t, "order_hooks:returns_failed", order, c10d.ErrFutureFailed) })
	}
}

func TestReducerWaitLeavesAFailureToAHookThatLooksAtIt(t *testing.T) {
	for _, order := range []ddp.Order{ddp.OrderAuto, ddp.OrderOrdered, ddp.OrderOverlapped} {
		params := scalars(3)
		defer closeParameters(params)
		r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, "order_hooks:handles", pythonList(t)), BucketCapMB: tiny, Order: order})
		for range 2 {
			stepWorks(t, r, 3)
		}
	}
}

// Gloo of torch 1.13 and 2.6 has no AVG and says so on its own thread.
func TestReducerWaitFailsWhereAnAverageFailsUnseen(t *testing.T) {
	hooks, err := rt.Import(t.Context(), "order_hooks")
	require.NoError(t, err)
	defer hooks.Close()
	has, err := hooks.CallValue("has_average")
	require.NoError(t, err)
	for _, order := range []ddp.Order{ddp.OrderAuto, ddp.OrderOrdered, ddp.OrderOverlapped} {
		params := scalars(3)
		defer closeParameters(params)
		r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, "order_hooks:drops_average", nil), BucketCapMB: tiny, Order: order})
		for range 2 {
			setAll(t, r, 3)
			_, err := r.Wait(testutil.Soon(t))
			if has == true {
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, c10d.ErrCollective)
			require.ErrorContains(t, err, "bucket 2")
			require.ErrorContains(t, err, "Cannot use ReduceOp.AVG with Gloo")
		}
	}
}

func TestPythonCommHookIndependentIsOfWhatIsProvenOrSaysSo(t *testing.T) {
	for spec, want := range map[string]ddp.Order{
		"allreduce": ddp.OrderOrdered, "fp16": ddp.OrderOrdered, "bf16": ddp.OrderOrdered, "noop": ddp.OrderOrdered,
		"quantize_pertensor": ddp.OrderOrdered, "quantize_perchannel": ddp.OrderOrdered, "post_localsgd": ddp.OrderOrdered,
		"fp16_wrapper(allreduce)": ddp.OrderOrdered, "bf16_wrapper(fp16_wrapper(noop))": ddp.OrderOrdered,
		"powersgd": ddp.OrderSerial, "batched_powersgd": ddp.OrderSerial, "fp16_wrapper(powersgd)": ddp.OrderSerial,
		"order_hooks:mean": ddp.OrderSerial, "order_hooks:copied": ddp.OrderSerial, "order_hooks:ordered": ddp.OrderOrdered,
		"fp16_wrapper(order_hooks:ordered)": ddp.OrderOrdered, "fp16_wrapper(order_hooks:mean)": ddp.OrderSerial,
	} {
		params := scalars(1)
		var state any
		if spec == "post_localsgd" { // it has an argument without a default
			state = pyhook.StateSpec{Spec: spec, Args: map[string]any{"start_localSGD_iter": 100}}
		}
		r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, spec, state)})
		assert.Equal(t, want, r.Order(), spec)
		closeParameters(params)
	}
	for _, spec := range []string{"order_hooks:sideways", "fp16_wrapper(order_hooks:sideways)"} {
		_, err := ddp.NewReducer(testutil.Soon(t), scalars(1), ddp.Options{Group: world, Hook: python(t, spec, nil)})
		require.ErrorIs(t, err, c10d.ErrOrder)
		require.ErrorIs(t, err, c10d.ErrLoad)
		require.ErrorContains(t, err, "'sideways'")
	}
}
