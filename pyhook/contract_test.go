package pyhook

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

// sees runs contract.py's hook once and returns a function that reads what it saw.
func sees(t *testing.T, hook string, cfg HookConfig, b *c10d.GradBucket) func(string) any {
	t.Helper()
	_, err := run(t, load(t, "contract:"+hook, cfg), b)
	require.NoError(t, err)
	return func(name string) any { t.Helper(); return python(t, "contract.get", name) }
}

func TestAHookIsCalledWithStateAndBucketByPosition(t *testing.T) {
	check(t, "", func(t *testing.T) {
		saw := sees(t, "calls", HookConfig{}, bucket(t, []float32{1}))
		assert.Equal(t, []any{}, saw("keywords"))
		assert.Equal(t, "NoneType", saw("state"))
	})
}

func TestABucketAnswersAsPyTorchsDoes(t *testing.T) {
	check(t, "", func(t *testing.T) {
		buffer := tensorOf(t, tensor.Float32, []float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
		b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 1, Count: 3, Buffer: buffer,
			Offsets: []int64{1, 7, 7}, Lengths: []int64{6, 0, 1}, Sizes: [][]int64{{2, 3}, {4, 0}, {}}})
		require.NoError(t, err)
		defer b.Close()
		saw := sees(t, "look", HookConfig{}, b)
		assert.Equal(t, int64(1), saw("index"))
		assert.Equal(t, []any{int64(10)}, saw("shape"))
		for _, yes := range []string{"is_bucket", "same_buffer", "new_list"} {
			assert.Equal(t, true, saw(yes), yes)
		}
		for _, no := range []string{"is_last", "requires_grad"} {
			assert.Equal(t, false, saw(no), no)
		}
		matrix := []any{[]any{1.0, 2.0, 3.0}, []any{4.0, 5.0, 6.0}}
		assert.Equal(t, []any{matrix, []any{[]any{}, []any{}, []any{}, []any{}}, 7.0}, saw("gradients"))
		assert.Equal(t, []any{int64(1), int64(7), int64(7)}, saw("offsets"))
		assert.Contains(t, saw("repr"), "2 of 3")

		views, err := b.Gradients()
		require.NoError(t, err)
		assert.Equal(t, []float32{1, 2, 3, 4, 5, 6}, values(t, views[0]))
		assert.Equal(t, [][]int64{{2, 3}, {4, 0}, {}}, [][]int64{views[0].Shape(), views[1].Shape(), views[2].Shape()})
		for _, view := range views {
			view.Close()
		}
		assert.Equal(t, []any{1, 3, false}, []any{b.Index(), b.Count(), b.IsLast()})
	})
	check(t, "of the last one too", func(t *testing.T) {
		b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 2, Count: 3, Buffer: tensorOf(t, tensor.Float32, nil)})
		require.NoError(t, err)
		defer b.Close()
		assert.Equal(t, true, sees(t, "look", HookConfig{}, b)("is_last"))
		assert.True(t, b.IsLast())
	})
	check(t, "and its gradients are views of the trainer's memory", func(t *testing.T) {
		b := bucket(t, []float32{9, 9}, []float32{9, 9, 9})
		sees(t, "writes_gradients", HookConfig{}, b)
		assert.Equal(t, []float32{1, 1, 2, 2, 2}, values(t, b.Buffer()))
	})
}

