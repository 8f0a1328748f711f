package pyhook

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
)

// nilPointerIsRecovered dereferences one.
func nilPointerIsRecovered(t *testing.T) {
	t.Helper()
	defer func() { assert.ErrorContains(t, recover().(error), "nil pointer dereference") }()
	var p *[4]int
	_ = p[2]
}

func TestImportAndStateAreOnPythonsMainThread(t *testing.T) {
	state, err := rt.NewState(t.Context(), "bound:State", nil, nil)
	require.NoError(t, err) // signal.signal at import is a ValueError elsewhere
	defer state.Close()
	nilPointerIsRecovered(t)
	h := load(t, "bound:hook", HookConfig{State: state})
	b := bucket(t, []float32{1, 2})
	for range 3 {
		require.NoError(t, rt.RunOnMain(t.Context(), func() {
			future, chain, err := h.RunHookChained(t.Context(), b)
			if !assert.NoError(t, err) {
				return
			}
			defer future.Close()
			defer chain.Close()
			_, err = chain.Advance(t.Context())
			assert.NoError(t, err)
			_, err = future.Wait(t.Context())
			assert.NoError(t, err)
		}))
	}
	module, err := rt.Import(t.Context(), "bound")
	require.NoError(t, err)
	defer module.Close()
	require.NoError(t, rt.RunOnMain(t.Context(), func() {
		counted, err := module.CallValue("calls", state)
		assert.NoError(t, err)
		assert.Equal(t, []any{int64(6), int64(6), int64(6)}, counted)
	}))

	// A hook that is called on another thread is not bound to any, and fails as in Python.
	_, err = h.RunHook(t.Context(), b)
	require.ErrorIs(t, err, c10d.ErrRaised)

	require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGUSR2))
	testutil.Eventually(t, func() bool {
		seen := false
		return module.With("SIGNALS", func(list *Object) error {
			v, err := list.Value()
			seen = err == nil && assert.ObjectsAreEqual([]any{int64(1)}, v)
			return err
		}) == nil && seen
	}, "the module's own signal handler")
	require.NoError(t, rt.RunOnMain(t.Context(), func() { python(t, "bound.forget_signals") }))
}

// Whoever looks at a hook that hangs on Python's main thread must not wait for it.
func TestAModuleThatIsThereIsHadWhileTheMainThreadIsBusy(t *testing.T) {
	began, end, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() { done <- rt.RunOnMain(t.Context(), func() { close(began); <-end }) }()
	<-began
	assert.NotEmpty(t, python(t, "threading.get_ident"))
	close(end)
	require.NoError(t, <-done)
}

func TestFaultsStayGosAfterAHookCall(t *testing.T) {
	h := load(t, "bound:takes_faults", HookConfig{})
	b := bucket(t, []float32{1})
	for range 3 {
		_, err := run(t, h, b)
		require.NoError(t, err)
		nilPointerIsRecovered(t)
	}
	require.NoError(t, rt.RunOnMain(t.Context(), func() {
		_, err := run(t, h, b)
		assert.NoError(t, err)
		nilPointerIsRecovered(t)
	}))
}

func TestTheFirstHasPythonsMainThreadAndOthersOnesOfTheirOwn(t *testing.T) {
	h := load(t, "noop", HookConfig{})
	ident := func() any { return python(t, "threading.get_ident") }
	var main any
	require.NoError(t, rt.RunOnMain(t.Context(), func() {
		main = ident()
		assert.False(t, h.BindThread().Waiting()) // else it would wait for itself
	}))
	first, second := h.BindThread(), h.BindThread()
	done := make(chan any)
	work := make(chan struct{}, 100)
	go func() {
		first.Run(func() { work <- struct{}{} }, func() {
			done <- ident()
			for range work {
				for first.Waiting() {
					first.Serve()
				}
			}
		})
		done <- nil
	}()
	assert.Equal(t, main, <-done)
	for range 5 { // others get a turn while it has nothing to do
		require.NoError(t, rt.RunOnMain(t.Context(), func() { assert.Equal(t, main, ident()) }))
	}
	second.Run(nil, func() { assert.NotEqual(t, main, ident()) })
	assert.False(t, second.Waiting())
	close(work)
	assert.Nil(t, <-done)
	h.BindThread().Run(func() {}, func() { assert.Equal(t, main, ident(), "it is free again") })
	require.NoError(t, rt.RunOnMain(t.Context(), func() {}))
}
