package pyhook

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

// A hook that does not return is ended with its context, and the trainer goes
// on with it or with another.
func TestAHookEndsWithItsContext(t *testing.T) {
	for _, spec := range []string{"stuck:endless", "stuck:waits_for_a_lock", "stuck:endless_thread"} {
		check(t, spec, func(t *testing.T) {
			b := bucket(t, []float32{1, 2}, []float32{3})
			h := load(t, spec, HookConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			start := time.Now()
			_, err := h.RunHook(ctx, b)
			assert.Less(t, time.Since(start), 10*time.Second)
			require.ErrorIs(t, err, c10d.ErrInterrupted)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			var e *c10d.Error
			require.True(t, errors.As(err, &e))
			_, name, _ := strings.Cut(spec, ":")
			assert.Contains(t, e.Stacks, "in "+name)
			assert.Equal(t, name == "endless_thread", strings.Contains(e.Stacks, "Thread elsewhere:"))
			assert.Equal(t, b.Index(), e.Bucket)
			assert.Contains(t, err.Error(), "the hook was interrupted: context deadline exceeded")
			stillWorks(t, b)
		})
	}
}

func TestAHookMayRefuseToBeInterrupted(t *testing.T) {
	b := bucket(t, []float32{1, 2})
	state, err := rt.Import(t.Context(), "collections")
	require.NoError(t, err)
	defer state.Close()
	counter, err := state.Call("Counter")
	require.NoError(t, err)
	defer counter.Close()
	h := load(t, "stuck:stubborn", HookConfig{State: counter})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	future, err := h.RunHook(ctx, b)
	require.NoError(t, err, "its result counts")
	defer future.Close()
	caught, err := counter.CallValue("__getitem__", "caught")
	require.NoError(t, err)
	assert.EqualValues(t, 3, caught)
	stillWorks(t, b)
}

func TestACancelledContextIsTheCauseOfAnInterruption(t *testing.T) {
	b := bucket(t, []float32{1, 2})
	h := load(t, "stuck:endless", HookConfig{})
	reason := errors.New("the user stopped it")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		time.Sleep(30 * time.Millisecond)
		cancel(reason)
	}()
	_, err := h.RunHook(ctx, b)
	require.ErrorIs(t, err, reason)
	require.ErrorIs(t, err, context.Canceled)
	assert.Contains(t, err.Error(), "the user stopped it")
	stillWorks(t, b)
}

func TestAnEndlessCallbackOfAChainEndsWithItsContext(t *testing.T) {
	b := bucket(t, []float32{1, 2})
	h := load(t, "stuck:endless_callback", HookConfig{})
	future, chain, err := h.RunHookChained(t.Context(), b)
	require.NoError(t, err)
	defer future.Close()
	defer chain.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, _ = chain.Advance(ctx)
	assert.Less(t, time.Since(start), 10*time.Second)
	_, err = future.Wait(t.Context())
	assert.ErrorContains(t, err, "Interrupted in a callback")
	stillWorks(t, b)
}

// stillWorks runs another hook on the bucket.
func stillWorks(t *testing.T, b *c10d.GradBucket) {
	t.Helper()
	h := load(t, "noop", HookConfig{})
	for range 3 {
		future, err := h.RunHook(t.Context(), b)
		require.NoError(t, err)
		_, err = future.Wait(t.Context())
		require.NoError(t, err)
		future.Close()
	}
}

func TestASparseHookEndsWithItsContext(t *testing.T) {
	p := &c10d.Parameter{Name: "table", Shape: []int64{4, 2}, DType: tensor.Float32, Sparse: true}
	t.Cleanup(p.Close)
	rows, err := tensor.FromSlice([]int64{1, 3}, 1, 2)
	require.NoError(t, err)
	t.Cleanup(rows.Close)
	numbers, err := tensor.FromSlice([]float32{1, 2, 3, 4}, 2, 2)
	require.NoError(t, err)
	t.Cleanup(numbers.Close)
	b, err := c10d.NewSparseGradBucket(1, 2, p, &c10d.SparseGradient{Indices: rows, Values: numbers})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = load(t, "stuck:waits_for_a_lock", HookConfig{}).RunHook(ctx, b)
	require.ErrorIs(t, err, c10d.ErrInterrupted)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var e *c10d.Error
	require.True(t, errors.As(err, &e))
	assert.Equal(t, 1, e.Bucket)
	assert.Contains(t, e.Stacks, "in waits_for_a_lock")
}

