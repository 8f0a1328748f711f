package cbridge

import (
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/testutil"
)

// onDyingThread runs f on an OS thread that ends with it.
func onDyingThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and no unlock: the thread ends
		if syscall.Getpid() == syscall.Gettid() {
			// The process's first thread, which never ends: on another, while
			// this one is taken.
			defer runtime.UnlockOSThread()
			onDyingThread(f)
			return
		}
		f()
	}()
	<-done
}

func TestAttached(t *testing.T) {
	t.Run("a thread that ends gives its state back", func(t *testing.T) {
		m := module(t, "import threading, weakref\nlocal = threading.local()\nrefs = []\n"+
			"class C: pass\n"+
			"def keep(x=None):\n    local.c, local.x = C(), x\n    refs.append(weakref.ref(local.c))\n"+
			"def alive(): return sum(r() is not None for r in refs)\n")
		leaks.Check(t, func() {
			call(t, m, "alive")
			before := ThreadStates()
			f := goFunc(t, sum)
			for range 20 {
				onDyingThread(func() { assert.NoError(t, ignore(m.Call("keep", f))) })
			}
			f.Close() // the last threads to end drop the function
			testutil.Eventually(t, func() bool { return ThreadStates() <= before+1 && call(t, m, "alive") == int64(0) }, "thread-locals go with the state")
		})
	})
	t.Run("states grow with threads and not with calls", func(t *testing.T) {
		warm := value(t, "1")
		before := ThreadStates()
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for range often(1000) {
					assert.NoError(t, Attached(func() {}))
				}
			})
		}
		group.Wait()
		assert.LessOrEqual(t, ThreadStates(), before+int64(4+runtime.GOMAXPROCS(0)), warm)
	})
	t.Run("eight goroutines call at once", func(t *testing.T) {
		m := module(t, "def f(i, j): return i * j\n")
		leaks.Check(t, func() {
			f, err := m.Attr("f")
			require.NoError(t, err)
			defer f.Close()
			var group sync.WaitGroup
			for i := range 8 {
				group.Go(func() {
					for j := range often(10_000) {
						o, err := f.Invoke([]any{i, j}, nil)
						if !assert.NoError(t, err) {
							return
						}
						n, err := As[int64](o)
						if err != nil || n != int64(i*j) {
							t.Errorf("%d x %d is %d (%v)", i, j, n, err)
						}
						o.Close()
					}
				})
			}
			group.Wait()
		})
	})
	t.Run("a call that blocks holds up no other", func(t *testing.T) {
		m := module(t, "import threading\nbegun, end = threading.Event(), threading.Event()\n"+
			"def block():\n    begun.set()\n    return end.wait(60)\n"+
			"def blocks(): return begun.is_set() and not end.is_set()\n"+
			"def let_go(): end.set()\n")
		blocked := make(chan any)
		go func() {
			ended, err := m.CallValue("block")
			assert.NoError(t, err)
			blocked <- ended
		}()
		testutil.Eventually(t, func() bool { return call(t, m, "blocks") == true })
		for range min(50, often(1000)) {
			value(t, "sum(range(10))")
		}
		call(t, m, "let_go")
		assert.Equal(t, true, <-blocked, "the others went on while the call blocked")
	})
	t.Run("it nests", func(t *testing.T) {
		leaks.Check(t, func() {
			require.NoError(t, Attached(func() {
				for i := range 3 {
					assert.NoError(t, Attached(func() { assert.Equal(t, int64(i), value(t, fmt.Sprint(i))) }))
				}
			}))
		})
	})
	t.Run("threads that Python owns may enter", func(t *testing.T) {
		if ignore(python.Import("ctypes")) != nil {
			t.Skip("this Python has no ctypes")
		}
		m := module(t, "import ctypes, threading\n"+
			"def run(address, threads):\n"+
			"    free = ctypes.CFUNCTYPE(None)(address)    # lets the GIL go for the call\n"+
			"    held = ctypes.PYFUNCTYPE(None)(address)   # keeps it\n"+
			"    def work():\n        free(); held(); free()\n"+
			"    for _ in range(threads):\n"+
			"        t = threading.Thread(target=work); t.start(); t.join()\n"+
			"    return threads\n")
		before := ThreadStates()
		assert.Equal(t, int64(20), call(t, m, "run", bridge().ForeignEnter(), 20))
		assert.LessOrEqual(t, ThreadStates(), before+1)
		assert.Equal(t, int64(2), value(t, "1 + 1"))
	})
}

func ignore(o *Object, err error) error {
	o.Close()
	return err
}

