package worker_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/testutil"
	"pyhook/worker"
)

const boundFile = "../pyhook/testdata/bound.py:"

// The rules of threads are those of the trainer's own process: import, state and calls,
// with their callbacks, are on Python's main thread.
func TestAWorkersHooksAreOnPythonsMainThread(t *testing.T) {
	w := start(t, 1, worker.Config{})[0]
	h := hook(t, w, boundFile+"hook", worker.HookConfig{State: worker.State{Spec: boundFile + "State"}})
	b := bucket(t, w, 1, 2)
	for range 3 {
		future, chain, err := h.RunHookChained(testutil.Soon(t), b)
		require.NoError(t, err)
		for more := true; more; {
			more, err = chain.Advance(testutil.Soon(t))
			require.NoError(t, err)
		}
		_, err = future.Wait(testutil.Soon(t))
		require.NoError(t, err)
		chain.Close()
		future.Close()
	}
	other := hook(t, w, boundFile+"where", worker.HookConfig{State: worker.State{Spec: boundFile + "new_list"}})
	_, err := reduce(testutil.Soon(t), other, b)
	require.NoError(t, err)
}

// A worker ends as python does: what its hooks hold back is written, its threads'
// work is done.
func TestAWorkerEndsAsPythonDoes(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("PYHOOK_TEST_OUT", folder)
	w := start(t, 1, worker.Config{})[0]
	h := hook(t, w, "hooks:writes", worker.HookConfig{})
	_, err := reduce(testutil.Soon(t), h, bucket(t, w, 1))
	require.NoError(t, err)
	before := time.Now()
	w.Close()
	assert.Greater(t, time.Since(before), 3*time.Second, "the thread takes longer than a group may")
	text, err := os.ReadFile(filepath.Join(folder, "log"))
	require.NoError(t, err)
	assert.Equal(t, "a call\nof a thread\n", string(text))
}
