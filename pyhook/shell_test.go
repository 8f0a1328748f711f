package pyhook

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// probes are the names of shells.py.
func probes(t *testing.T) []any {
	t.Helper()
	return python(t, "shells.names").([]any)
}

// The bucket that hooks get from Go is a type of C's, and the one of
// pyhook.testing a Python class: a hook must not be able to tell.
func TestTheBucketsOfGoAndOfPythonAreAlike(t *testing.T) {
	for _, name := range probes(t) {
		check(t, name.(string), func(t *testing.T) {
			m, err := rt.Import("shells")
			require.NoError(t, err)
			defer m.Close()
			hook, err := m.Call("probe", name)
			require.NoError(t, err)
			defer hook.Close()
			h, err := rt.WrapHook(hook, HookConfig{})
			require.NoError(t, err)
			defer h.Close()
			b := bucket(t, []float32{1}, []float32{2, 3, 4})
			got, err := run(t, h, b)
			require.NoError(t, err)
			assert.Equal(t, []float32{1, 2, 3, 4}, got)
		})
	}
}

func TestABucketInARingOfReferencesIsCollected(t *testing.T) {
	check(t, "", func(t *testing.T) {
		_, err := run(t, load(t, "shells:in_a_cycle", HookConfig{}), bucket(t, []float32{1, 2}))
		require.NoError(t, err)
		assert.Equal(t, []any{false, false}, python(t, "shells.still_there"))
	})
}

func TestABucketThatAHookKeepsIsItsOwn(t *testing.T) {
	check(t, "", func(t *testing.T) {
		h, b := load(t, "shells:keep", HookConfig{}), bucket(t, []float32{5, 6, 7, 8})
		for range 3 {
			got, err := run(t, h, b)
			require.NoError(t, err)
			assert.Equal(t, []float32{5, 6, 7, 8}, got)
		}
		kept := python(t, "shells.kept_values").([]any)
		assert.Equal(t, []any{1.0, 2.0, 3.0}, kept[0])
		assert.Equal(t, int64(3), kept[1])
	})
}

func TestCppRefusesABucketThatItDidNotMake(t *testing.T) {
	check(t, "", func(t *testing.T) {
		got, err := run(t, load(t, "shells:to_cpp", HookConfig{}), bucket(t, []float32{1, 2}))
		require.NoError(t, err)
		assert.Equal(t, []float32{1, 2}, got)
	})
}