// What is not a hook's call, and runs the user's Python code.
func TestRuntime_contexts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "endless_module.py")
	require.NoError(t, os.WriteFile(file, []byte("while True: pass"), 0o600))
	object, err := rt.Import(t.Context(), "stuck_making")
	require.NoError(t, err)
	t.Cleanup(object.Close)
	registers, err := object.Attr("registers")
	require.NoError(t, err)
	t.Cleanup(registers.Close)
	function, err := object.Attr("hook")
	require.NoError(t, err)
	t.Cleanup(function.Close)
	saved := bytes.NewBuffer(nil)
	state, err := rt.NewState(t.Context(), "stuck_making:State", nil, nil)
	require.NoError(t, err)
	t.Cleanup(state.Close)
	stateful := load(t, "stuck_making:hook", HookConfig{State: state})
	require.NoError(t, stateful.SaveState(t.Context(), saved))

	calls := map[string]func(ctx context.Context) error{
		"LoadHook": func(ctx context.Context) error { _, err := rt.LoadHook(ctx, file+":hook"); return err },
		"NewHook": func(ctx context.Context) error {
			_, err := rt.NewHook(ctx, "stuck_making:endless()", HookConfig{})
			return err
		},
		"NewState": func(ctx context.Context) error {
			_, err := rt.NewState(ctx, "stuck_making:endless", nil, nil)
			return err
		},
		"Capture":   func(ctx context.Context) error { _, err := rt.Capture(ctx, registers, HookConfig{}); return err },
		"Import":    func(ctx context.Context) error { _, err := rt.Import(ctx, "endless_import"); return err },
		"SaveState": func(ctx context.Context) error { return stateful.SaveState(ctx, bytes.NewBuffer(nil)) },
		"LoadState": func(ctx context.Context) error { return stateful.LoadState(ctx, bytes.NewReader(saved.Bytes())) },
		"WrapHook": func(ctx context.Context) error {
			_, err := rt.WrapHook(ctx, function, HookConfig{State: StateSpec{Spec: "stuck_making:endless"}})
			return err
		},
	}
	require.NoError(t, state.SetAttr("endless", true))
	for name, call := range calls {
		check(t, name+" is interrupted by its context's end", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			err := call(ctx)
			require.ErrorIs(t, err, c10d.ErrInterrupted)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			var python *PythonError
			require.ErrorAs(t, err, &python)
			var e *c10d.Error
			if errors.As(err, &e) {
				assert.Contains(t, e.Stacks, "in ")
				assert.Contains(t, err.Error(), "context deadline exceeded")
			} else {
				assert.Equal(t, "Import", name)
			}
		})
		check(t, name+" calls nothing with a context that has ended", func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			reason := errors.New("the user stopped it")
			cancel(reason)
			err := call(ctx)
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, err, reason)
			assert.NotErrorIs(t, err, c10d.ErrInterrupted)
			assert.ErrorContains(t, err, "not called")
		})
	}
	t.Run("LoadHook does not wait longer for Python's main thread", func(t *testing.T) {
		began, end := make(chan struct{}), make(chan struct{})
		done := make(chan error)
		go func() { done <- rt.RunOnMain(t.Context(), func() { close(began); <-end }) }()
		<-began
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := rt.LoadHook(ctx, "noop")
		require.ErrorIs(t, err, c10d.ErrDeadline)
		close(end)
		require.NoError(t, <-done)
		hook, err := rt.LoadHook(t.Context(), "noop")
		require.NoError(t, err)
		hook.Close()
	})
	t.Run("groups and stores", func(t *testing.T) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := world.NewGroup(ended, []int{0})
		require.ErrorIs(t, err, context.Canceled)
		_, err = world.DTypes(ended)
		require.ErrorIs(t, err, context.Canceled)
		_, err = rt.NewFileStore(ended, filepath.Join(t.TempDir(), "store"), 1)
		require.ErrorIs(t, err, context.Canceled)
		_, err = rt.NewTCPStore(ended, "127.0.0.1", 0, 1, true, time.Second)
		require.ErrorIs(t, err, context.Canceled)
	})
}
