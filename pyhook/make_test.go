package pyhook

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

// bucketOfParameters is a bucket with a gradient of ones for each parameter.
func bucketOfParameters(t *testing.T, params ...*c10d.Parameter) *c10d.GradBucket {
	t.Helper()
	cfg := c10d.BucketConfig{Count: 1, Parameters: params}
	total := int64(0)
	for _, p := range params {
		n := int64(1)
		for _, size := range p.Shape {
			n *= size
		}
		cfg.Offsets, cfg.Lengths, cfg.Sizes = append(cfg.Offsets, total), append(cfg.Lengths, n), append(cfg.Sizes, p.Shape)
		total += n
	}
	ones := make([]float32, total)
	for i := range ones {
		ones[i] = 1
	}
	cfg.Buffer = tensorOf(t, tensor.Float32, ones)
	b, err := c10d.NewGradBucket(cfg)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

// model is three parameters, one of them with values.
func model(t *testing.T) []*c10d.Parameter {
	t.Helper()
	data := tensorOf(t, tensor.Float32, []float32{1, 2})
	params := []*c10d.Parameter{
		{Name: "fc.weight", Shape: []int64{2}, DType: tensor.Float32, Data: data},
		{Name: "fc.bias", Shape: []int64{1}, DType: tensor.Float32, Attributes: map[string]any{"is_shared_mp": true}},
		{Name: "head", Shape: []int64{1, 1}, DType: tensor.Float32},
	}
	t.Cleanup(func() {
		for _, p := range params {
			p.Close()
		}
	})
	return params
}

func TestRuntime_Parameters(t *testing.T) {
	check(t, "a state made with them finds them in every bucket", func(t *testing.T) {
		params := model(t)
		h := load(t, "makes:by_name", HookConfig{
			State: StateSpec{Spec: "makes:ByName", Args: map[string]any{"scale": 3.0}}, Parameters: params})
		want := []any{[]any{"head", int64(2), false}, []any{"fc.weight", int64(0), false}, []any{"fc.bias", int64(1), true}}
		got, err := run(t, h, bucketOfParameters(t, params[2], params[0]))
		require.NoError(t, err)
		assert.Equal(t, []float32{3, 3, 3}, got)
		got, err = run(t, h, bucketOfParameters(t, params[1])) // as after rebuilt buckets
		require.NoError(t, err)
		assert.Equal(t, []float32{1}, got, "attributes set from Go stay")
		assert.Equal(t, want, python(t, "makes.seen", h.State()))
	})
	check(t, "and so with a list given by hand", func(t *testing.T) {
		params := model(t)
		list, err := rt.Parameters(params...)
		require.NoError(t, err)
		defer list.Close()
		state, err := rt.NewState(t.Context(), "makes:ByName", map[string]any{"parameters": list}, nil)
		require.NoError(t, err)
		defer state.Close()
		h := load(t, "makes:by_name", HookConfig{State: state})
		_, err = run(t, h, bucketOfParameters(t, params[0]))
		require.NoError(t, err)
		assert.Equal(t, []any{[]any{"fc.weight", int64(0), false}}, python(t, "makes.seen", state))
		head, err := list.Call("__getitem__", "head")
		require.NoError(t, err)
		defer head.Close()
		own, err := ParameterObject(params[2])
		require.NoError(t, err)
		defer own.Close()
		assert.True(t, own.Same(head))
		require.NoError(t, own.SetAttr("param_group", 7))
		_, err = run(t, h, bucketOfParameters(t, params[2]))
		require.NoError(t, err)
		assert.Equal(t, []any{"head", int64(7), false}, python(t, "makes.seen", state).([]any)[1])
	})
	check(t, "are no part of the state that is saved", func(t *testing.T) {
		params := model(t)
		cfg := HookConfig{State: StateSpec{Spec: "makes:ByName"}, Parameters: params[1:2]}
		file := filepath.Join(t.TempDir(), "state")
		require.NoError(t, load(t, "makes:by_name", cfg).SaveStateFile(t.Context(), file))
		require.NoError(t, load(t, "makes:by_name", cfg).LoadStateFile(t.Context(), file))
	})
	check(t, "that are missing say how to give them", func(t *testing.T) {
		_, err := rt.NewHook(t.Context(), "makes:by_name", HookConfig{State: StateSpec{Spec: "makes:ByName"}})
		saysAllOf(t, err, c10d.ErrBadArguments, "state makes:ByName", -1)
		require.ErrorContains(t, err, "HookConfig.Parameters")
		_, err = rt.NewHook(t.Context(), "makes:make(inner=parameters)", HookConfig{})
		saysAll(t, err, c10d.ErrBadArguments, "makes:make(inner=parameters)", -1)
		_, err = rt.Parameters(nil)
		require.ErrorIs(t, err, c10d.ErrBadArguments)
		_, err = rt.Parameters(&c10d.Parameter{Name: "w", Shape: []int64{1}})
		require.ErrorIs(t, err, c10d.ErrBadArguments)
		require.ErrorContains(t, err, "parameter w: it has no DType")
		twice := []*c10d.Parameter{{Name: "w", Shape: []int64{1}, DType: tensor.Float32}, {Name: "w", Shape: []int64{2}, DType: tensor.Float32}}
		_, err = rt.Parameters(twice...)
		require.ErrorIs(t, err, c10d.ErrBadArguments)
		require.ErrorContains(t, err, "two parameters have the name 'w'")
		for _, p := range twice {
			p.Close()
		}
	})
}

func TestRuntime_NewHook_OfAnObjectThatRegistersIt(t *testing.T) {
	for spec, want := range map[string]float32{
		"makes:Stats()":                                0.5,
		"makes:Stats(0.25, names=['a', \"b\"])":        0.25,
		"makes:InConstructor()":                        2,
		"makes:InConstructor(ddp)":                     2,
		"makes:setup(ddp)":                             0.5,
		"makes:make(rank=3, inner=makes:Stats(0.125))": 0.375,
	} {
		check(t, spec, func(t *testing.T) {
			params := model(t)
			h := load(t, spec, HookConfig{Parameters: params})
			got, err := run(t, h, bucketOfParameters(t, params...))
			require.NoError(t, err)
			assert.Equal(t, []float32{want, want, want, want}, got)
		})
	}
	check(t, "with its own state", func(t *testing.T) {
		h := load(t, "makes:Stats()", HookConfig{Parameters: model(t)})
		assert.Equal(t, "makes.Stats.hook", h.Name())
		for attribute, want := range map[string]any{"world": int64(1), "inner": []any{"fc.weight", "fc.bias", "head"},
			"names": []any{"module.fc.weight", "module.fc.bias", "module.head"}} {
			value, err := h.State().Attr(attribute)
			require.NoError(t, err)
			defer value.Close()
			got, err := value.Value()
			require.NoError(t, err)
			assert.Equal(t, want, got, attribute)
		}
		_, err := rt.NewHook(t.Context(), "makes:Stats()", HookConfig{State: 3})
		saysAll(t, err, c10d.ErrBadArguments, "makes.Stats.hook", -1)
		require.ErrorContains(t, err, "a state of its own")
	})
	check(t, "or of one that Go has", func(t *testing.T) {
		module, err := rt.Import(t.Context(), "makes")
		require.NoError(t, err)
		defer module.Close()
		stats, err := module.Call("Stats", 4)
		require.NoError(t, err)
		defer stats.Close()
		h, err := rt.Capture(t.Context(), stats, HookConfig{Parameters: model(t)})
		require.NoError(t, err)
		defer h.Close()
		got, err := run(t, h, bucket(t, []float32{1}))
		require.NoError(t, err)
		assert.Equal(t, []float32{4}, got)
		assert.True(t, h.State().Same(stats))
	})
	check(t, "and of one that registers none", func(t *testing.T) {
		_, err := rt.NewHook(t.Context(), "makes:registers_nothing(ddp)", HookConfig{})
		saysAll(t, err, c10d.ErrNotCallable, "makes:registers_nothing(ddp)", -1)
		_, err = rt.NewHook(t.Context(), "makes:Stats", HookConfig{})
		saysAll(t, err, c10d.ErrNotCallable, "makes:Stats", -1)
		require.ErrorContains(t, err, "in brackets")
	})
}

func TestRuntime_NewHook_OfAFactory(t *testing.T) {
	for spec, want := range map[string][]float32{
		`makes:make(rank=2, compression="fp16")`:                                 {2, 4},
		`makes:make(3)`:                                                          {3, 6},
		`makes:make(2, "int8", makes:halved)`:                                    {1, 2},
		`makes:make(rank=2, inner=makes:make(rank=5))`:                           {10, 20},
		`fp16_wrapper(makes:make(rank=2))`:                                       {2, 4},
		`testdata/makes.py:make(rank=2, inner = testdata/makes.py:make(rank=2))`: {4, 8},
	} {
		check(t, spec, func(t *testing.T) {
			got, err := run(t, load(t, spec, HookConfig{}), bucket(t, []float32{1, 2}))
			require.NoError(t, err)
			assert.Equal(t, want, got)
		})
	}
	for spec, kind := range map[string]error{
		`makes:make(rank=2.5)`:            nil, // no annotation and no default: it is the factory's to say
		`makes:make(rank=2, cmprs="x")`:   c10d.ErrBadArguments,
		`makes:make(rank=2, rank=3)`:      c10d.ErrBadSpec,
		`makes:make(rank=2, 3)`:           c10d.ErrBadSpec,
		`makes:make(rank="2)`:             c10d.ErrBadSpec,
		`makes:make(rank=)`:               c10d.ErrBadSpec,
		`makes:make(rank=2, inner=fp61)`:  c10d.ErrBadSpec,
		`makes:takes_numbers(whole=1)`:    c10d.ErrNotCallable,
		`makes:make(rank={1: makes:x})`:   c10d.ErrBadSpec,
		`makes:make(__import__("os"), 2)`: c10d.ErrBadSpec,
	} {
		check(t, spec, func(t *testing.T) {
			_, err := rt.NewHook(t.Context(), spec, HookConfig{})
			if kind == nil {
				require.ErrorIs(t, err, Exception("AssertionError"))
				return
			}
			saysAll(t, err, kind, spec, -1)
		})
	}
}

func TestRuntime_NewHook_nilPointers(t *testing.T) {
	var noSpec *StateSpec
	var noParameter *c10d.Parameter
	for name, state := range map[string]any{"StateSpec": noSpec, "Parameter": noParameter, "an argument": StateSpec{Spec: "powersgd", Args: map[string]any{"process_group": noParameter}}} {
		check(t, name, func(t *testing.T) {
			h, err := rt.NewHook(t.Context(), "allreduce", HookConfig{State: state})
			require.Nil(t, h)
			require.ErrorIs(t, err, c10d.ErrLoad)
			require.ErrorContains(t, err, "nil")
		})
	}
	_, err := ParameterObject(nil)
	require.ErrorContains(t, err, "nil")
}

func TestRuntime_NewState_TakesNumbersAsTheyAreMeant(t *testing.T) {
	values := func(t *testing.T, args map[string]any) any {
		t.Helper()
		state, err := rt.NewState(t.Context(), "makes:takes_numbers", args, nil)
		require.NoError(t, err)
		defer state.Close()
		got, err := state.Value()
		require.NoError(t, err)
		return got.(map[any]any)["values"]
	}
	check(t, "whole floats where ints are", func(t *testing.T) {
		got := values(t, map[string]any{"whole": 4.0, "also": float32(5), "real": 6.0, "maybe": 7.0})
		assert.Equal(t, []any{int64(4), int64(5), 6.0, "", int64(7)}, got)
	})
	check(t, "json.Number", func(t *testing.T) {
		got := values(t, map[string]any{"whole": json.Number("4"), "real": json.Number("1e3"),
			"text": []any{json.Number("18446744073709551615"), map[string]any{"a": json.Number("-0.5")}}})
		assert.Equal(t, []any{int64(4), int64(2), 1000.0, []any{uint64(18446744073709551615), map[any]any{"a": -0.5}}, nil}, got)
		var args map[string]any
		require.NoError(t, json.Unmarshal([]byte(`{"whole": 9, "real": 9}`), &args)) // as Go reads JSON
		assert.Equal(t, []any{int64(9), int64(2), 9.0, "", nil}, values(t, args))
	})
	check(t, "others are errors", func(t *testing.T) {
		for name, args := range map[string]map[string]any{
			"also=2.5 is not a whole number":                {"also": 2.5},
			"also=inf is not a whole number":                {"also": json.Number("1e308").String() + "0"},
			`"x" is not a number`:                           {"whole": json.Number("x")},
			"100000000000000000000 does not fit in 64 bits": {"whole": json.Number("100000000000000000000")},
		} {
			if name == "also=inf is not a whole number" {
				args = map[string]any{"also": inf()}
			}
			_, err := rt.NewState(t.Context(), "makes:takes_numbers", args, nil)
			require.ErrorIs(t, err, c10d.ErrLoad)
			require.ErrorContains(t, err, name)
		}
		_, err := rt.NewState(t.Context(), "powersgd", map[string]any{"matrix_approximation_rank": 1.5}, nil)
		saysAllOf(t, err, c10d.ErrBadArguments, "state powersgd", -1)
		require.ErrorContains(t, err, "matrix_approximation_rank=1.5 is not a whole number")
	})
	check(t, "PowerSGD runs with what JSON gave", func(t *testing.T) {
		h := load(t, "powersgd", HookConfig{State: StateSpec{Spec: "powersgd", Args: map[string]any{
			"matrix_approximation_rank": 1.0, "start_powerSGD_iter": 2.0}}})
		b := bucketOfParameters(t, &c10d.Parameter{Shape: []int64{4, 4}, DType: tensor.Float32})
		for range 4 {
			_, err := run(t, h, b)
			require.NoError(t, err)
		}
		b.Parameters()[0].Close()
	})
}

func inf() float64 {
	zero := 0.0
	return 1 / zero
}

func TestRuntime_NewHook_WithoutTheStateThatItNeeds(t *testing.T) {
	dtypes, err := world.DTypes(t.Context()) // sid's gloo has no float16
	require.NoError(t, err)
	for _, spec := range []string{"powersgd", "batched_powersgd", "fp16_wrapper(powersgd)", "bf16_wrapper(fp16_wrapper(powersgd))"} {
		check(t, spec+" gets PyTorch's own", func(t *testing.T) {
			h := load(t, spec, HookConfig{})
			start, err := h.State().Attr("start_powerSGD_iter")
			require.NoError(t, err)
			defer start.Close()
			value, err := start.Value()
			require.NoError(t, err)
			assert.Equal(t, int64(1000), value)
			got, err := run(t, h, bucket(t, []float32{1, 2}))
			if dtypes["float16"] != "" && strings.Contains(spec, "fp16") {
				require.ErrorContains(t, err, "cannot all-reduce that dtype")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, []float32{1, 2}, got)
		})
	}
	check(t, "post_localsgd has none: it fails at once", func(t *testing.T) {
		_, err := rt.NewHook(t.Context(), "post_localsgd", HookConfig{})
		require.ErrorIs(t, err, c10d.ErrBadArguments)
		require.ErrorContains(t, err, "start_localSGD_iter")
		require.ErrorContains(t, err, "Runtime.NewState")
	})
}

func TestAHooksFileIsTheModuleThatImportFinds(t *testing.T) {
	folder := t.TempDir()
	write := func(name, source string) string {
		path := filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(path, []byte(source), 0o600))
		return path
	}
	hooks := write("hooks_of_a_file.py", `
import multiprocessing, os, torch
class C: pass
class State:
    def __init__(self): self.inner, self.steps = C(), 0
def work(pipe): pipe.send(os.getpid())
def hook(state, bucket):
    assert isinstance(state, C), type(state)
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
def spawns(state, bucket):
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(there,))
    child.start()
    there.close()
    assert here.recv() == child.pid
    child.join()
    assert child.exitcode == 0
    return hook(C(), bucket)
`)
	factory := write("factory_of_a_file.py", "from hooks_of_a_file import C\ndef make(): return C()\n")
	check(t, "isinstance", func(t *testing.T) {
		h := load(t, hooks+":hook", HookConfig{State: StateSpec{Spec: factory + ":make"}})
		assert.Equal(t, hooks+":hook", h.Name(), "as the user wrote it")
		got, err := run(t, h, bucket(t, []float32{1, 2}))
		require.NoError(t, err)
		assert.Equal(t, []float32{1, 2}, got)
	})
	check(t, "a spawned child", func(t *testing.T) {
		_, err := run(t, load(t, hooks+":spawns", HookConfig{}), bucket(t, []float32{1}))
		require.NoError(t, err)
	})
	check(t, "a relative import", func(t *testing.T) {
		bad := write("relative_of_a_file.py", "from . import x\n")
		_, err := rt.NewHook(t.Context(), bad+":hook", HookConfig{})
		saysAll(t, err, c10d.ErrImportFailed, bad+":hook", -1)
		require.ErrorContains(t, err, "set PYTHONPATH="+filepath.Dir(folder)+" and write "+filepath.Base(folder)+".relative_of_a_file:hook")
	})
}
