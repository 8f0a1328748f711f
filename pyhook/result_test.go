package pyhook

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/tensor"
)

// made wraps the hook that results.py's maker makes for name.
func made(t *testing.T, maker, name string) *PythonCommHook {
	t.Helper()
	m, err := rt.Import(t.Context(), "results")
	require.NoError(t, err)
	defer m.Close()
	hook, err := m.Call(maker, name)
	require.NoError(t, err)
	defer hook.Close()
	h, err := rt.WrapHook(t.Context(), hook, HookConfig{})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

// names are the keys of a dict of results.py.
func names(t *testing.T, dict string) []string {
	t.Helper()
	m, err := rt.Import(t.Context(), "results")
	require.NoError(t, err)
	defer m.Close()
	table, err := m.Attr(dict)
	require.NoError(t, err)
	defer table.Close()
	builtins, err := rt.Import(t.Context(), "builtins")
	require.NoError(t, err)
	defer builtins.Close()
	keys, err := builtins.CallValue("list", table)
	require.NoError(t, err)
	var out []string
	for _, key := range keys.([]any) {
		out = append(out, key.(string))
	}
	return out
}

// asGiven asserts that the next hook sees the trainer's memory, as it was given.
func asGiven(t *testing.T, b *c10d.GradBucket) {
	t.Helper()
	_, err := run(t, load(t, "results:look", HookConfig{}), b)
	require.NoError(t, err)
	assert.Equal(t, []any{int64(4)}, python(t, "results.flag", "shape"))
	assert.Equal(t, []any{int64(1)}, python(t, "results.flag", "stride"))
	assert.Equal(t, "torch.float32", python(t, "results.flag", "dtype"))
	assert.Equal(t, int64(uintptr(b.Buffer().Data())), python(t, "results.flag", "address"))
	assert.Equal(t, false, python(t, "results.flag", "requires_grad"))
}

func TestResultsOfAnyLayoutAreReadAsTorchMeansThem(t *testing.T) {
	for _, name := range append(names(t, "RESULTS"), names(t, "IN_PLACE")...) {
		check(t, name, func(t *testing.T) {
			flat := []float32{1, 2, 3, 4}
			b := bucket(t, flat[:1], flat[1:])
			h := made(t, "make", name)
			want := floats(python(t, "results.right", name, flat))
			got, err := run(t, h, b)
			require.NoError(t, err)
			assert.Equal(t, want, got)
			asGiven(t, b)
		})
	}
}

func TestABufferThatAHookChangedIsItsOldSelfInTheNextStep(t *testing.T) {
	for _, name := range names(t, "IN_PLACE") {
		check(t, name, func(t *testing.T) {
			b := bucket(t, []float32{1, 2, 3, 4})
			for range 2 {
				got, err := run(t, made(t, "make_other", name), b)
				require.NoError(t, err)
				assert.Equal(t, []float32{1, 1, 1, 1}, got)
				asGiven(t, b)
			}
		})
	}
}

func TestBucketsOfEachDTypeComeBack(t *testing.T) {
	for _, dtype := range []tensor.DType{tensor.Float64, tensor.Float32, tensor.Float16,
		tensor.BFloat16, tensor.Int64, tensor.Int32, tensor.UInt8} {
		check(t, dtype.String(), func(t *testing.T) {
			b := bucketOf(t, tensorOf(t, dtype, []float32{1, 2, 3}), 1, 2)
			for hook, want := range map[string][]float32{"sample:identity": {1, 2, 3}, "sample:doubled": {2, 4, 6}, "sample:doubled_in_place": {2, 4, 6}} {
				got, err := run(t, load(t, hook, HookConfig{}), b)
				require.NoError(t, err)
				if hook == "sample:doubled_in_place" {
					assert.Equal(t, want, values(t, b.Buffer()), "written in the trainer's memory")
				}
				assert.Equal(t, want, got)
				require.NoError(t, tensor.Copy(b.Buffer(), tensorOf(t, dtype, []float32{1, 2, 3})))
			}
		})
	}
}

func TestAnEmptyBucketIsReducedToNothing(t *testing.T) {
	check(t, "", func(t *testing.T) {
		b := bucketOf(t, tensorOf(t, tensor.Float32, nil))
		for _, hook := range []string{"sample:identity", "sample:doubled", "allreduce"} {
			got, err := run(t, load(t, hook, HookConfig{}), b)
			require.NoError(t, err)
			assert.Empty(t, got)
		}
	})
}

func TestConjugateViewsOfComplexBucketsAreResolved(t *testing.T) {
	for name, scale := range map[string]float32{"conj": 1, "conj_of_new": 2} {
		check(t, name, func(t *testing.T) {
			buffer, err := tensor.FromSlice([]complex64{1 + 2i, 3 - 4i})
			require.NoError(t, err)
			defer buffer.Close()
			b := bucketOf(t, buffer, 2)
			defer b.Close()
			assert.Equal(t, []complex64{complex(scale, -2*scale), complex(3*scale, 4*scale)}, runComplex(t, load(t, "results:"+name, HookConfig{}), b))
			assert.Equal(t, floats(python(t, "results.conjugated", []float32{1, 3}, []float32{2, -4})), []float32{1, -2, 3, 4})
		})
	}
	check(t, "and real ones are not taken for complex", func(t *testing.T) {
		buffer, err := tensor.FromSlice([]complex64{1 + 2i, 3 - 4i})
		require.NoError(t, err)
		defer buffer.Close()
		b := bucketOf(t, buffer, 2)
		defer b.Close()
		_, err = run(t, load(t, "results:real_view", HookConfig{}), b)
		saysAll(t, err, c10d.ErrComplex, "results.real_view", 2)
		_, err = run(t, load(t, "results:reals", HookConfig{}), b)
		saysAll(t, err, c10d.ErrComplex, "results.reals", 2)
		require.ErrorContains(t, err, "the imaginary parts would be lost")
		_, err = run(t, load(t, "fp16", HookConfig{}), b)
		require.ErrorIs(t, err, c10d.ErrComplex)
		_, err = run(t, &hooks.FP16CompressCommHook{Group: world}, b)
		require.ErrorIs(t, err, c10d.ErrComplex)
		assert.Equal(t, []complex64{1 + 2i, 3 - 4i}, numbers(t, buffer), "as it was given")
	})
}

// numbers reads a tensor of complex64.
func numbers(t *testing.T, x *tensor.Tensor) []complex64 {
	t.Helper()
	s, err := tensor.Slice[complex64](x)
	require.NoError(t, err)
	return s
}

// runComplex runs the hook and reads the result as complex64.
func runComplex(t *testing.T, h *PythonCommHook, b *c10d.GradBucket) []complex64 {
	t.Helper()
	future, err := h.RunHook(t.Context(), b)
	require.NoError(t, err)
	defer future.Close()
	value, err := future.Wait(t.Context())
	require.NoError(t, err)
	result, err := h.ParseHookResult(b, value)
	require.NoError(t, err)
	defer result.Close()
	plain, err := tensor.New(tensor.Complex64, result.Len())
	require.NoError(t, err)
	defer plain.Close()
	require.NoError(t, tensor.Copy(plain, result))
	s, err := tensor.Slice[complex64](plain)
	require.NoError(t, err)
	return append([]complex64{}, s...)
}

func TestTheFutureOfCPlusPlusIsAnOrdinaryResult(t *testing.T) {
	check(t, "", func(t *testing.T) {
		path := file(t, "plain.py", "import torch.distributed as dist\n"+
			"def hook(state, bucket): return dist.all_reduce(bucket.buffer(), async_op=True).get_future()\n")
		h, b := load(t, path+":hook", HookConfig{}), bucket(t, []float32{1, 2})
		got, err := run(t, h, b)
		require.NoError(t, err, "PyTorch fails an internal assertion here")
		assert.Equal(t, []float32{1, 2}, got)
		assert.Equal(t, []string{"[tensor] result"}, h.LegacyNames(b))
	})
}

func TestPyTorchsOwnHooksRunUnmodified(t *testing.T) {
	specs := []string{"allreduce", "noop", "sample:identity", "sample:later", "sample:reduced"}
	dtypes, err := world.DTypes(t.Context())
	require.NoError(t, err)
	for dtype, hooks := range map[string][]string{"float16": {"fp16", "fp16_wrapper(allreduce)"}, "bfloat16": {"bf16", "bf16_wrapper(allreduce)"}} {
		if dtypes[dtype] == "" {
			specs = append(specs, hooks...)
		}
	}
	for _, spec := range specs {
		check(t, spec, func(t *testing.T) {
			h, b := load(t, spec, HookConfig{}), bucket(t, []float32{1, 2}, []float32{3, 4, 5})
			for range 3 {
				got, err := run(t, h, b)
				require.NoError(t, err)
				assert.Equal(t, []float32{1, 2, 3, 4, 5}, got)
			}
		})
	}
}

func TestADTypeThatTheBackendRefusesPointsToTheDoctor(t *testing.T) {
	dtypes, err := world.DTypes(t.Context())
	require.NoError(t, err)
	assert.Empty(t, dtypes["float32"])
	for dtype, spec := range map[string]string{"float16": "fp16", "bfloat16": "bf16"} {
		if dtypes[dtype] == "" {
			continue // this build takes it
		}
		check(t, spec, func(t *testing.T) {
			h, b := load(t, spec, HookConfig{}), bucket(t, []float32{1, 2})
			_, err := run(t, h, b)
			saysAll(t, err, c10d.ErrFutureFailed, h.Name(), 2)
			assert.Contains(t, err.Error(), "hint: "+dtypeHint)
			assert.Contains(t, err.Error(), "pyhook doctor")
			assert.Equal(t, []float32{1, 2}, values(t, b.Buffer()))
		})
	}
	if dtypes["float16"] != "" {
		_, err := run(t, &hooks.FP16CompressCommHook{Group: world}, bucket(t, []float32{1}))
		require.ErrorContains(t, err, dtypeHint)
	}
}