func TestInterpreter_RunOnMain(t *testing.T) {
	t.Run("it is Python's main thread", func(t *testing.T) {
		const isMain = "__import__('threading').current_thread() is __import__('threading').main_thread()"
		for range 3 {
			require.NoError(t, python.RunOnMain(t.Context(), func() { assert.Equal(t, true, value(t, isMain)) }))
		}
		onDyingThread(func() { assert.Equal(t, false, value(t, isMain)) })
	})
	t.Run("from the main thread it does not wait for itself", func(t *testing.T) {
		ran := false
		f := goFunc(t, func([]*Object) (any, error) { return nil, python.RunOnMain(t.Context(), func() { ran = true }) })
		require.NoError(t, python.RunOnMain(t.Context(), func() { assert.NoError(t, ignore(f.Invoke(nil, nil))) }))
		assert.True(t, ran)
	})
	t.Run("a panic is the caller's", func(t *testing.T) {
		assert.PanicsWithValue(t, "dropped a tensor", func() {
			_ = python.RunOnMain(t.Context(), func() { panic("dropped a tensor") })
		})
		assert.PanicsWithValue(t, "inside", func() { _ = Attached(func() { panic("inside") }) })
		assert.Equal(t, int64(2), value(t, "1 + 1"))
	})
}

func TestKeepState(t *testing.T) {
	// One of torch's threads: each of its calls finds the state of the one before, and
	// nothing of that is left when it has ended.
	t.Run("a thread of C's keeps its state until it ends", func(t *testing.T) {
		m := module(t, "import threading, weakref\nlocal, refs, seen = threading.local(), [], []\n"+
			"class C: pass\n"+
			"def f():\n"+
			"    if not hasattr(local, 'c'):\n"+
			"        local.c, local.n = C(), 0\n"+
			"        refs.append(weakref.ref(local.c))\n"+
			"    local.n += 1\n"+
			"    seen.append(local.n)\n"+
			"def end():\n    out = seen[:]\n    seen.clear()\n    return out\n"+
			"def alive(): return sum(r() is not None for r in refs)\n")
		want := []any{int64(1), int64(2), int64(3)}
		if value(t, "__import__('sysconfig').get_config_var('Py_GIL_DISABLED')") == int64(1) {
			want = []any{int64(1), int64(1), int64(1)} // see pyh_keep_state
		}
		leaks.Check(t, func() {
			f, err := m.Attr("f")
			require.NoError(t, err)
			defer f.Close()
			call(t, m, "alive")
			before := ThreadStates()
			for range 20 {
				assert.NoError(t, f.Pointer(func(p unsafe.Pointer) error { bridge().Guest(p, 3); return nil }))
				assert.Equal(t, want, call(t, m, "end"))
			}
			testutil.Eventually(t, func() bool { return ThreadStates() <= before+1 && call(t, m, "alive") == int64(0) })
		})
	})
	// A thread of Python's may be asked to keep its state: Python deletes it all the same.
	t.Run("a thread of Python's may keep its state", func(t *testing.T) {
		if ignore(python.Import("ctypes")) != nil {
			t.Skip("this Python has no ctypes")
		}
		m := module(t, "import ctypes, threading\n"+
			"def run(address, threads):\n"+
			"    keep = ctypes.PYFUNCTYPE(None)(address)\n"+
			"    for _ in range(threads):\n"+
			"        t = threading.Thread(target=keep); t.start(); t.join()\n"+
			"    keep()\n"+
			"    return threads\n")
		before := ThreadStates()
		assert.Equal(t, int64(20), call(t, m, "run", bridge().ForeignKeep(), 20))
		testutil.Eventually(t, func() bool { return ThreadStates() <= before+1 })
		assert.Equal(t, int64(2), value(t, "1 + 1"))
	})
	t.Run("a thread that ends runs no Go function", func(t *testing.T) {
		m := module(t, "import threading\nlocal, seen = threading.local(), []\n"+
			"class Bell:\n"+
			"    def __init__(self, f): self.f = f\n"+
			"    def __del__(self):\n"+
			"        try: seen.append(self.f())\n"+
			"        except RuntimeError as e: seen.append(str(e))\n"+
			"def keep(f): local.bell = Bell(f)\n"+
			"def get(): return seen\n")
		leaks.Check(t, func() {
			f := goFunc(t, sum)
			onDyingThread(func() { assert.NoError(t, ignore(m.Call("keep", f))) })
			f.Close()
			want := []any{"no Go function can run on a thread that is ending"}
			testutil.Eventually(t, func() bool { return assert.ObjectsAreEqual(want, call(t, m, "get")) })
		})
	})
}
