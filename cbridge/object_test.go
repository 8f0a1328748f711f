package cbridge

import (
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/ctest"
	"pyhook/internal/testutil"
)

func TestObject_Close(t *testing.T) {
	t.Run("it may be called again", func(t *testing.T) {
		leaks.Check(t, func() {
			before := LiveObjects()
			o := eval(t, "object()")
			assert.Equal(t, before+1, LiveObjects())
			o.Close()
			o.Close()
			(*Object)(nil).Close()
			assert.Equal(t, before, LiveObjects())
		})
	})
	t.Run("every later use is an error", func(t *testing.T) {
		leaks.Check(t, func() {
			o := eval(t, "object()")
			o.Close()
			other := eval(t, "[]")
			defer other.Close()
			uses := map[string]func() error{
				"Attr":      func() error { _, err := o.Attr("x"); return err },
				"SetAttr":   func() error { return o.SetAttr("x", 1) },
				"With":      func() error { return o.With("x", nil) },
				"Invoke":    func() error { _, err := o.Invoke(nil, nil); return err },
				"Call":      func() error { _, err := o.Call("x"); return err },
				"CallValue": func() error { _, err := o.CallValue("x"); return err },
				"Value":     func() error { _, err := o.Value(); return err },
				"Str":       func() error { _, err := o.Str(); return err },
				"Repr":      func() error { _, err := o.Repr(); return err },
				"Pointer":   func() error { return o.Pointer(nil) },
				"Convert":   func() error { _, err := Convert([]any{o}); return err },
				"argument":  func() error { _, err := other.Call("append", o); return err },
				"TakeError": func() error { return TakeError(o) },
				"nil":       func() error { _, err := (*Object)(nil).Str(); return err },
			}
			for name, use := range uses {
				assert.ErrorIs(t, use(), ErrObjectClosed, name)
			}
			assert.False(t, o.IsNone())
			assert.False(t, o.Same(o))
			assert.False(t, other.Same(o))
		})
	})
	t.Run("it waits for nobody and harms nobody inside", func(t *testing.T) {
		leaks.Check(t, func() {
			o := eval(t, "list(range(100))")
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					for {
						s, err := o.Str()
						if err != nil {
							assert.ErrorIs(t, err, ErrObjectClosed)
							return
						}
						assert.Equal(t, "[0, 1,", s[:6])
					}
				})
			}
			time.Sleep(20 * time.Millisecond)
			o.Close()
			group.Wait()
		})
	})
}

// forget makes an object of class C and lets the handle go without Close.
//
//go:noinline
func forget(t *testing.T, m *Object) {
	o, err := m.Call("make")
	require.NoError(t, err)
	_, err = o.Str()
	require.NoError(t, err)
}

func TestObject(t *testing.T) {
	t.Run("a forgotten one is collected", func(t *testing.T) {
		m := module(t, "import weakref\nclass C: pass\nrefs = []\n"+
			"def make():\n    c = C()\n    refs.append(weakref.ref(c))\n    return c\n"+
			"def alive(): return sum(r() is not None for r in refs)\n")
		leaks.Check(t, func() {
			for range 10 {
				forget(t, m)
			}
			testutil.Eventually(t, func() bool {
				runtime.GC()
				return call(t, m, "alive") == int64(0)
			})
		})
	})
	t.Run("many calls leave the reference count as it was", func(t *testing.T) {
		m := module(t, "import sys\nprobe, fault = object(), KeyError('k')\n"+
			"def count():\n    fault.with_traceback(None)  # whose frames hold their arguments\n"+
			"    return [sys.getrefcount(x) for x in (probe, fault, take, None.__class__)]\n"+
			"def take(x, *, k=None): return x\n"+
			"def fail(x): raise fault.with_traceback(None)\n")
		leaks.Check(t, func() {
			probe, err := m.Attr("probe")
			require.NoError(t, err)
			defer probe.Close()
			before := call(t, m, "count")
			take, err := m.Attr("take")
			require.NoError(t, err)
			defer take.Close()
			for range often(10_000) {
				result, err := take.Invoke([]any{probe}, map[string]any{"k": []any{probe, 1, "s"}})
				require.NoError(t, err)
				require.True(t, result.Same(probe))
				result.Close()
				_, err = take.Invoke([]any{probe, make(chan int)}, nil) // refused half way
				require.Error(t, err)
			}
			for range often(500) {
				_, err := m.CallValue("fail", probe)
				require.ErrorIs(t, err, Exception("KeyError"))
			}
			take.Close()
			after := call(t, m, "count")
			assert.Equal(t, before, after)
		})
	})
	t.Run("Same, IsNone, Str and Repr", func(t *testing.T) {
		leaks.Check(t, func() {
			a, none := eval(t, "'été'"), eval(t, "None")
			defer a.Close()
			defer none.Close()
			same, err := Convert(a)
			require.NoError(t, err)
			defer same.Close()
			assert.True(t, a.Same(same))
			assert.False(t, a.Same(none))
			assert.False(t, a.Same(nil))
			assert.True(t, none.IsNone())
			assert.False(t, a.IsNone())
			s, err := a.Str()
			require.NoError(t, err)
			assert.Equal(t, "été", s)
			s, err = a.Repr()
			require.NoError(t, err)
			assert.Equal(t, "'été'", s)
		})
		m := module(t, "class Rude:\n    def __repr__(self): raise OSError('no')\n    def __str__(self): return 5\n")
		leaks.Check(t, func() {
			o, err := m.Call("Rude")
			require.NoError(t, err)
			defer o.Close()
			_, err = o.Repr()
			require.ErrorIs(t, err, Exception("OSError"))
			_, err = o.Str()
			require.ErrorIs(t, err, Exception("TypeError"))
		})
	})
	t.Run("build and check take what C code returned", func(t *testing.T) {
		ctest.Init()
		leaks.Check(t, func() {
			exc := eval(t, "OSError('from C')")
			defer exc.Close()
			require.NoError(t, exc.Pointer(func(ptr unsafe.Pointer) error {
				o, err := build(func() unsafe.Pointer { return ctest.NewReference(ptr) })
				require.NoError(t, err)
				assert.True(t, o.Same(exc))
				o.Close()
				_, err = build(func() unsafe.Pointer { ctest.Raise(); return nil })
				require.EqualError(t, err, "TypeError: raised by C")
				return check(func() bool { return true })
			}))
			require.EqualError(t, check(func() bool { ctest.Raise(); return false }), "TypeError: raised by C")
		})
	})
	t.Run("a reference is dropped on a thread that Python does not know", func(t *testing.T) {
		m := module(t, "import sys\nx = object()\ndef count(): return sys.getrefcount(x)\n")
		o, err := m.Attr("x")
		require.NoError(t, err)
		defer o.Close()
		ctest.Init()
		before := call(t, m, "count")
		require.NoError(t, o.Pointer(func(ptr unsafe.Pointer) error {
			require.NoError(t, Attached(func() {
				for range 1000 {
					ctest.NewReference(ptr)
				}
			}))
			bridge().DeferFromThread(ptr, 1000)
			return nil
		}))
		assert.Equal(t, before, call(t, m, "count"))
	})
}

