package pyhook

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// The one runtime of this test process, with a real gloo group of one rank.
var (
	rt    *Runtime
	world *TorchGroup
)

// childCase names, in the environment of a re-executed test binary, the case
// that it is to run instead of the tests.
const childCase = "PYHOOK_TEST_CHILD"

// onlyExample is the childCase in which an Example starts Python itself.
const onlyExample = "example"

// children are the cases that need a process of their own.
var children = map[string]func(*require.Assertions){}

func TestMain(m *testing.M) {
	name := os.Getenv(childCase)
	if name == onlyExample {
		os.Exit(m.Run())
	}
	if name != "" {
		children[name](require.New(testutil.Child{}))
		os.Exit(0)
	}
	flag.Parse()
	if flag.Lookup("test.skip").Value.String() == "" {
		_ = flag.Set("test.skip", "^Example(Runtime_NewHook|StateSpec)?$") // they start Python
	}
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	info := rt.Info()
	fmt.Printf("torch %s on Python %s (%s)\n", info.Torch, info.Version, info.PythonFrom)
	os.Exit(m.Run())
}

func start() (err error) {
	if rt, err = Start(context.Background(), Config{Path: []string{"testdata"}}); err != nil {
		return err
	}
	if world, err = rt.InitProcessGroup(context.Background(), GroupConfig{Backend: "gloo", Rank: 0, Size: 1}); err != nil {
		return err
	}
	_, err = callPython("gc.freeze") // collections look at what tests make only
	return err
}

// child prepares a case in a process of its own, with this process's Python
// unless env says otherwise.
func child(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	return childWithin(t, 90*time.Second, name, env...)
}

func childWithin(t *testing.T, limit time.Duration, name string, env ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childCase+"="+name, "PYHOOK_PYTHON="+rt.Info().Python)
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// runChild runs a case and returns what it wrote.
func runChild(t *testing.T, name string, env ...string) string {
	t.Helper()
	out, err := child(t, name, env...).CombinedOutput()
	require.NoError(t, err, "the child said:\n%s", out)
	return string(out)
}

// bucketOf makes the third of four buckets over flat, of one-dimensional
// gradients of these lengths.
func bucketOf(t *testing.T, buffer *tensor.Tensor, lengths ...int64) *c10d.GradBucket {
	t.Helper()
	cfg := c10d.BucketConfig{Index: 2, Count: 4, Buffer: buffer}
	at := int64(0)
	for _, n := range lengths {
		cfg.Offsets, cfg.Lengths = append(cfg.Offsets, at), append(cfg.Lengths, n)
		cfg.Sizes = append(cfg.Sizes, []int64{n})
		at += n
	}
	b, err := c10d.NewGradBucket(cfg)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

// bucket makes a float32 bucket with these gradients.
func bucket(t *testing.T, gradients ...[]float32) *c10d.GradBucket {
	t.Helper()
	var flat []float32
	var lengths []int64
	for _, g := range gradients {
		flat = append(flat, g...)
		lengths = append(lengths, int64(len(g)))
	}
	return bucketOf(t, tensorOf(t, tensor.Float32, flat), lengths...)
}

// tensor makes a tensor of dtype and closes it with the test.
func tensorOf(t *testing.T, dtype tensor.DType, values []float32) *tensor.Tensor {
	t.Helper()
	from, err := tensor.FromSlice(values)
	require.NoError(t, err)
	defer from.Close()
	made, err := tensor.New(dtype, int64(len(values)))
	require.NoError(t, err)
	t.Cleanup(made.Close)
	require.NoError(t, tensor.Copy(made, from))
	return made
}

// values reads a tensor of any dtype.
func values(t *testing.T, of *tensor.Tensor) []float32 {
	t.Helper()
	plain, err := tensor.New(tensor.Float32, of.Shape()...)
	require.NoError(t, err)
	defer plain.Close()
	require.NoError(t, tensor.Copy(plain, of))
	s, err := tensor.Slice[float32](plain)
	require.NoError(t, err)
	return append([]float32{}, s...)
}

// run calls the hook and returns the flat result as float32.
func run(t *testing.T, h c10d.CommHook, b *c10d.GradBucket) ([]float32, error) {
	t.Helper()
	future, err := h.RunHook(context.Background(), b)
	if err != nil {
		return nil, err
	}
	defer future.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	value, err := future.Wait(ctx)
	if err != nil {
		return nil, err
	}
	result, err := h.ParseHookResult(b, value)
	if err != nil {
		return nil, err
	}
	defer result.Close()
	return values(t, result), nil
}

// resultObject is the Python object of a result that is Python's.
func resultObject(r c10d.Result) *Object {
	if r, ok := r.(*pythonResult); ok {
		return r.object
	}
	return nil
}

// tensorIn is the tensor of a result that is one of Go's.
func tensorIn(r c10d.Result) *tensor.Tensor { return r.(c10d.TensorResult).Tensor }

// load makes a hook and closes it with the test.
func load(t *testing.T, spec string, cfg HookConfig) *PythonCommHook {
	t.Helper()
	h, err := rt.NewHook(t.Context(), spec, cfg)
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

// python calls "module.function" and returns the result as a Go value.
func python(t *testing.T, name string, args ...any) any {
	t.Helper()
	v, err := callPython(name, args...)
	require.NoError(t, err)
	return v
}

func callPython(name string, args ...any) (any, error) {
	module, function, _ := strings.Cut(name, ".")
	m, err := rt.Import(context.Background(), module)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.CallValue(function, args...)
}

// floats is a Python list of numbers as float32.
func floats(v any) []float32 {
	out := []float32{}
	for _, x := range v.([]any) {
		switch n := x.(type) {
		case float64:
			out = append(out, float32(n))
		case int64:
			out = append(out, float32(n))
		}
	}
	return out
}

// handles are what must come back to its start.
type handles struct{ Objects, Funcs, Tensors, Memory, Pending int64 }

func (h handles) list() []int64 { return []int64{h.Objects, h.Funcs, h.Tensors, h.Memory, h.Pending} }

var leaks = testutil.Leaks[handles]{
	Counts: func() handles {
		_ = cbridge.Attached(func() {}) // an enter does the deferred work
		return handles{cbridge.LiveObjects(), cbridge.LiveFuncs(), tensor.LiveTensors(), tensor.LiveMemory(), cbridge.Pendings()}
	},
	Collect: func() {
		for range 3 { // tracebacks make rings, which only Python's collector undoes; a ring may hold another
			runtime.GC()
			_, _ = callPython("gc.collect")
		}
	},
	Clean: func(before, now handles) bool {
		was := before.list()
		for i, n := range now.list() { // fewer: something that an earlier test had let go of is gone
			if n > was[i] {
				return false
			}
		}
		return true
	},
}

// slow divides the numbers of calls of long tests.
var slow = testutil.Scale{Race: 20, Debug: 500}

// check is t.Run that leaves nothing open.
func check(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	leaks.Check(t, func() { t.Run(name, f) })
}
