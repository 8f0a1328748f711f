package worker_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/worker"
)

func TestAHookRunsInTheWorkerOnTheTrainersMemory(t *testing.T) {
	w := start(t, 1, worker.Config{})[0]
	h := hook(t, w, "noop", worker.HookConfig{})
	b := bucket(t, w, 1, 2, 3)
	got, err := reduce(soon(t), h, b)
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 2, 3}, got)
}
