package pyhook

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// An interruption is for the thread that runs the hook, also while that makes another one.
func TestPythonCommHook_RunHook_interruptedWhileItStartsThreads(t *testing.T) {
	check(t, "", func(t *testing.T) {
		b := bucket(t, []float32{1, 2})
		h := load(t, "stuck:starts_threads", HookConfig{})
		late := make([]time.Duration, 100)
		for i := range late {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%40)*100*time.Microsecond)
			ended := make(chan error, 1)
			go func() {
				_, err := h.RunHook(ctx, b)
				ended <- err
			}()
			select {
			case err := <-ended:
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.NotErrorIs(t, err, c10d.ErrRaised)
			case <-time.After(30 * time.Second):
				stacks, _ := rt.interpreter.Stacks()
				require.FailNow(t, "the call does not end", stacks)
			}
			deadline, _ := ctx.Deadline()
			late[i] = time.Since(deadline)
			cancel()
		}
		slices.Sort(late)
		t.Logf("after the deadline: median %v, most %v", late[len(late)/2], late[len(late)-1])
		assert.Less(t, late[len(late)/2], 200*time.Millisecond)
		assert.Empty(t, python(t, "stuck.own_threads"))
		stillWorks(t, b)
	})
}

// What notes that a work is gone may run anywhere. An interruption in it would be lost, and the
// note would keep the work's future for ever, and the bucket's memory.
func TestPythonCommHook_RunHookChained_interruptedWhileWorksGo(t *testing.T) {
	check(t, "", func(t *testing.T) {
		b := bucket(t, []float32{1, 2})
		h := load(t, "stuck:issues", HookConfig{})
		for i := range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%40)*100*time.Microsecond)
			_, _, err := h.RunHookChained(ctx, b)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, c10d.ErrRaised)
		}
		testutil.Eventually(t, func() bool { return python(t, "stuck.noted_works") == int64(0) })
		stillWorks(t, b)
	})
}

// Go code that Python called holds the GIL while it waits for the interruption to be over.
func TestChain_Advance_interruptedInsideAnotherCall(t *testing.T) {
	outer, inner := bucket(t, []float32{1, 2}), bucket(t, []float32{1, 2})
	stuck := load(t, "stuck:endless_callback", HookConfig{})
	call, err := cbridge.NewFunc("call", func([]*Object) (any, error) {
		_, chain, err := stuck.RunHookChained(context.Background(), inner)
		if err != nil {
			return nil, err
		}
		defer chain.Close()
		if _, err := callPython("time.sleep", 0.2); err != nil { // lets gloo's thread have the GIL
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err = chain.Advance(ctx)
		assert.ErrorIs(t, err, c10d.ErrInterrupted)
		return nil, nil
	})
	require.NoError(t, err)
	defer call.Close()
	h := load(t, "stuck:calls", HookConfig{State: map[string]any{"call": call}})
	ended := make(chan error, 1)
	go func() {
		_, err := h.RunHook(context.Background(), outer)
		ended <- err
	}()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		require.FailNow(t, "the call does not end")
	}
	stillWorks(t, outer)
}

func TestChain_Close_failsWhatIsNotDone(t *testing.T) {
	check(t, "", func(t *testing.T) {
		h := load(t, "stuck:endless_callback", HookConfig{})
		future, chain, err := h.RunHookChained(t.Context(), bucket(t, []float32{1, 2}))
		require.NoError(t, err)
		defer future.Close()
		chain.Close()
		chain.Close()
		_, err = future.Wait(testutil.Soon(t))
		saysAll(t, err, c10d.ErrClosed, "stuck.endless_callback", 2)
		assert.NotErrorIs(t, err, c10d.ErrFutureFailed)
	})
}

func TestChain_Advance_interruptedCallbackIsErrInterrupted(t *testing.T) {
	check(t, "", func(t *testing.T) {
		h := load(t, "stuck:endless_callback", HookConfig{})
		future, chain, err := h.RunHookChained(t.Context(), bucket(t, []float32{1, 2}))
		require.NoError(t, err)
		defer future.Close()
		defer chain.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = chain.Advance(ctx)
		require.ErrorIs(t, err, c10d.ErrInterrupted)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, c10d.ErrFutureFailed)
		var e *c10d.Error
		require.ErrorAs(t, err, &e)
		assert.Contains(t, e.Stacks, "in callback")
		_, err = future.Wait(testutil.Soon(t))
		saysAll(t, err, c10d.ErrInterrupted, "stuck.endless_callback", 2)
	})
}

// What a failed call has started may still write to the bucket.
func TestError_Unfinished(t *testing.T) {
	check(t, "", func(t *testing.T) {
		h := load(t, "stuck:starts_and_raises", HookConfig{})
		b := bucketOf(t, tensorOf(t, tensor.Float32, make([]float32, 1<<22)), 1<<22)
		unfinished := 0
		for range 20 {
			_, _, err := h.RunHookChained(t.Context(), b)
			require.ErrorIs(t, err, c10d.ErrRaised)
			var e *c10d.Error
			require.ErrorAs(t, err, &e)
			if left := e.Unfinished; left != nil {
				unfinished++
				_, err := left.Wait(testutil.Soon(t))
				require.NoError(t, err)
			}
		}
		t.Logf("%d of 20 had a collective under way", unfinished)
	})
}

// An interruption that comes as C++ calls a callback completes that callback's future, too: the
// hook, which waits for it, would never end.
func TestPythonCommHook_RunHookChained_interruptedAsACallbackBegins(t *testing.T) {
	check(t, "", func(t *testing.T) {
		b := bucket(t, []float32{1, 2})
		h := load(t, "stuck:completes_its_own", HookConfig{})
		for i := range 40 {
			ended := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(5+i)*time.Millisecond)
				defer cancel()
				_, _, err := h.RunHookChained(ctx, b)
				ended <- err
			}()
			select {
			case err := <-ended:
				require.ErrorIs(t, err, context.DeadlineExceeded, "call %d", i)
			case <-time.After(20 * time.Second):
				require.FailNow(t, "the call never ends", "call %d", i)
			}
		}
		stillWorks(t, b)
	})
}
