package gpu_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

func TestHooksGiveTheBitsOfPyTorchsReducer(t *testing.T) {
	needsGPU(t)
	t.Logf("on %s", value(t, "name"))
	for _, hook := range []string{"noop", "allreduce", "fp16", "bf16", "powersgd", "fp16_wrapper(powersgd)"} {
		t.Run(hook, func(t *testing.T) {
			b, stream := gpuBucket(t)
			h, peer := load(t, hook), object(t, "Peer", hook, state(t, hook), sizes)
			for step := range 6 {
				want, err := peer.Call("step", step)
				require.NoError(t, err)
				value(t, "write", int64(stream), b.Buffer(), step)
				result := reduce(t, h, b)
				got := object(t, "read", int64(stream), result)
				result.Close()
				assert.Equal(t, true, value(t, "same", got, want), "step %d", step)
				want.Close()
			}
		})
	}
}

// long is how many clock cycles the GPU takes to write the gradients: half a second or so.
const long = 1_000_000_000

// The hook's work comes after what wrote the gradients, and the reading after the
// hook's; the CPU waits for neither.
func TestTheStreamWaitsAndNotTheCPU(t *testing.T) {
	needsGPU(t)
	for hook, factor := range map[string]float32{"noop": 1, "allreduce": 1, "fp16": 1, "gpu:doubled_elsewhere": 2} {
		t.Run(hook, func(t *testing.T) {
			b, stream := gpuBucket(t)
			h := load(t, hook)
			reduce(t, h, b).Close() // what nccl and torch make at their first use, they wait for
			value(t, "write", int64(stream), b.Buffer(), 1, long)
			result := reduce(t, h, b)
			assert.Equal(t, true, value(t, "busy", int64(stream)), "the CPU came here first")
			got := floats(t, object(t, "read", int64(stream), result))
			result.Close()
			want := floats(t, object(t, "gradients", elements, 1))
			for i := range want {
				want[i] *= factor
			}
			assert.InDeltaSlice(t, want, got, 1e-2)
		})
	}
}

func TestResultsAreGivenBack(t *testing.T) {
	needsGPU(t)
	b, stream := gpuBucket(t)
	h := load(t, "gpu:doubled_elsewhere")
	reduce(t, h, b).Close()
	before := value(t, "allocated")
	for step := range 20 {
		value(t, "write", int64(stream), b.Buffer(), step)
		reduce(t, h, b).Close()
	}
	assert.Equal(t, before, value(t, "allocated"))
}

func TestWhatAHookDoesWrongOnAGPUIsAnError(t *testing.T) {
	needsGPU(t)
	b, stream := gpuBucket(t)
	value(t, "write", int64(stream), b.Buffer(), 3)
	_, err := load(t, "gpu:raises").RunHook(context.Background(), b)
	require.ErrorIs(t, err, c10d.ErrRaised)
	h := load(t, "gpu:on_the_cpu")
	future, err := h.RunHook(context.Background(), b)
	require.NoError(t, err)
	defer future.Close()
	v, err := future.Wait(context.Background())
	require.NoError(t, err)
	_, err = h.ParseHookResult(b, v)
	require.ErrorIs(t, err, c10d.ErrBadResult)
	assert.ErrorContains(t, err, "cuda:0")
	got, want := object(t, "read", int64(stream), b.Buffer()), object(t, "gradients", elements, 3)
	assert.Equal(t, true, value(t, "same", got, want), "the gradients are as they were")
}

// floats reads a tensor on the CPU.
func floats(t *testing.T, o *pyhook.Object) []float32 {
	t.Helper()
	x, err := tensorconv.FromPython(o)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	values, err := tensor.Slice[float32](x)
	require.NoError(t, err)
	return values
}
