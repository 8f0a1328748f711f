package pyhook

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
)

func TestPythonCommHook_Snapshot(t *testing.T) {
	check(t, "a state goes back, again and again", func(t *testing.T) {
		h := load(t, "powersgd", HookConfig{State: StateSpec{Spec: "powersgd", Args: map[string]any{"start_powerSGD_iter": 2}}})
		step := func() []float32 {
			got, err := run(t, h, bucket(t, []float32{1, 2, 3, 4}, []float32{5, 6}))
			require.NoError(t, err)
			return got
		}
		for range 3 {
			step()
		}
		require.NoError(t, h.Snapshot(t.Context()))
		want := [][]float32{step(), step()}
		for range 2 {
			require.NoError(t, h.Restore(t.Context()))
			assert.Equal(t, want, [][]float32{step(), step()})
		}
	})
	check(t, "a hook without a state has nothing to keep", func(t *testing.T) {
		h := load(t, "noop", HookConfig{})
		assert.False(t, h.HasState())
		assert.False(t, load(t, "noop", HookConfig{State: world}).HasState())
		assert.True(t, load(t, "powersgd", HookConfig{}).HasState())
		require.NoError(t, h.Snapshot(t.Context()))
		require.NoError(t, h.Restore(t.Context()))
	})
	check(t, "there is none before the first", func(t *testing.T) {
		h := load(t, "powersgd", HookConfig{})
		require.ErrorIs(t, h.Restore(t.Context()), c10d.ErrState)
	})
	check(t, "what cannot be saved is named", func(t *testing.T) {
		path := file(t, "opens.py", "class State:\n    def __init__(self):\n        self.log = open('/dev/null')\n\ndef hook(state, bucket):\n    pass\n")
		h := load(t, path+":hook", HookConfig{State: StateSpec{Spec: path + ":State"}})
		err := h.Snapshot(t.Context())
		require.ErrorIs(t, err, c10d.ErrStateUnsafe)
		require.ErrorContains(t, err, "state.log")
	})
}
