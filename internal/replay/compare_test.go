package replay

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/hookspec"
	"pyhook/internal/trace"
	"pyhook/tensor"
)

func TestULPs(t *testing.T) {
	bits := func(values ...uint64) func(size int) [][]byte {
		return func(size int) (all [][]byte) {
			for _, v := range values {
				all = append(all, binary.LittleEndian.AppendUint64(nil, v)[:size])
			}
			return all
		}
	}
	for name, c := range map[string]struct {
		dtype tensor.DType
		a, b  uint64
		want  int64
	}{
		"next float32":              {tensor.Float32, 0x3f800000, 0x3f800001, 1},
		"across a power of two":     {tensor.Float32, 0x3f7fffff, 0x3f800000, 1},
		"both zeros":                {tensor.Float32, 0x00000000, 0x80000000, 0},
		"across zero":               {tensor.Float32, 0x00000001, 0x80000001, 2},
		"to infinity":               {tensor.Float32, 0x7f7fffff, 0x7f800000, 1},
		"a NaN":                     {tensor.Float32, 0x7fc00000, 0x3f800000, -1},
		"float64":                   {tensor.Float64, math.Float64bits(-1), math.Float64bits(math.Nextafter(-1, 0)), 1},
		"float16":                   {tensor.Float16, 0x3c00, 0x3c05, 5},
		"a NaN of bfloat16":         {tensor.BFloat16, 0x7fc0, 0x3f80, -1},
		"parts of complex64":        {tensor.Complex64, 0x3f800000, 0x3f800002, 2},
		"int8":                      {tensor.Int8, 0xff, 0x01, 2},
		"uint8":                     {tensor.UInt8, 0xff, 0x01, 254},
		"int64 from end to end":     {tensor.Int64, 1 << 63, 1<<63 - 1, math.MaxInt64},
		"float64 from end to end":   {tensor.Float64, math.Float64bits(math.Inf(-1)), math.Float64bits(math.Inf(1)), math.MaxInt64},
		"float32, the smallest two": {tensor.Float32, 0x80000000, 0x00000001, 1},
	} {
		size := c.dtype.Real().Size()
		pair := bits(c.a, c.b)(size)
		if name == "float64 from end to end" {
			assert.Positive(t, ulps(c.dtype, pair[0], pair[1]), name)
			continue
		}
		assert.Equal(t, c.want, ulps(c.dtype, pair[0], pair[1]), name)
		assert.Equal(t, c.want, ulps(c.dtype, pair[1], pair[0]), name)
	}
}

func TestNumber_JSON(t *testing.T) {
	for _, want := range []float64{0, -1.5, math.MaxFloat64, math.Inf(1), math.Inf(-1), math.NaN()} {
		text, err := json.Marshal(Number(want))
		require.NoError(t, err)
		var got Number
		require.NoError(t, json.Unmarshal(text, &got), string(text))
		assert.True(t, float64(got) == want || math.IsNaN(want) && math.IsNaN(float64(got)), string(text))
	}
}

func TestDifference_measure(t *testing.T) {
	vector := func(values ...float32) (*tensor.Tensor, []byte) {
		x, err := tensor.FromSlice(values, int64(len(values)))
		require.NoError(t, err)
		t.Cleanup(x.Close)
		raw, err := tensor.RawBytes(x)
		require.NoError(t, err)
		return x, raw
	}
	want, wantRaw := vector(1, 2, -4, 0)
	got, gotRaw := vector(1, 2.5, -4, 1)
	d := &Difference{}
	d.First = firstDifference(d, wantRaw, gotRaw, 4)
	require.NoError(t, d.measure(want, got, wantRaw, gotRaw))
	assert.Equal(t, [2]int64{1, 2}, [2]int64{d.First, d.Differing})
	assert.Equal(t, [2]Number{2, 2.5}, [2]Number{d.Recorded, d.Replayed})
	assert.Equal(t, 1.0, d.Largest)
	assert.Equal(t, 0.25, d.Relative)
	assert.InDelta(t, math.Sqrt(1.25/4), d.RMS, 1e-12)
	nan, nanRaw := vector(1, float32(math.NaN()), -4, 0)
	d = &Difference{}
	d.First = firstDifference(d, wantRaw, nanRaw, 4)
	require.NoError(t, d.measure(want, nan, wantRaw, nanRaw))
	assert.Equal(t, int64(-1), d.ULPs)
	assert.Greater(t, d.Relative, 1e300, "a NaN is within no tolerance")
	_, err := json.Marshal(d)
	assert.NoError(t, err)
}