func TestWhatAHookDoesToItsBucketStaysInThatStep(t *testing.T) {
	check(t, "set_buffer", func(t *testing.T) {
		b := bucket(t, []float32{1, 2}, []float32{3})
		h := load(t, "contract:replaces_the_buffer", HookConfig{})
		for range 3 {
			got, err := run(t, h, b)
			require.NoError(t, err)
			assert.Equal(t, []float32{10, 20, 30}, got)
			assert.Equal(t, []any{[]any{10.0, 20.0}, []any{30.0}}, python(t, "contract.get", "views"))
		}
		assert.Equal(t, []float32{1, 2, 3}, values(t, b.Buffer()))
		got, err := run(t, load(t, "contract:replaces_but_returns_the_first", HookConfig{}), b)
		require.NoError(t, err)
		assert.Equal(t, []float32{1, 2, 3}, got)
	})
	check(t, "attributes", func(t *testing.T) {
		b := bucket(t, []float32{1})
		for range 2 {
			assert.Equal(t, false, sees(t, "leaves_marks", HookConfig{}, b)("marked"))
		}
	})
	check(t, "and a bucket that it keeps stays good", func(t *testing.T) {
		b := bucket(t, []float32{1, 2})
		sees(t, "keeps_the_bucket", HookConfig{}, b)
		require.NoError(t, b.SetBuffer(tensorOf(t, tensor.Float32, []float32{3, 4})))
		sees(t, "keeps_the_bucket", HookConfig{}, b)
		b.Buffer().Close()
		b.Close()
		assert.Equal(t, []any{[]any{[]any{1.0, 2.0}, int64(2)}, []any{[]any{3.0, 4.0}, int64(2)}}, python(t, "contract.kept_buckets"))
	})
}

func TestHooksOfTorch17To19WorkAndAreReported(t *testing.T) {
	check(t, "", func(t *testing.T) {
		h, b := load(t, "contract:old_hook", HookConfig{}), bucket(t, []float32{1, 2})
		assert.Empty(t, h.LegacyNames(b))
		got, err := run(t, h, b)
		require.NoError(t, err)
		assert.Equal(t, []float32{2, 4}, got)
		want := []string{"[tensor] result", "get_index", "get_per_parameter_tensors", "get_tensor", "get_tensors",
			"is_the_last_bucket_to_allreduce", "set_tensor"}
		assert.Equal(t, want, h.LegacyNames(b))
		b.Close()
		assert.Equal(t, want, h.LegacyNames(b))
	})
	check(t, "and annotations of theirs are no hindrance", func(t *testing.T) {
		path := file(t, "old.py", "import torch\nimport torch.distributed as dist\n"+
			"def hook(state: object, bucket: dist._GradBucket) -> torch.futures.Future:\n"+
			"    f = torch.futures.Future(); f.set_result(bucket.get_tensors()); return f\n")
		got, err := run(t, load(t, path+":hook", HookConfig{}), bucket(t, []float32{1}))
		require.NoError(t, err)
		assert.Equal(t, []float32{1}, got)
	})
}

func TestAnyCallableIsAHook(t *testing.T) {
	names := map[string]string{
		"instance":           "contract.Callable instance",
		"method":             "contract.Callable.hook",
		"instance.hook":      "contract.Callable.hook",
		"Callable.of_class":  "contract.Callable.of_class",
		"Callable.of_nobody": "contract.Callable.of_nobody",
		"partial":            "functools.partial(contract.scaled)",
		"function":           "contract.<lambda>",
		"annotated":          "contract.annotated",
		"other_names":        "contract.other_names",
	}
	for spec, name := range names {
		check(t, spec, func(t *testing.T) {
			h := load(t, "contract:"+spec, HookConfig{})
			assert.Equal(t, name, h.Name())
			got, err := run(t, h, bucket(t, []float32{1, 2}))
			require.NoError(t, err)
			assert.Equal(t, []float32{2, 4}, got)
		})
	}
	check(t, "a wrapper around a wrapper", func(t *testing.T) {
		got, err := run(t, load(t, "contract:wrapper(contract:wrapper(noop))", HookConfig{}), bucket(t, []float32{1}))
		require.NoError(t, err)
		assert.Equal(t, []float32{4}, got)
	})
}

