package worker_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
	"pyhook/worker"
)

func TestHook_Independent(t *testing.T) {
	t.Run("it is what the worker's hook says", func(t *testing.T) {
		w := shared(t)
		for spec, want := range map[string]bool{"fp16": true, "fp16_wrapper(allreduce)": true, "powersgd": false, "hooks:other": false} {
			got, err := hook(t, w, spec, worker.HookConfig{}).Independent()
			require.NoError(t, err, spec)
			assert.Equal(t, want, got, spec)
		}
		h := hook(t, w, "hooks:sideways", worker.HookConfig{})
		_, err := h.Independent()
		require.ErrorIs(t, err, c10d.ErrOrder)
		require.ErrorIs(t, err, c10d.ErrLoad)
		var of *c10d.Error
		require.ErrorAs(t, err, &of)
		assert.Equal(t, "hook "+h.Name(), of.Op)
	})
}

func TestHook_RunHook_UnseenCollective(t *testing.T) {
	t.Run("it fails where a collective fails unseen", func(t *testing.T) {
		w := shared(t)
		h := hook(t, w, "hooks:drops_work", worker.HookConfig{})
		b := bucket(t, w, 1, 2, 3)
		says := func(err error) {
			t.Helper()
			require.ErrorIs(t, err, c10d.ErrCollective)
			require.ErrorContains(t, err, "all_reduce, which the hook issued and did not look at, failed")
			require.ErrorContains(t, err, h.Name())
		}
		future, chain, err := h.RunHookChained(testutil.Soon(t), b)
		require.NoError(t, err)
		for more := true; more && err == nil; {
			more, err = chain.Advance(testutil.Soon(t))
		}
		says(err)
		chain.Close()
		future.Close()

		_, err = reduce(testutil.Soon(t), h, b)
		says(err)
		got, err := reduce(testutil.Soon(t), hook(t, w, "allreduce", worker.HookConfig{}), b)
		require.NoError(t, err)
		assert.Equal(t, []float32{1, 2, 3}, got)
	})
}
