package ddp_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// The one runtime of this test process, with a real gloo group: of one rank, or
// of those that TestTwoRealRanks started.
var (
	rt    *pyhook.Runtime
	world *pyhook.TorchGroup
)

// memoryVariable set to "torch" has all tests run with gradients that torch's operations handle, as
// on a device: PYHOOK_TEST_MEMORY=torch go test ./ddp.
const memoryVariable = "PYHOOK_TEST_MEMORY"

// notByTorch skips what has negative strides, which torch has not and no device gives.
func notByTorch(t *testing.T) {
	t.Helper()
	if os.Getenv(memoryVariable) == "torch" {
		t.Skip("torch has no negative strides")
	}
}

// often is how often a long test does something.
func often(n int) int { return testutil.Scale{Debug: 10}.Of(n) }

func TestMain(m *testing.M) {
	folder := os.Getenv(folderVariable)
	config := pyhook.GroupConfig{Backend: "gloo", Timeout: time.Minute}
	if folder == "" {
		config.Size = 1
	}
	if err := start(config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(memoryVariable) == "torch" {
		ddp.UseMemory(func(group c10d.ProcessGroup) (c10d.DeviceMemory, error) {
			m, err := world.DeviceMemory(context.Background(), tensor.Device{}, 0)
			return groupsMemory{m, group}, err
		})
	}
	if folder != "" {
		os.Exit(beRank(folder))
	}
	info := rt.Info()
	fmt.Printf("torch %s on Python %s (%s)\n", info.Torch, info.Version, info.PythonFrom)
	os.Exit(m.Run())
}

func start(config pyhook.GroupConfig) (err error) {
	// The goroutine that frees Go memory, before the tests count goroutines.
	must(tensor.FromSlice([]float32{0})).Close()
	if rt, err = pyhook.Start(context.Background(), pyhook.Config{Path: []string{"testdata"}}); err != nil {
		return err
	}
	world, err = rt.InitProcessGroup(context.Background(), config)
	return err
}

// tiny makes every parameter a bucket of its own.
const tiny = 1e-9

// twoFloats in MiB: buckets of two float32.
const twoFloats = 8.0 / (1 << 20)

// parameters of float32, named p0, p1, ...
func parameters(shapes ...[]int64) []*c10d.Parameter {
	list := make([]*c10d.Parameter, len(shapes))
	for i, shape := range shapes {
		list[i] = &c10d.Parameter{Name: fmt.Sprintf("p%d", i), Shape: shape, DType: tensor.Float32}
	}
	return list
}

// scalars are n parameters of one element.
func scalars(n int) []*c10d.Parameter {
	shapes := make([][]int64, n)
	for i := range shapes {
		shapes[i] = []int64{1}
	}
	return parameters(shapes...)
}

// reducer makes a Reducer and closes it with the test.
func reducer(t *testing.T, params []*c10d.Parameter, opts ddp.Options) *ddp.Reducer {
	t.Helper()
	if opts.Group == nil {
		opts.Group = memoryGroups(1)[0]
	}
	r, err := ddp.NewReducer(context.Background(), params, opts)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}

// floats are the elements of a contiguous float32 tensor, in place.
func floats(t *tensor.Tensor) []float32 { return must(tensor.Slice[float32](t)) }

// set fills parameter i's gradient in place and marks it.
func set(t *testing.T, r *ddp.Reducer, i int, value float32) {
	t.Helper()
	g := floats(r.Gradient(i))
	for k := range g {
		g[k] = value
	}
	require.NoError(t, r.Ready(i))
}

// setAll does a backward pass: parameter i's gradient is i+1.
func setAll(t *testing.T, r *ddp.Reducer, n int) {
	t.Helper()
	for i := n - 1; i >= 0; i-- {
		set(t, r, i, float32(i+1))
	}
}

// stepWorks asserts that a whole step of an identity hook goes well.
func stepWorks(t *testing.T, r *ddp.Reducer, n int) {
	t.Helper()
	setAll(t, r, n)
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	for i := range n {
		assert.Equal(t, float32(i+1), floats(r.Gradient(i))[0], "parameter %d", i)
	}
}

// handles are what must come back to its start.
type handles struct{ Objects, Funcs, Tensors, Memory int64 }

// Collect is nil: the Reducer closes what it makes.
var leaks = testutil.Leaks[handles]{Counts: func() handles {
	_ = cbridge.Attached(func() {}) // an enter does the deferred work
	return handles{cbridge.LiveObjects(), cbridge.LiveFuncs(), tensor.LiveTensors(), tensor.LiveMemory()}
}}

// noLeaks asserts that f, which closes what it makes, leaves no handle, memory or goroutine.
func noLeaks(t *testing.T, f func()) {
	t.Helper()
	testutil.Eventually(t, func() bool { return leaks.Counts().Memory == 0 }, "the memory of earlier tests is freed")
	leaks.Check(t, func() { testutil.NoGoroutines(t, f) })
}

// sameBits tells NaNs apart, too.
func sameBits(a, b []float32) bool {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}
