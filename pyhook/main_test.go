package pyhook

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/tensorconv"
)

// The one runtime of this test process, with a real gloo group of one rank.
var (
	rt    *Runtime
	world *TorchGroup
)

func TestMain(m *testing.M) {
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
	world, err = rt.InitProcessGroup(context.Background(), GroupConfig{Backend: "gloo", Rank: 0, Size: 1})
	return err
}

// bucket makes a float32 bucket with these gradients.
func bucket(t *testing.T, gradients ...[]float32) *GradBucket {
	t.Helper()
	cfg := BucketConfig{Count: 1}
	var flat []float32
	for _, g := range gradients {
		cfg.Offsets = append(cfg.Offsets, int64(len(flat)))
		cfg.Lengths = append(cfg.Lengths, int64(len(g)))
		cfg.Sizes = append(cfg.Sizes, []int64{int64(len(g))})
		flat = append(flat, g...)
	}
	buffer, err := tensorconv.New(tensorconv.Float32, int64(len(flat)))
	require.NoError(t, err)
	memory, err := tensorconv.Slice[float32](buffer)
	require.NoError(t, err)
	copy(memory, flat)
	cfg.Buffer = buffer
	b, err := NewGradBucket(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close(); buffer.Close() })
	return b
}

// run calls the hook and returns the flat float32 result.
func run(t *testing.T, h CommHook, b *GradBucket) ([]float32, error) {
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
	result, err := h.ParseHookResult(value)
	if err != nil {
		return nil, err
	}
	defer result.Close()
	plain, err := tensorconv.New(tensorconv.Float32, result.Len())
	require.NoError(t, err)
	defer plain.Close()
	require.NoError(t, tensorconv.Copy(plain, result))
	s, err := tensorconv.Slice[float32](plain)
	require.NoError(t, err)
	return append([]float32(nil), s...), nil
}

// load makes a hook and closes it with the test.
func load(t *testing.T, spec string, cfg HookConfig) *PythonCommHook {
	t.Helper()
	h, err := rt.NewHook(spec, cfg)
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

// counters of everything that must come back to its start.
func counters() [4]int64 {
	_ = cbridge.Attached(func() {})
	return [4]int64{cbridge.LiveObjects(), cbridge.LiveFuncs(), tensorconv.LiveTensors(), tensorconv.LiveMemory()}
}

// noLeaks asserts that f leaves nothing open.
func noLeaks(t *testing.T, f func()) {
	t.Helper()
	before := counters()
	f()
	assert.Eventually(t, func() bool {
		runtime.GC()
		return counters() == before
	}, 10*time.Second, 10*time.Millisecond, "objects, funcs, tensors, memory: %v before, %v after", before, counters())
}