// TestRecordedHook: a recording names a hook that is run only if it is one of PyTorch's.
func TestRecordedHook(t *testing.T) {
	for _, spec := range []string{"allreduce", "fp16_wrapper(powersgd)", "bf16_wrapper(fp16_wrapper(allreduce))"} {
		got, err := RecordedHook("trace", &trace.Manifest{Hook: trace.Named{Spec: spec}})
		require.NoError(t, err)
		assert.Equal(t, spec, got)
	}
	for _, spec := range []string{"", "os:system", "fp16_wrapper(os:system)", "functools:partial(allreduce)", "allreduce\nos:system", "fp16_wrapper"} {
		_, err := RecordedHook("trace", &trace.Manifest{Hook: trace.Named{Name: "a.hook", Spec: spec, NoSpec: "a lambda, which has no name"}})
		assert.ErrorContains(t, err, "a.hook, which is run only if you name it", spec)
	}
	m := &trace.Manifest{Hook: trace.Named{Spec: "my.hooks:top_k"}, State: trace.State{Class: "my.hooks.State", Spec: "my.hooks:State(k=2)"}}
	_, err := RecordedHook("my trace", m)
	assert.ErrorContains(t, err, `hint: pyhook replay 'my trace' --hook my.hooks:top_k --state 'my.hooks:State(k=2)'`)
	m.Hook.Spec, m.Hook.NoSpec = "", "a lambda, which has no name"
	_, err = RecordedHook("trace", m)
	assert.ErrorContains(t, err, "--hook FILE.py:NAME --state 'my.hooks:State(k=2)' (the hook is a lambda, which has no name, so write it as a function of a file)")
	_, err = RecordedState("trace", m)
	assert.ErrorContains(t, err, "a state of class my.hooks.State, which is made only if you name it")
}

// TestProgram_Sparse: what is in no recorded bucket gets one of its own.
func TestProgram_Sparse(t *testing.T) {
	m := &trace.Manifest{WorldSize: 2, Hook: trace.Named{Spec: "allreduce"}, Parameters: []trace.Parameter{{Name: "e", Shape: []int64{4, 2}, DType: "float32"}, {Name: "w", Shape: []int64{3}, DType: "float32"}}}
	require.NoError(t, json.Unmarshal([]byte(`[{"dtype": "float32", "numel": 3, "gradients": [{"parameter": 1, "offset": 0, "length": 3, "shape": [3]}]}]`), &m.Layouts))
	m.Steps = []trace.Step{{Calls: []trace.Call{{Skipped: "a sparse gradient"}, {Bucket: 1}}}}
	text, err := Program("trace", m, hookspec.Spec{})
	require.NoError(t, err)
	assert.Contains(t, text, "var buckets = [][]int{\n\t{1},\n\t{0},\n}")
	assert.Contains(t, text, `do not have the parameters "e", of sparse gradients`)
	m.Steps = append(m.Steps, trace.Step{Step: 1, Calls: []trace.Call{{Layout: 0, Result: trace.Result{Error: "ValueError"}}}})
	again, err := Program("trace", m, hookspec.Spec{})
	require.NoError(t, err)
	assert.Equal(t, text, strings.Replace(again, "steps = 2", "steps = 1", 1), "a step that failed may lack buckets")
}
