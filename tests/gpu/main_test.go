package gpu_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

var (
	rt     *pyhook.Runtime
	helper *pyhook.Object // testdata/gpu.py
	noGPU  string         // why not, or ""
)

func TestMain(m *testing.M) {
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func start() (err error) {
	ctx := context.Background()
	if rt, err = pyhook.Start(ctx, pyhook.Config{Path: []string{"testdata"}}); err != nil {
		return err
	}
	if helper, err = rt.Import(context.Background(), "gpu"); err != nil {
		return err
	}
	why, err := helper.CallValue("why_not")
	if err != nil {
		return err
	}
	if noGPU, _ = why.(string); noGPU != "" {
		return nil
	}
	_, err = rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "nccl", Rank: 0, Size: 1})
	return err
}

func needsGPU(t *testing.T) {
	t.Helper()
	if noGPU == "" {
		return
	}
	require.Empty(t, os.Getenv("PYHOOK_TEST_GPU"), "PYHOOK_TEST_GPU is set, and %s", noGPU)
	t.Skip(noGPU)
}

// sizes of the bucket's gradients: PowerSGD compresses the matrices.
var sizes = [][]int64{{512, 256}, {256}, {256, 100}, {100}}

// elements of the bucket.
const elements = 512*256 + 256 + 256*100 + 100

// object calls a function of gpu.py. The result is closed with the test.
func object(t *testing.T, function string, args ...any) *pyhook.Object {
	t.Helper()
	o, err := helper.Call(function, args...)
	require.NoError(t, err)
	t.Cleanup(o.Close)
	return o
}

// value calls a function of gpu.py.
func value(t *testing.T, function string, args ...any) any {
	t.Helper()
	v, err := helper.CallValue(function, args...)
	require.NoError(t, err)
	return v
}

// gpuBucket is a bucket over device memory by its address, ordered by a new
// stream. The memory is torch's, which stands for a trainer's.
func gpuBucket(t *testing.T) (*c10d.GradBucket, c10d.Stream) {
	t.Helper()
	memory := object(t, "zeros", elements)
	imported, err := tensorconv.FromPython(memory)
	require.NoError(t, err)
	t.Cleanup(imported.Close)
	require.Equal(t, tensor.CUDA, imported.Device().Type)
	buffer, err := tensor.FromPointer(imported.Data(), tensor.Float32, []int64{elements}, nil, imported.Device(), nil)
	require.NoError(t, err)
	t.Cleanup(buffer.Close)
	stream := c10d.Stream(value(t, "new_stream").(int64))
	cfg := c10d.BucketConfig{Count: 1, Buffer: buffer, Stream: stream, Sizes: sizes}
	at := int64(0)
	for _, size := range sizes {
		n := int64(1)
		for _, s := range size {
			n *= s
		}
		cfg.Offsets, cfg.Lengths = append(cfg.Offsets, at), append(cfg.Lengths, n)
		at += n
	}
	b, err := c10d.NewGradBucket(cfg)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b, stream
}

// state makes the hook's state, nil where it has none.
func state(t *testing.T, hook string) any {
	t.Helper()
	if !strings.Contains(hook, "powersgd") {
		return nil
	}
	args := map[string]any{"matrix_approximation_rank": 2, "start_powerSGD_iter": 2, "min_compression_rate": 1, "random_seed": 7}
	s, err := rt.NewState(t.Context(), "powersgd", args, nil)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func load(t *testing.T, hook string) *pyhook.PythonCommHook {
	t.Helper()
	h, err := rt.NewHook(t.Context(), hook, pyhook.HookConfig{State: state(t, hook)})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

// reduce calls the hook and returns its result without waiting for the GPU.
func reduce(t *testing.T, h *pyhook.PythonCommHook, b *c10d.GradBucket) *tensor.Tensor {
	t.Helper()
	future, err := h.RunHook(t.Context(), b)
	require.NoError(t, err)
	defer future.Close()
	v, err := future.Wait(t.Context())
	require.NoError(t, err)
	result, err := h.ParseHookResult(b, v)
	require.NoError(t, err)
	return result
}