func TestAStateIsAnyGoValueObjectOrGroup(t *testing.T) {
	for name, state := range map[string]any{"nil": nil, "an int": int64(3), "a text": "x",
		"a map": map[any]any{"rank": int64(2)}, "a list": []any{int64(1), "a"}} {
		check(t, name, func(t *testing.T) {
			assert.Equal(t, state, sees(t, "state_is", HookConfig{State: state}, bucket(t, []float32{1}))("state"))
		})
	}
	check(t, "a dict keeps what hooks write", func(t *testing.T) {
		h, b := load(t, "contract:counts", HookConfig{State: map[string]any{}}), bucket(t, []float32{1})
		for range 3 {
			_, err := run(t, h, b)
			require.NoError(t, err)
		}
		state, err := h.State().Value()
		require.NoError(t, err)
		assert.Equal(t, map[any]any{"calls": int64(3)}, state)
	})
	check(t, "a group", func(t *testing.T) {
		assert.Equal(t, true, sees(t, "uses_the_group", HookConfig{State: world}, bucket(t, []float32{1}))("is_group"))
		assert.Equal(t, "builtins.NoneType", sees(t, "state_is", HookConfig{State: (*TorchGroup)(nil)}, bucket(t, []float32{1}))("type"))
	})
	check(t, "an object, which stays the caller's", func(t *testing.T) {
		state, err := rt.NewState(t.Context(), "contract:State", map[string]any{"rank": 4}, nil)
		require.NoError(t, err)
		defer state.Close()
		group, err := state.Attr("process_group")
		require.NoError(t, err)
		defer group.Close()
		assert.True(t, group.Same(world.Object()), "the default group was filled in")
		saw := sees(t, "state_is", HookConfig{State: state}, bucket(t, []float32{1}))
		assert.Equal(t, "contract.State", saw("type"))
		python(t, "contract.forget")
	})
}

func TestPowerSGDGetsItsState(t *testing.T) {
	environment, err := rt.Environment()
	require.NoError(t, err)
	if environment["numpy"] == nil {
		t.Skip("PowerSGD needs numpy")
	}
	check(t, "", func(t *testing.T) {
		state, err := rt.NewState(t.Context(), "powersgd", map[string]any{"matrix_approximation_rank": 1, "start_powerSGD_iter": 2}, world)
		require.NoError(t, err)
		defer state.Close()
		h := load(t, "powersgd", HookConfig{State: state})
		buffer := tensorOf(t, tensor.Float32, slices.Repeat([]float32{1}, 70))
		b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 0, Count: 1, Buffer: buffer,
			Offsets: []int64{0, 64}, Lengths: []int64{64, 6}, Sizes: [][]int64{{8, 8}, {6}}})
		require.NoError(t, err)
		defer b.Close()
		for range 5 {
			got, err := run(t, h, b)
			require.NoError(t, err)
			assert.InDeltaSlice(t, slices.Repeat([]float32{1}, 70), got, 1e-4, "a matrix of rank 1 comes back")
		}
	})
	_, err = rt.NewState(t.Context(), "powersgd", map[string]any{"matrix_rank": 1}, nil)
	saysAllOf(t, err, c10d.ErrBadArguments, "state powersgd", -1)
	require.ErrorContains(t, err, "matrix_approximation_rank")
}

// As batched_powerSGD_hook does; that one itself fails an assertion of its own
// in each torch from 1.13 to 2.15.
func TestAHookMayMakeASquareOfItsBuffer(t *testing.T) {
	check(t, "", func(t *testing.T) {
		h, b := load(t, "contract:squares", HookConfig{}), bucket(t, []float32{1, 2, 3, 4, 5})
		for range 3 {
			got, err := run(t, h, b)
			require.NoError(t, err)
			assert.Equal(t, []float32{1, 2, 3, 4, 5}, got)
			assert.Equal(t, int64(9), python(t, "contract.get", "square"))
			assert.Equal(t, int64(5), python(t, "contract.get", "length"))
		}
		future, err := h.RunHook(t.Context(), b)
		require.NoError(t, err)
		defer future.Close()
		value, err := future.Wait(t.Context())
		require.NoError(t, err)
		assert.Same(t, b.Buffer(), tensorIn(value), "nothing had to move")
	})
	check(t, "but memory of others cannot grow", func(t *testing.T) {
		memory, err := tensor.FromSlice([]float32{1, 2, 3, 4, 5})
		require.NoError(t, err)
		b := bucketOf(t, memory, 5)
		h := load(t, "contract:squares", HookConfig{})
		_, err = run(t, h, b)
		saysAll(t, err, c10d.ErrRaised, h.Name(), 2)
		require.ErrorContains(t, err, "hint: "+resizeHint)
		memory.Close()
	})
}
