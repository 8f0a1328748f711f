package pyhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// stateOf makes a state and closes it with the test.
func stateOf(t require.TestingT, spec string, kwargs map[string]any) *Object {
	state, err := rt.NewState(context.Background(), spec, kwargs, world)
	require.NoError(t, err)
	return state
}

// powerHook is PowerSGD with a new state.
func powerHook(t require.TestingT) *PythonCommHook {
	state := stateOf(t, "powersgd", map[string]any{"matrix_approximation_rank": 2, "start_powerSGD_iter": 2})
	defer state.Close()
	h, err := rt.NewHook(context.Background(), "powersgd", HookConfig{State: state})
	require.NoError(t, err)
	return h
}

// powerSteps runs the hook on three buckets for some steps, with gradients that
// the step's number makes, and returns the bits of all results.
func powerSteps(t require.TestingT, h c10d.CommHook, first, last int) []uint32 {
	sizes := [][]int64{{12, 9}, {20, 6}, {16, 5}}
	var out []uint32
	for step := first; step < last; step++ {
		random := rand.New(rand.NewPCG(uint64(step), 0))
		for i, size := range sizes {
			buffer, err := tensor.New(tensor.Float32, size[0]*size[1])
			require.NoError(t, err)
			memory, err := tensor.Slice[float32](buffer)
			require.NoError(t, err)
			for j := range memory {
				memory[j] = float32(random.NormFloat64())
			}
			b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: i, Count: len(sizes), Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{buffer.Len()}, Sizes: [][]int64{size}})
			require.NoError(t, err)
			future, err := h.RunHook(context.Background(), b)
			require.NoError(t, err)
			value, err := future.Wait(context.Background())
			require.NoError(t, err)
			result, err := h.ParseHookResult(b, value)
			require.NoError(t, err)
			reduced, err := tensor.Slice[float32](result)
			require.NoError(t, err)
			for _, x := range reduced {
				out = append(out, math.Float32bits(x))
			}
			result.Close()
			future.Close()
			b.Close()
			buffer.Close()
		}
	}
	return out
}

const stateFile = "PYHOOK_TEST_STATE"

func init() {
	// Goes on in a new process from the file that the test saved.
	children["resume"] = func(is *require.Assertions) {
		is.NoError(start())
		h := powerHook(testutil.Child{})
		is.NoError(h.LoadStateFile(context.Background(), os.Getenv(stateFile)))
		fmt.Printf("\nresumed %x\n", powerSteps(testutil.Child{}, h, 6, 12))
	}
}

func TestPowerSGDGoesOnAsIfItHadNotBeenStopped(t *testing.T) {
	whole := powerHook(t)
	defer whole.Close()
	powerSteps(t, whole, 0, 6)
	expected := powerSteps(t, whole, 6, 12)

	stopped := powerHook(t)
	defer stopped.Close()
	powerSteps(t, stopped, 0, 6)
	path := filepath.Join(t.TempDir(), "state")
	require.NoError(t, stopped.SaveStateFile(t.Context(), path))
	check(t, "in this process", func(t *testing.T) {
		resumed := powerHook(t)
		defer resumed.Close()
		require.NoError(t, resumed.LoadStateFile(t.Context(), path))
		assert.Equal(t, expected, powerSteps(t, resumed, 6, 12))
	})
	check(t, "and without the state it does not", func(t *testing.T) {
		other := powerHook(t)
		defer other.Close()
		assert.NotEqual(t, expected, powerSteps(t, other, 6, 12))
	})
	t.Run("in a new process", func(t *testing.T) {
		out := runChild(t, "resume", stateFile+"="+path)
		assert.Contains(t, out, fmt.Sprintf("\nresumed %x\n", expected))
	})
}

func TestAHooksStateComesBack(t *testing.T) {
	check(t, "a user's class", func(t *testing.T) {
		made := func() *PythonCommHook {
			state := stateOf(t, "states:Residuals", nil)
			t.Cleanup(state.Close)
			return load(t, "states:rounding", HookConfig{State: state})
		}
		a, b := made(), made()
		_, err := run(t, a, bucket(t, []float32{0.3, 1.4}))
		require.NoError(t, err)
		var saved bytes.Buffer
		require.NoError(t, a.SaveState(t.Context(), &saved))
		require.NoError(t, b.LoadState(t.Context(), &saved))
		for _, h := range []*PythonCommHook{a, b} {
			got, err := run(t, h, bucket(t, []float32{0.3, 1.4}))
			require.NoError(t, err)
			assert.Equal(t, []float32{1, 2}, got)
		}
	})
	check(t, "PostLocalSGD's, with its groups", func(t *testing.T) {
		kwargs := map[string]any{"start_localSGD_iter": 2, "subgroup": world.Object()}
		state := stateOf(t, "post_localsgd", kwargs)
		defer state.Close()
		h := load(t, "post_localsgd", HookConfig{State: state})
		var saved bytes.Buffer
		require.NoError(t, h.SaveState(t.Context(), &saved))
		require.NoError(t, h.LoadState(t.Context(), &saved))
		_, err := run(t, h, bucket(t, []float32{1, 2}))
		require.NoError(t, err)
	})
	check(t, "what the hook holds itself", func(t *testing.T) {
		made := func() *PythonCommHook {
			hook := stateOf(t, "states:counting", nil)
			defer hook.Close()
			h, err := rt.WrapHook(t.Context(), hook, HookConfig{})
			require.NoError(t, err)
			t.Cleanup(h.Close)
			return h
		}
		a, b := made(), made()
		_, err := run(t, a, bucket(t, []float32{5}))
		require.NoError(t, err)
		var saved bytes.Buffer
		require.NoError(t, a.SaveState(t.Context(), &saved))
		require.NoError(t, b.LoadState(t.Context(), &saved))
		got, err := run(t, b, bucket(t, []float32{5}))
		require.NoError(t, err)
		assert.Equal(t, []float32{2}, got)
	})
	check(t, "an empty one", func(t *testing.T) {
		for _, state := range []any{nil, world} {
			h := load(t, "allreduce", HookConfig{State: state})
			var saved bytes.Buffer
			require.NoError(t, h.SaveState(t.Context(), &saved))
			require.NoError(t, load(t, "fp16", HookConfig{}).LoadState(t.Context(), &saved))
		}
	})
}

