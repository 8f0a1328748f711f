// Package torchtest runs Python with torch in a test's process, and compares tensors with torch's.
package torchtest

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/internal/testutil"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

//go:embed helpers.py
var helperSource string

// Python is this process's one interpreter, and Helper is helpers.py in it: see Start.
var (
	Python *cbridge.Interpreter
	Helper *cbridge.Object
)

// Start starts Python with helpers.py, which imports torch, or with a source in its place.
func Start(source string) (err error) {
	Python, err = cbridge.Start(context.Background(), cbridge.Config{Modules: []string{"torch", "numpy"}})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "Python %s from %s (%s)\n", Python.Version, Python.Library, Python.Python.Source)
	Helper, err = Python.Module("torchtest_helpers", cmp.Or(source, helperSource))
	return err
}

// Main is TestMain with torch imported, whose objects stay.
func Main(m *testing.M) {
	err := Start("")
	if err == nil {
		err = warmUp()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func warmUp() error {
	t, err := tensor.New(tensor.Float32, 1)
	if err != nil {
		return err
	}
	defer t.Close()
	o, err := tensorconv.ToPython(t)
	if err != nil {
		return err
	}
	o.Close()
	return nil
}

// Often is how often a long test does something.
func Often(n int) int { return testutil.Scale{Debug: 100}.Of(n) }

// handles are what must come back to its start.
type handles struct{ Tensors, Memory, Objects int64 }

// NoLeaks asserts at the test's end that every handle and every piece of memory
// that it made is gone. Call it before anything else of the test.
func NoLeaks(t testing.TB) {
	t.Helper()
	testutil.Leaks[handles]{Collect: runtime.GC, Counts: func() handles {
		_ = cbridge.Attached(func() {}) // an enter does the deferred work
		return handles{tensor.LiveTensors(), tensor.LiveMemory(), cbridge.LiveObjects()}
	}}.CheckTest(t)
}

// Call calls a helper and returns the result as a Go value.
func Call(t testing.TB, name string, args ...any) any {
	t.Helper()
	v, err := Helper.CallValue(name, args...)
	require.NoError(t, err)
	return v
}

// Eval runs an expression, in which torch and numpy are known. The result is
// closed at the test's end.
func Eval(t testing.TB, expression string) *cbridge.Object {
	t.Helper()
	o, err := Helper.Call("evaluate", expression)
	require.NoError(t, err, expression)
	t.Cleanup(o.Close)
	return o
}

// New is tensor.New, closed at the test's end.
func New(t testing.TB, dtype tensor.DType, shape ...int64) *tensor.Tensor {
	t.Helper()
	x, err := tensor.New(dtype, shape...)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	return x
}

// ToPython is tensorconv.ToPython, closed at the test's end.
func ToPython(t testing.TB, x *tensor.Tensor) *cbridge.Object {
	t.Helper()
	o, err := tensorconv.ToPython(x)
	require.NoError(t, err)
	t.Cleanup(o.Close)
	return o
}

// FromPython is tensorconv.FromPython, closed at the test's end.
func FromPython(t testing.TB, o *cbridge.Object) *tensor.Tensor {
	t.Helper()
	x, err := tensorconv.FromPython(o)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	return x
}

// RequireError asserts that err is of package tensor, with a text that has part.
func RequireError(t testing.TB, err error, part string) {
	t.Helper()
	var ours *tensor.Error
	require.ErrorAs(t, err, &ours)
	require.ErrorContains(t, err, part)
}

// DTypes are the dtypes that this process's torch has.
func DTypes(t testing.TB) []tensor.DType {
	t.Helper()
	torch, err := cbridge.Import("torch")
	require.NoError(t, err)
	defer torch.Close()
	var list []tensor.DType
	for _, d := range tensor.DTypes() {
		if dtype, err := torch.Attr(d.String()); err == nil {
			dtype.Close()
			list = append(list, d)
		}
	}
	return list
}

// Walk reads x's elements in row-major order, one by one.
func Walk(x *tensor.Tensor) []byte {
	size := x.DType().Size()
	out := make([]byte, 0, x.Bytes())
	var step func(dim int, at int64)
	step = func(dim int, at int64) {
		if dim == len(x.Shape()) {
			out = append(out, unsafe.Slice((*byte)(unsafe.Add(x.Data(), at*int64(size))), size)...)
			return
		}
		for i := range x.Shape()[dim] {
			step(dim+1, at+i*x.Strides()[dim])
		}
	}
	step(0, 0)
	return out
}

// Randomize fills the memory of a contiguous tensor with random bits.
func Randomize(t testing.TB, random *rand.Rand, x *tensor.Tensor) {
	t.Helper()
	b, err := tensor.RawBytes(x)
	require.NoError(t, err)
	for i := range b {
		b[i] = byte(random.Uint32())
		if x.DType() == tensor.Bool {
			b[i] &= 1
		}
	}
}

// RandomView makes memory of random content and a view on it: any rank to 5,
// sizes 0 to 4, dimensions in any order in memory, with gaps, some expanded.
func RandomView(t testing.TB, random *rand.Rand, dtype tensor.DType) (base, view *tensor.Tensor) {
	t.Helper()
	shape := make([]int64, random.IntN(6))
	strides := make([]int64, len(shape))
	for i := range shape {
		shape[i] = 1 + random.Int64N(4)
		if random.IntN(20) == 0 {
			shape[i] = 0
		}
	}
	step := int64(1)
	for _, dim := range random.Perm(len(shape)) {
		if random.IntN(8) == 0 {
			continue // expanded
		}
		strides[dim] = step * (1 + random.Int64N(2))
		step = strides[dim] * max(shape[dim], 1)
	}
	offset := random.Int64N(6)
	_, _, high, err := tensor.Extent(shape, strides)
	require.NoError(t, err)
	base, err = tensor.New(dtype, offset+high+1+random.Int64N(3))
	require.NoError(t, err)
	Randomize(t, random, base)
	view, err = base.View(offset, shape, strides)
	require.NoError(t, err)
	return base, view
}

// UnderASan reports whether this binary was built with -asan.
func UnderASan() bool {
	maps, _ := os.ReadFile("/proc/self/maps")
	return strings.Contains(string(maps), "/libasan.so")
}
