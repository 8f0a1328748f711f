package ddp_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
)

// boundHook makes a hook of pyhook/testdata/bound.py with a state of its own.
func boundHook(t *testing.T, hook, state string) *pyhook.PythonCommHook {
	t.Helper()
	const file = "../pyhook/testdata/bound.py:"
	made, err := rt.NewState(t.Context(), file+state, nil, nil)
	require.NoError(t, err)
	t.Cleanup(made.Close)
	return python(t, file+hook, made)
}

// sqlite3, asyncio and threading.local at import and in the state, in calls and in
// callbacks, on gloo.
func TestWhatBelongsToAThreadWorksInAReducersHooks(t *testing.T) {
	for _, order := range []ddp.Order{ddp.OrderAuto, ddp.OrderOrdered} {
		t.Run(order.String(), func(t *testing.T) {
			h := boundHook(t, "hook", "State")
			params := scalars(4)
			t.Cleanup(func() { closeParameters(params) })
			r := reducer(t, params, ddp.Options{Group: world, Hook: h, BucketCapMB: tiny, Order: order})
			for range 3 {
				setAll(t, r, len(params))
				_, err := r.Wait(testutil.Soon(t))
				require.NoError(t, err)
			}
		})
	}
}

// All calls and callbacks of a reducer are on one thread, another's on another.
func TestEachReducersHooksHaveAThread(t *testing.T) {
	var threads [][]any
	var hooks []*pyhook.PythonCommHook
	for range 3 {
		h := boundHook(t, "where", "new_list")
		params := scalars(3)
		t.Cleanup(func() { closeParameters(params) })
		r := reducer(t, params, ddp.Options{Group: world, Hook: h, BucketCapMB: tiny, Order: ddp.OrderOrdered})
		hooks = append(hooks, h)
		for range 2 { // one after another: the group is one
			setAll(t, r, len(params))
			_, err := r.Wait(testutil.Soon(t))
			require.NoError(t, err)
		}
	}
	for _, h := range hooks {
		list, err := h.State().Value()
		require.NoError(t, err)
		seen := list.([]any)
		assert.Len(t, seen, 12)
		threads = append(threads, slices.Compact(seen))
	}
	for i, one := range threads {
		require.Len(t, one, 1, "%v", one)
		for _, other := range threads[:i] {
			assert.NotEqual(t, other, one)
		}
	}
	threading := must(rt.Import(t.Context(), "threading"))
	defer threading.Close()
	var main any
	require.NoError(t, rt.RunOnMain(t.Context(), func() { main = must(threading.CallValue("get_ident")) }))
	assert.Equal(t, []any{main}, threads[0])
}

// A reducer that is closed leaves Python's main thread to the next.
func TestTheNextReducerHasPythonsMainThread(t *testing.T) {
	for range 20 {
		h := boundHook(t, "hook", "State")
		params := scalars(1)
		r := must(ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: world, Hook: h}))
		setAll(t, r, 1)
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err)
		r.Close()
		closeParameters(params)
	}
}

// Others get Python's main thread between buckets, in the midst of a step.
func TestAStepLeavesPythonsMainThreadToOthers(t *testing.T) {
	h := boundHook(t, "hook", "State")
	params := scalars(3)
	t.Cleanup(func() { closeParameters(params) })
	r := reducer(t, params, ddp.Options{Group: world, Hook: h, BucketCapMB: tiny})
	for range 3 {
		for i := 2; i >= 0; i-- {
			set(t, r, i, 1)
			require.NoError(t, rt.RunOnMain(t.Context(), func() {}))
			python(t, "../pyhook/testdata/bound.py:where", nil)
		}
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err)
	}
}

// While one reducer's hook blocks on Python's main thread, another's goes on.
func TestAHookThatBlocksHoldsUpNoOtherReducer(t *testing.T) {
	locks := pythonList(t)
	blocks := python(t, "../pyhook/testdata/bound.py:blocks", locks)
	quick := boundHook(t, "where", "new_list")
	params, others := scalars(1), scalars(1)
	t.Cleanup(func() { closeParameters(params); closeParameters(others) })
	r := reducer(t, params, ddp.Options{Group: world, Hook: blocks})
	q := reducer(t, others, ddp.Options{Group: world, Hook: quick})
	setAll(t, r, 1)
	testutil.Eventually(t, func() bool { return must(locks.CallValue("__len__")) == int64(1) }, "the hook blocks")
	setAll(t, q, 1)
	_, err := q.Wait(testutil.Soon(t))
	require.NoError(t, err)
	lock, err := locks.Call("__getitem__", 0)
	require.NoError(t, err)
	defer lock.Close()
	assert.Equal(t, true, must(lock.CallValue("locked")), "the other hook still blocks")
	_, err = lock.CallValue("release")
	require.NoError(t, err)
	_, err = r.Wait(testutil.Soon(t))
	require.NoError(t, err)
}

// unbound hides that a hook belongs on a thread.
type unbound struct{ c10d.ChainedHook }

// BenchmarkThread is what the hand-over to Python's main thread costs a step of eight
// buckets of one number, whose hooks do nothing, or whose collectives are of one rank.
func BenchmarkThread(b *testing.B) {
	for _, spec := range []string{"noop", "allreduce"} {
		h := must(rt.NewHook(b.Context(), spec, pyhook.HookConfig{}))
		defer h.Close()
		for name, hook := range map[string]c10d.CommHook{"main": h, "any": unbound{h}} {
			b.Run(spec+"/"+name, func(b *testing.B) {
				params := scalars(8)
				defer closeParameters(params)
				r := must(ddp.NewReducer(context.Background(), params, ddp.Options{Group: world, Hook: hook, BucketCapMB: tiny, Order: ddp.OrderOrdered}))
				defer r.Close()
				for b.Loop() {
					for i := range params {
						if err := r.Ready(i); err != nil {
							b.Fatal(err)
						}
					}
					must(r.Wait(context.Background()))
				}
			})
		}
	}
}
