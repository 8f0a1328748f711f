package cbridge

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// goFunc makes a Python callable of fn for the test's duration.
func goFunc(t *testing.T, fn GoFunc) *Object {
	t.Helper()
	o, err := NewFunc("go_func", fn)
	require.NoError(t, err)
	t.Cleanup(o.Close)
	return o
}

// sum adds its arguments, which are ints.
func sum(args []*Object) (any, error) {
	var total int64
	for _, arg := range args {
		n, err := As[int64](arg)
		if err != nil {
			return nil, err
		}
		total += n
	}
	return total, nil
}

func TestNewFunc(t *testing.T) {
	t.Run("Python calls it", func(t *testing.T) {
		m := module(t, "def apply(f, *args): return [f(*args), f.__name__, callable(f)]\n")
		leaks.Check(t, func() {
			f := goFunc(t, sum)
			defer f.Close()
			assert.Equal(t, []any{int64(6), "go_func", true}, call(t, m, "apply", f, 1, 2, 3))
			assert.Equal(t, []any{int64(0), "go_func", true}, call(t, m, "apply", f))
		})
	})
	t.Run("Python's threads call it at once", func(t *testing.T) {
		m := module(t, "import threading\n"+
			"def run(f, threads, calls):\n"+
			"    out, lock = [], threading.Lock()\n"+
			"    def work(i):\n"+
			"        got = sum(f(i, j) for j in range(calls))\n"+
			"        with lock: out.append(got)\n"+
			"    ts = [threading.Thread(target=work, args=(i,)) for i in range(threads)]\n"+
			"    [t.start() for t in ts]; [t.join() for t in ts]\n"+
			"    return sum(out)\n")
		leaks.Check(t, func() {
			states := ThreadStates()
			f := goFunc(t, func(args []*Object) (any, error) {
				helper, err := python.Import("math") // and back into Python from there
				if err != nil {
					return nil, err
				}
				defer helper.Close()
				return sum(args)
			})
			defer f.Close()
			assert.Equal(t, int64(0+10+20+30+4*45), call(t, m, "run", f, 4, 10))
			assert.LessOrEqual(t, ThreadStates(), states+1, "a thread of Python's keeps its own state")
		})
	})
	t.Run("many goroutines and Python call each other", func(t *testing.T) {
		m := module(t, "def apply(f, n): return f(n) + 1\n")
		leaks.Check(t, func() {
			var calls atomic.Int64
			f := goFunc(t, func(args []*Object) (any, error) { calls.Add(1); return sum(args) })
			defer f.Close()
			var group sync.WaitGroup
			for i := range 8 {
				group.Go(func() {
					for range often(200) {
						v, err := m.CallValue("apply", f, i)
						assert.NoError(t, err)
						assert.Equal(t, int64(i+1), v)
					}
				})
			}
			group.Wait()
			assert.Equal(t, int64(8*often(200)), calls.Load())
		})
	})
	t.Run("keyword arguments are refused", func(t *testing.T) {
		f := goFunc(t, sum)
		_, err := f.Invoke(nil, map[string]any{"a": 1})
		require.ErrorIs(t, err, Exception("TypeError"))
	})
	t.Run("its arguments are closed when it returns", func(t *testing.T) {
		leaks.Check(t, func() {
			var kept *Object
			f := goFunc(t, func(args []*Object) (any, error) { kept = args[0]; return args[0], nil })
			defer f.Close()
			o, err := f.Invoke([]any{"x"}, nil)
			require.NoError(t, err)
			defer o.Close()
			s, err := o.Str()
			require.NoError(t, err)
			assert.Equal(t, "x", s)
			_, err = kept.Str()
			require.ErrorIs(t, err, ErrObjectClosed)
		})
	})
	t.Run("it lives as long as Python holds it", func(t *testing.T) {
		m := module(t, "held = []\nhold = held.append\ndef use(): return held[0](20, 22)\ndef drop(): held.clear()\n")
		funcs := LiveFuncs()
		f := goFunc(t, sum)
		call(t, m, "hold", f)
		f.Close()
		assert.Equal(t, funcs+1, LiveFuncs())
		assert.Equal(t, int64(42), call(t, m, "use"))
		call(t, m, "drop")
		assert.Equal(t, funcs, LiveFuncs())
	})
	t.Run("calls nest through both languages", func(t *testing.T) {
		m := module(t, "def down(f, n): return f(n - 1) + 1 if n else 0\n")
		leaks.Check(t, func() {
			var f *Object
			f = goFunc(t, func(args []*Object) (any, error) { return m.CallValue("down", f, args[0]) })
			defer f.Close()
			assert.Equal(t, int64(100), call(t, m, "down", f, 100))
		})
	})
	t.Run("endless nesting through both languages is an error", func(t *testing.T) {
		m := module(t, "def down(f): return f()\n")
		leaks.Check(t, func() {
			var f *Object
			depth := 0
			f = goFunc(t, func([]*Object) (any, error) {
				depth++
				if _, err := m.Call("down", f); err != nil {
					var raised *PythonError
					if errors.As(err, &raised) && raised.Type == "RecursionError" {
						return nil, fmt.Errorf("at the bottom: %s", raised.Type)
					}
					return nil, errors.New("at the bottom: RecursionError")
				}
				return nil, nil
			})
			defer f.Close()
			_, err := m.Call("down", f)
			require.ErrorContains(t, err, "at the bottom: RecursionError")
			assert.Greater(t, depth, 100)
		})
	})
}

type panickingForm struct{}

func TestNewFunc_Errors(t *testing.T) {
	m := module(t, "def attempt(f):\n"+
		"    try: return f(1)\n"+
		"    except RuntimeError as e: return 'RuntimeError: ' + str(e)\n")
	cases := map[string]struct {
		fn   GoFunc
		want []string
	}{
		"an error":  {func([]*Object) (any, error) { return nil, errors.New("link down") }, []string{"RuntimeError: link down"}},
		"odd bytes": {func([]*Object) (any, error) { return nil, errors.New("a\xff\x00b") }, []string{"RuntimeError: a\uFFFD\\x00b"}},
		"a panic": {func([]*Object) (any, error) { panic("out of luck") },
			[]string{"panic in a Go function called from Python: out of luck", "callback_test.go:"}},
		//lint:ignore SA5000 the panic is what is tested
		"a nil map written": {func([]*Object) (any, error) { var m map[int]int; m[1] = 1; return nil, nil },
			[]string{"assignment to entry in nil map"}},
		"a nil pointer": {func([]*Object) (any, error) { var p *builder; return p.data[0], nil },
			[]string{"nil pointer dereference"}},
		"a result without a Python form": {func([]*Object) (any, error) { return func() {}, nil },
			[]string{"RuntimeError: cannot convert func(): no Python form"}},
		"a result that panics when converted": {func([]*Object) (any, error) { return panickingForm{}, nil },
			[]string{"panic in a Go function called from Python: no form"}},
		"a Python error inside": {func(a []*Object) (any, error) { return a[0].CallValue("nothing") },
			[]string{"RuntimeError: AttributeError: 'int' object has no attribute 'nothing'"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			leaks.Check(t, func() {
				f := goFunc(t, c.fn)
				defer f.Close()
				got := call(t, m, "attempt", f)
				for _, want := range c.want {
					assert.Contains(t, got, want)
				}
			})
		})
	}
	assert.Equal(t, int64(2), value(t, "1 + 1"), "Python lives on")
}
