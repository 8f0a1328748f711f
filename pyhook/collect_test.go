package pyhook

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestImportUncollected(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"many_objects", "more_objects"} {
		source := []byte("kept = [[] for _ in range(100_000)]\n")
		require.NoError(t, os.WriteFile(filepath.Join(folder, name+".py"), source, 0o644))
	}
	collections := func() (n int64) {
		stats, err := callPython("gc.get_stats")
		require.NoError(t, err)
		for _, generation := range stats.([]any) {
			n += generation.(map[any]any)["collections"].(int64)
		}
		return n
	}
	_, err := callPython("site.addsitedir", folder)
	require.NoError(t, err)
	frozen, err := callPython("gc.get_freeze_count") // TestMain's
	require.NoError(t, err)
	require.NotZero(t, frozen)

	t.Run("what is frozen stays frozen", func(t *testing.T) {
		module, err := importUncollected("many_objects")
		require.NoError(t, err)
		module.Close()
		after, err := callPython("gc.get_freeze_count")
		require.NoError(t, err)
		assert.Greater(t, after, frozen.(int64)/2)
	})
	t.Run("nothing is collected during the import or because of it", func(t *testing.T) {
		_, err := callPython("gc.unfreeze")
		require.NoError(t, err)
		defer callPython("gc.freeze")
		_, err = callPython("gc.collect")
		require.NoError(t, err)
		before := collections()
		module, err := importUncollected("more_objects")
		require.NoError(t, err)
		defer module.Close()
		assert.Equal(t, before, collections())
		enabled, err := callPython("gc.isenabled")
		require.NoError(t, err)
		assert.Equal(t, true, enabled)
	})
}