func TestAStateThatDoesNotFitIsATypedErrorAndChangesNothing(t *testing.T) {
	power := powerHook(t)
	defer power.Close()
	var saved bytes.Buffer
	require.NoError(t, power.SaveState(t.Context(), &saved))
	data := saved.Bytes()
	flipped := bytes.Clone(data)
	flipped[len(flipped)/2] ^= 1
	state := stateOf(t, "states:Residuals", nil)
	defer state.Close()
	cases := map[string]struct {
		from []byte
		kind error
		says string
	}{
		"nothing":           {nil, c10d.ErrStateCorrupt, "it is empty"},
		"another file":      {[]byte(strings.Repeat("text", 40)), c10d.ErrStateCorrupt, "it does not begin as one"},
		"a file cut short":  {data[:len(data)-1], c10d.ErrStateCorrupt, "hint: it was cut short"},
		"a changed file":    {flipped, c10d.ErrStateCorrupt, "its digest does not fit"},
		"another's state":   {data, c10d.ErrStateClass, "powerSGD_hook.PowerSGDState"},
		"a state for none":  {data, c10d.ErrStateClass, "an empty state"},
		"a reader's errors": {nil, c10d.ErrState, "no disk"},
	}
	for name, c := range cases {
		check(t, name, func(t *testing.T) {
			cfg := HookConfig{State: state}
			if name == "a state for none" {
				cfg = HookConfig{}
			}
			h := load(t, "states:rounding", cfg)
			err := h.LoadState(t.Context(), bytes.NewReader(c.from))
			if name == "a reader's errors" {
				err = h.LoadState(t.Context(), iotest.ErrReader(errors.New("no disk")))
			}
			saysAll(t, err, c.kind, "states.rounding", -1)
			require.ErrorIs(t, err, c10d.ErrState)
			assert.Contains(t, err.Error(), c.says)
		})
	}
	check(t, "a file that is not there", func(t *testing.T) {
		err := power.LoadStateFile(t.Context(), filepath.Join(t.TempDir(), "none"))
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorIs(t, err, c10d.ErrState)
	})
	check(t, "a closed hook", func(t *testing.T) {
		h := powerHook(t)
		h.Close()
		require.ErrorIs(t, h.SaveState(t.Context(), &bytes.Buffer{}), c10d.ErrClosed)
	})
}

func TestEachCodeOfAStateErrorHasItsKind(t *testing.T) {
	for code, kind := range kinds["StateError"] {
		made := stateOf(t, "states:raising", map[string]any{"code": code})
		defer made.Close()
		h := load(t, "states:rounding", HookConfig{State: made})
		err := h.SaveState(t.Context(), &bytes.Buffer{})
		require.ErrorIs(t, err, c10d.Code(code))
		saysAll(t, err, kind, "states.rounding", -1)
	}
}

func TestAFileCannotRunAnythingUnlessItIsTrusted(t *testing.T) {
	state := stateOf(t, "states:evil", nil)
	defer state.Close()
	h := load(t, "states:rounding", HookConfig{State: state})
	path := filepath.Join(t.TempDir(), "state")
	require.NoError(t, os.WriteFile(path, []byte("the last one"), 0o600))
	err := h.SaveStateFile(t.Context(), path)
	saysAll(t, err, c10d.ErrStateUnsafe, "states.rounding", -1)
	assert.Contains(t, err.Error(), "state.left['x'][0]: <states.Evil>")
	kept, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "the last one", string(kept))

	require.NoError(t, h.SaveStateFile(t.Context(), path, TrustState()))
	saysAll(t, h.LoadStateFile(t.Context(), path), c10d.ErrStateUnsafe, "states.rounding", -1)
	assert.Equal(t, false, python(t, "states.has_run"))
	require.NoError(t, h.LoadStateFile(t.Context(), path, TrustState()))
	assert.Equal(t, true, python(t, "states.has_run"))
	saved, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), saved.Mode(), "other users may not read what a state holds")
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".pyhook-*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}