func TestObject_Attr(t *testing.T) {
	t.Run("attributes are read, set and missed", func(t *testing.T) {
		m := module(t, "class C: __slots__ = ('a',)\n")
		leaks.Check(t, func() {
			o, err := m.Call("C")
			require.NoError(t, err)
			defer o.Close()
			require.NoError(t, o.SetAttr("a", map[string]any{"lr": 0.1}))
			require.NoError(t, o.With("a", func(a *Object) error {
				v, err := a.Value()
				assert.Equal(t, map[any]any{"lr": 0.1}, v)
				return err
			}))
			require.ErrorIs(t, o.SetAttr("b", 1), Exception("AttributeError"))
			require.Error(t, o.SetAttr("a", make(chan int)))
			require.ErrorIs(t, o.With("b", nil), Exception("AttributeError"))
			stop := errors.New("stop")
			require.ErrorIs(t, o.With("a", func(*Object) error { return stop }), stop)
		})
	})
}

func TestObject_Invoke(t *testing.T) {
	t.Run("keyword arguments arrive by name", func(t *testing.T) {
		m := module(t, "def f(a, b=2, *, c): return [a, b, c]\n")
		leaks.Check(t, func() {
			f, err := m.Attr("f")
			require.NoError(t, err)
			defer f.Close()
			o, err := f.Invoke([]any{1}, map[string]any{"c": 3})
			require.NoError(t, err)
			defer o.Close()
			v, err := o.Value()
			require.NoError(t, err)
			assert.Equal(t, []any{int64(1), int64(2), int64(3)}, v)
			_, err = f.Invoke([]any{1}, nil)
			require.ErrorIs(t, err, Exception("TypeError"))
			_, err = f.Invoke(nil, map[string]any{"c": func() {}})
			require.ErrorContains(t, err, "keyword arguments: [c]: cannot convert func()")
			_, err = f.Invoke([]any{1, make(chan int)}, nil)
			require.ErrorContains(t, err, "argument 1: cannot convert chan int")
			_, err = m.Call("f.g")
			require.ErrorIs(t, err, Exception("AttributeError"))
		})
	})
}

func TestTakeError(t *testing.T) {
	t.Run("it takes the exception over", func(t *testing.T) {
		leaks.Check(t, func() {
			err := TakeError(eval(t, "OSError('from C')"))
			require.ErrorIs(t, err, Exception("OSError"))
			assert.EqualError(t, err, "OSError: from C")
		})
	})
}

func TestObject_Clone(t *testing.T) {
	t.Run("it is closed on its own", func(t *testing.T) {
		leaks.Check(t, func() {
			o := eval(t, "[1]")
			clone, err := o.Clone()
			require.NoError(t, err)
			assert.True(t, clone.Same(o))
			o.Close()
			s, err := clone.Str()
			require.NoError(t, err)
			assert.Equal(t, "[1]", s)
			clone.Close()
			_, err = clone.Clone()
			require.ErrorIs(t, err, ErrObjectClosed)
		})
	})
}
