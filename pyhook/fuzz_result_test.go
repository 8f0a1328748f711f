package pyhook

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

// FuzzHookResult: a hook that does what the bytes say (testdata/programs.py)
// gives the flat tensor that torch's own copy makes of its value, or an error
// that names hook, rank and bucket and says what to do. The memory is as the hook
// left it, and the next hook finds the bucket as it was given.
func FuzzHookResult(f *testing.F) {
	values, buffers := int(counted(f, "VALUES")), int(counted(f, "BUFFERS"))
	for end := range int(counted(f, "ENDS")) {
		f.Add([]byte{byte(end)})
		f.Add([]byte{byte(end), 0}) // of a new tensor
	}
	for operation := range values + buffers {
		f.Add([]byte{0, byte(operation), 1, 1, 1, 1, 1})
		f.Add([]byte{2, byte(operation), 3, 2, 0, 1, 5})
	}
	rounds := 0
	var before handles
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 40 {
			return
		}
		if rounds%500 == 0 { // the tracebacks of errors make rings
			now := leaks.Stable()
			if rounds > 0 {
				require.Equal(t, before, now, "after 500 programs")
			}
			before = now
		}
		rounds++
		runProgram(t, program)
	})
}

// counted is the length of a list of programs.py.
func counted(f *testing.F, list string) int64 {
	f.Helper()
	module, err := rt.Import(f.Context(), "programs")
	require.NoError(f, err)
	defer module.Close()
	o, err := module.Attr(list)
	require.NoError(f, err)
	defer o.Close()
	n, err := callPython("builtins.len", o)
	require.NoError(f, err)
	return n.(int64)
}

func runProgram(t *testing.T, program []byte) {
	t.Helper()
	buffer, err := tensor.New(tensor.Float32, 6)
	require.NoError(t, err)
	defer buffer.Close()
	memory, err := tensor.RawBytes(buffer)
	require.NoError(t, err)
	numbers, err := tensor.Slice[float32](buffer)
	require.NoError(t, err)
	copy(numbers, []float32{1, -2, 3.5, 1e-3, 70000, 6})
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 2, Count: 4, Buffer: buffer, Offsets: []int64{0, 2}, Lengths: []int64{2, 4}, Sizes: [][]int64{{2}, {2, 2}}})
	require.NoError(t, err)
	defer b.Close()
	python(t, "programs.begin", program, int64(uintptr(buffer.Data())), int64(len(memory)))

	h, err := rt.NewHook(t.Context(), "programs:hook", HookConfig{})
	require.NoError(t, err)
	defer h.Close()
	result, err := runRaw(t, h, b)
	want := python(t, "programs.outcome").(map[any]any)
	if err != nil {
		require.Equal(t, false, want["ok"], "%v", err)
		requireWhole(t, err)
	} else {
		defer result.Close()
		require.Equal(t, true, want["ok"], "it must be refused: %v", want["why"])
		got, err := tensor.RawBytes(result)
		require.NoError(t, err)
		require.Equal(t, want["dtype"], "torch."+result.DType().String())
		require.Equal(t, want["result"].([]byte), meant(result.DType(), got))
	}
	require.Equal(t, want["memory"].([]byte), memory, "written after the hook")
	asGivenTo(t, b, memory)
}

// meant copies the bytes of elements. Bools that are neither 0 nor 1 are true, and
// torch's own copy makes them 1.
func meant(dtype tensor.DType, raw []byte) []byte {
	out := append([]byte{}, raw...)
	if dtype == tensor.Bool {
		for i, b := range out {
			out[i] = min(b, 1)
		}
	}
	return out
}

// runRaw calls the hook and returns its result as it is.
func runRaw(t *testing.T, h c10d.CommHook, b *c10d.GradBucket) (*tensor.Tensor, error) {
	t.Helper()
	future, err := h.RunHook(t.Context(), b)
	if err != nil {
		return nil, err
	}
	defer future.Close()
	value, err := future.Wait(t.Context())
	if err != nil {
		return nil, err
	}
	return h.ParseHookResult(b, value)
}

// requireWhole asserts that an error has all its parts.
func requireWhole(t *testing.T, err error) {
	t.Helper()
	var e *c10d.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "hook programs.hook", e.Op)
	assert.Equal(t, 0, e.Rank)
	assert.Equal(t, 2, e.Bucket)
	assert.NotEmpty(t, e.Detail)
	assert.NotEmpty(t, e.Hint, "%v", err)
	known := false
	for _, kind := range []c10d.Code{c10d.ErrRaised, c10d.ErrNotFuture, c10d.ErrFutureFailed, c10d.ErrBadResult} {
		known = known || e.Code.Is(kind)
	}
	assert.True(t, known, "%v", err)
}

// asGivenTo asserts that the next hook sees the trainer's memory as it is.
func asGivenTo(t *testing.T, b *c10d.GradBucket, memory []byte) {
	t.Helper()
	h, err := rt.NewHook(t.Context(), "programs:look", HookConfig{})
	require.NoError(t, err)
	defer h.Close()
	result, err := runRaw(t, h, b)
	require.NoError(t, err)
	defer result.Close()
	got, err := tensor.RawBytes(result)
	require.NoError(t, err)
	require.Equal(t, memory, got)
	require.Equal(t, map[any]any{
		"type": "Tensor", "shape": []any{int64(6)}, "stride": []any{int64(1)}, "dtype": "torch.float32", "grad": false, "named": false,
		"address": int64(uintptr(b.Buffer().Data())), "gradients": []any{[]any{int64(2)}, []any{int64(2), int64(2)}}, "views": []any{[]any{"torch.float32", false}, []any{"torch.float32", false}},
	}, python(t, "programs.look_at"))
}
