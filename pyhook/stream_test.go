package pyhook

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/tensor"
)

// onNotedStream is a bucket on the CPU that is handled as one on a GPU, by a
// stream that notes what is done on it. tests/gpu has real ones.
func onNotedStream(t *testing.T, gradients ...[]float32) *c10d.GradBucket {
	t.Helper()
	b := bucket(t, gradients...)
	python, _, err := pythonBucketOf(rt.torchAPI, b)
	require.NoError(t, err)
	defer python.release()
	m, err := rt.Import(t.Context(), "streams")
	require.NoError(t, err)
	defer m.Close()
	object, err := m.Call("make")
	require.NoError(t, err)
	stream, err := wrapOnStream(object)
	require.NoError(t, err)
	python.orderBy(stream)
	return b
}

func TestAGPUsBucketIsHandledOnItsStream(t *testing.T) {
	called := []any{"enter", "hook", "leave"}
	waited := append(append([]any{}, called...), "enter", "wait", "leave")
	parsed := append(append([]any{}, waited...), "enter", "leave")
	for _, c := range []struct {
		hook  string
		notes []any
		want  []float32
		kind  error
	}{
		{"at_once", waited, []float32{1, 2, 3}, nil},
		{"doubled", parsed, []float32{2, 4, 6}, nil},
		{"every_second_value", parsed, []float32{0, 2, 4}, nil},
		{"raises", called, nil, c10d.ErrRaised},
		{"fails", waited, nil, c10d.ErrFutureFailed},
	} {
		check(t, c.hook, func(t *testing.T) {
			h, b := load(t, "streams:"+c.hook, HookConfig{}), onNotedStream(t, []float32{1, 2, 3})
			calls := 12 // a hook that is done each time is soon asked for its value at once
			if c.kind != nil {
				calls = 3
			}
			for range calls {
				got, err := run(t, h, b)
				assert.Equal(t, c.notes, python(t, "streams.taken"))
				if c.kind != nil {
					saysAll(t, err, c.kind, h.Name(), 2)
					continue
				}
				require.NoError(t, err)
				assert.Equal(t, c.want, got)
			}
		})
	}
}

func TestAGPUsFutureThatIsDoneLaterIsWaitedForOnItsStream(t *testing.T) {
	check(t, "", func(t *testing.T) {
		b := onNotedStream(t, []float32{1, 2, 3})
		trusted := load(t, "streams:at_once", HookConfig{})
		for range 12 {
			_, err := run(t, trusted, b)
			require.NoError(t, err)
		}
		python(t, "streams.taken")
		h := load(t, "streams:later", HookConfig{})
		future, err := h.RunHook(context.Background(), b)
		require.NoError(t, err)
		defer future.Close()
		// It is asked for its value as the former hook's futures were, which were done.
		assert.Equal(t, []any{"enter", "hook", "leave"}, python(t, "streams.taken"))
		python(t, "streams.finish")
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		value, err := future.Wait(ctx)
		require.NoError(t, err)
		assert.Equal(t, []any{"enter", "wait", "leave"}, python(t, "streams.taken"))
		result, err := h.ParseHookResult(b, value)
		require.NoError(t, err)
		defer result.Close()
		assert.Equal(t, []float32{3, 6, 9}, values(t, result))
		assert.Equal(t, []any{"enter", "leave"}, python(t, "streams.taken"))
	})
}

// elsewhere is a bucket of memory that is said to be on a device.
func elsewhere(t *testing.T, device tensor.DeviceType) (*c10d.GradBucket, error) {
	t.Helper()
	memory, err := tensor.New(tensor.Float32, 4)
	require.NoError(t, err)
	t.Cleanup(memory.Close)
	there, err := tensor.FromPointer(memory.Data(), tensor.Float32, []int64{4}, nil, tensor.Device{Type: device, ID: 63}, nil)
	require.NoError(t, err)
	t.Cleanup(there.Close)
	return c10d.NewGradBucket(c10d.BucketConfig{Index: 2, Count: 4, Buffer: there, Offsets: []int64{0}, Lengths: []int64{4}, Sizes: [][]int64{{4}}})
}

func TestABucketOnADeviceThatTorchHasNotIsAnError(t *testing.T) {
	check(t, "a 64th GPU", func(t *testing.T) {
		b, err := elsewhere(t, tensor.CUDA)
		require.NoError(t, err)
		defer b.Close()
		h := load(t, "noop", HookConfig{})
		_, err = h.RunHook(context.Background(), b)
		saysAll(t, err, c10d.ErrBucket, h.Name(), 2)
		t.Log(err)
		_, err = (&hooks.AllReduceCommHook{Group: world}).RunHook(context.Background(), b)
		saysAll(t, err, c10d.ErrRaised, "AllReduceCommHook", 2)
		_, err = world.AllReduce(context.Background(), b.Buffer(), c10d.Sum)
		assert.ErrorIs(t, err, errors.ErrUnsupported)
		assert.ErrorContains(t, err, "cuda:63")
	})
}
