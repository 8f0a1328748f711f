package tensorconv

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/internal/debuggc"
)

//go:embed testdata/helpers.py
var helperSource string

// python is this process's one interpreter, and helper is testdata/helpers.py
// in it.
var (
	python *cbridge.Interpreter
	helper *cbridge.Object
)

// childCase is set in the environment of a test binary that runs childMain.
const childCase = "PYHOOK_TENSORCONV_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childCase) != "" {
		childMain()
		os.Exit(0)
	}
	flag.Parse()
	if err := startWithTorch(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func startWithTorch() error {
	if err := startWithoutTorch(); err != nil {
		return err
	}
	_, err := torch() // whose objects stay
	return err
}

func startWithoutTorch() (err error) {
	python, err = cbridge.Start(context.Background(), cbridge.Config{Modules: []string{"torch", "numpy"}})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "Python %s from %s (%s)\n", python.Version, python.Library, python.Python.Source)
	helper, err = python.Module("tensorconv_helpers", helperSource)
	return err
}

// often is how often a long test does something: n, or less where each use of a
// handle collects garbage.
func often(n int) int {
	if debuggc.On {
		return max(n/100, 4)
	}
	return n
}

// noLeaks asserts at the test's end that every handle and every piece of memory
// that it made is gone. Call it before anything else of the test.
func noLeaks(t testing.TB) {
	t.Helper()
	type counts struct{ tensors, memory, objects, releases int64 }
	count := func() counts {
		n := int64(0)
		releases.Range(func(any, any) bool { n++; return true })
		return counts{LiveTensors(), LiveMemory(), cbridge.LiveObjects(), n}
	}
	runtime.GC() // what earlier tests forgot
	before := count()
	t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second)
		for count() != before && time.Now().Before(deadline) {
			runtime.GC()
			_ = cbridge.Attached(func() {}) // an enter does the deferred work
			time.Sleep(time.Millisecond)
		}
		assert.Equal(t, before, count(), "left open at the end")
	})
}

// call calls a helper and returns the result as a Go value.
func call(t testing.TB, name string, args ...any) any {
	t.Helper()
	v, err := helper.CallValue(name, args...)
	require.NoError(t, err)
	return v
}

// eval runs an expression, in which torch and numpy are known. The result is
// closed at the test's end.
func eval(t testing.TB, expression string) *cbridge.Object {
	t.Helper()
	o, err := helper.Call("evaluate", expression)
	require.NoError(t, err, expression)
	t.Cleanup(o.Close)
	return o
}

// newClosed is New, closed at the test's end.
func newClosed(t testing.TB, dtype DType, shape ...int64) *Tensor {
	t.Helper()
	x, err := New(dtype, shape...)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	return x
}

// toPython is x.Python, closed at the test's end.
func toPython(t testing.TB, x *Tensor) *cbridge.Object {
	t.Helper()
	o, err := x.Python()
	require.NoError(t, err)
	t.Cleanup(o.Close)
	return o
}

// fromPython is FromPython, closed at the test's end.
func fromPython(t testing.TB, o *cbridge.Object) *Tensor {
	t.Helper()
	x, err := FromPython(o)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	return x
}

// requireError asserts that err is of this package, with a text that has part.
func requireError(t testing.TB, err error, part string) {
	t.Helper()
	var ours *Error
	require.ErrorAs(t, err, &ours)
	require.ErrorContains(t, err, part)
}

// here are the dtypes that this process's torch has.
func here(t testing.TB) []DType {
	t.Helper()
	s, err := torch()
	require.NoError(t, err)
	var list []DType
	for _, d := range DTypes() {
		if s.dtypes[d] != nil {
			list = append(list, d)
		}
	}
	return list
}

// walk reads x's elements in row-major order, one by one.
func walk(x *Tensor) []byte {
	size := x.dtype.Size()
	out := make([]byte, 0, x.Bytes())
	var step func(dim int, at int64)
	step = func(dim int, at int64) {
		if dim == len(x.shape) {
			out = append(out, unsafe.Slice((*byte)(unsafe.Add(x.data, at*int64(size))), size)...)
			return
		}
		for i := range x.shape[dim] {
			step(dim+1, at+i*x.strides[dim])
		}
	}
	step(0, 0)
	return out
}
