package pyhook

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
)

func TestAHookThatAsksGetsNCCLsFormsOfFutures(t *testing.T) {
	want := []float32{1, 2, 3}
	check(t, "forms", func(t *testing.T) {
		b := bucket(t, []float32{1, 2}, []float32{3})
		_, err := run(t, load(t, "forms:nccl_mean", HookConfig{}), b)
		require.Error(t, err, "gloo's form holds the first rank's tensor alone")

		h := load(t, "forms:nccl_mean", HookConfig{Futures: FutureFormsNCCL})
		for range 3 {
			got, err := run(t, h, b)
			require.NoError(t, err)
			assert.Equal(t, want, got)
		}
		got, err := runChained(t, h, b)
		require.NoError(t, err)
		assert.Equal(t, want, got)

		seen := make(chan c10d.Collective, 10)
		require.NoError(t, h.TraceCollectives(func(c c10d.Collective) { seen <- c }))
		got, err = runChained(t, h, b)
		require.NoError(t, err)
		assert.Equal(t, want, got)
		assert.Equal(t, int64(12), (<-seen).Bytes)
		require.NoError(t, h.TraceCollectives(nil))
	})
	_, err := rt.NewHook(t.Context(), "forms:nccl_mean", HookConfig{Futures: "gloo"})
	require.ErrorIs(t, err, c10d.ErrBadArguments)
	assert.ErrorContains(t, err, `HookConfig.Futures is "gloo"`)
}

// runChained is run by RunHookChained.
func runChained(t *testing.T, h *PythonCommHook, b *c10d.GradBucket) ([]float32, error) {
	t.Helper()
	future, chain, err := h.RunHookChained(context.Background(), b)
	require.NoError(t, err)
	defer future.Close()
	defer chain.Close()
	for more := true; more; {
		more, err = chain.Advance(context.Background())
		require.NoError(t, err)
	}
	value, err := future.Wait(context.Background())
	if err != nil {
		return nil, err
	}
	result, err := h.ParseHookResult(b, value)
	require.NoError(t, err)
	defer result.Close()
	return values(t, result), nil
}

func TestErrorsNameTheLikelyReason(t *testing.T) {
	forms, state := "pyhook.FutureFormsNCCL", "--state"
	for hook, want := range map[string]struct {
		kind error
		hint string
	}{
		"indexed_in_a_callback": {c10d.ErrFutureFailed, forms},
		"indexed_in_the_call":   {c10d.ErrRaised, forms},
		"short_of_nccl":         {c10d.ErrShort, forms},
		"wants_state":           {c10d.ErrRaised, state},
		"own_index_error":       {c10d.ErrRaised, "prints the traceback"},
	} {
		_, err := run(t, load(t, "forms:"+hook, HookConfig{}), bucket(t, []float32{1, 2}))
		var e *c10d.Error
		require.ErrorAs(t, err, &e, hook)
		assert.ErrorIs(t, err, want.kind, hook)
		assert.Contains(t, e.Hint, want.hint, hook)
	}
	// Where the reason is another, it is not named.
	_, err := run(t, load(t, "forms:wants_state", HookConfig{State: "text"}), bucket(t, []float32{1, 2}))
	assert.NotContains(t, err.Error(), state)
	_, err = run(t, load(t, "forms:own_index_error", HookConfig{Futures: FutureFormsNCCL}), bucket(t, []float32{1, 2}))
	assert.NotContains(t, err.Error(), forms)
}

func TestATensorAsAKeyIsNotPrinted(t *testing.T) {
	var full []float32
	for range 50 {
		full = append(full, 0.12345)
	}
	for _, hook := range []string{"tensor_key", "tensor_key_in_a_callback", "tensor_key_alone_in_a_callback"} {
		for _, chained := range []bool{false, true} {
			call := run
			if chained && hook != "tensor_key" {
				call = func(t *testing.T, h c10d.CommHook, b *c10d.GradBucket) ([]float32, error) {
					return runChained(t, h.(*PythonCommHook), b)
				}
			}
			_, err := call(t, load(t, "forms:"+hook, HookConfig{}), bucket(t, full))
			require.ErrorContains(t, err, "KeyError: ", hook)
			assert.Contains(t, err.Error(), "ensor", hook)
			assert.NotContains(t, err.Error(), "0.123", hook)
			assert.Less(t, len(err.Error()), 900, hook)
			var python *PythonError
			require.ErrorAs(t, err, &python)
			assert.NotContains(t, python.FullTraceback(), "0.123", hook)
		}
	}
}

func TestAFunctionalCollectivesResultIsWaitedForAndTaken(t *testing.T) {
	h := load(t, "forms:functional", HookConfig{})
	got, err := run(t, h, bucket(t, []float32{1, 2}, []float32{3}))
	if python(t, "forms.has_functional") == false {
		require.ErrorIs(t, err, Exception("ImportError"), "torch 1.13 has no functional collectives")
		return
	}
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 2, 3}, got)
}

// TestAContextThatEndedIsNamedOnce where it was cancelled because another one ended, as
// ddp's is.
func TestAContextThatEndedIsNamedOnce(t *testing.T) {
	endsSoon := func() context.Context {
		deadline, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		t.Cleanup(cancel)
		ctx, stop := context.WithCancelCause(context.Background())
		context.AfterFunc(deadline, func() { stop(context.Cause(deadline)) })
		return ctx
	}
	b := bucket(t, []float32{1, 2})
	h := load(t, "forms:never", HookConfig{})
	future, err := h.RunHook(context.Background(), b)
	require.NoError(t, err)
	defer future.Close()
	_, pending := future.Wait(endsSoon())
	slow := load(t, "stuck:endless", HookConfig{})
	_, interrupted := slow.RunHook(endsSoon(), b)
	require.ErrorIs(t, interrupted, c10d.ErrInterrupted)
	ctx := endsSoon()
	<-ctx.Done()
	_, notCalled := h.RunHook(ctx, b)
	_, _, chained := h.RunHookChained(ctx, b)
	_, group := world.AllReduce(ctx, b.Buffer(), c10d.Sum)
	for what, err := range map[string]error{"pending": pending, "not called": notCalled, "interrupted": interrupted, "chained": chained,
		"group": group, "barrier": world.Barrier(ctx)} {
		require.Error(t, err, what)
		first, _, _ := strings.Cut(err.Error(), "\nhint: ")
		assert.Equal(t, 1, strings.Count(first, "context "), "%s: %s", what, first)
		assert.Contains(t, first, "context deadline exceeded", what)
		assert.ErrorIs(t, err, context.DeadlineExceeded, what)
		assert.ErrorIs(t, err, context.Canceled, what)
		var e *c10d.Error
		require.ErrorAs(t, err, &e, what)
		where := "rank 0, bucket 2: "
		if what == "group" || what == "barrier" {
			where = "rank 0: the process group failed: "
		}
		assert.Contains(t, first, where, what)
		assert.Equal(t, what == "not called" || what == "chained", strings.Contains(e.Hint, "nothing was started"), "%s: %s", what, e.Hint)
	}
}
