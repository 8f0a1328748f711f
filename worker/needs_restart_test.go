package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
	"pyhook/worker"
)

func TestNeedsRestart(t *testing.T) {
	failed := func(code c10d.Code) error { return fmt.Errorf("step 3: %w", &worker.Error{Code: code}) }
	hook := func(code c10d.Code, also ...c10d.Code) error {
		return &ddp.StepError{Err: &c10d.Error{Code: code, Also: also}}
	}
	for text, c := range map[string]struct {
		err  error
		want bool
	}{
		"nil":              {nil, false},
		"a crash":          {failed(worker.ErrCrashed), true},
		"a stopped worker": {failed(worker.ErrStopped), true},
		"no start":         {failed(worker.ErrStart), false},
		"no more restarts": {failed(worker.ErrNoRestart), false},
		"a lost peer":      {hook(c10d.ErrRaised, c10d.ErrPeer), true},
		"out of step":      {&ddp.OutOfStepError{Cause: errors.New("a hook failed")}, true},
		"an exception":     {hook(c10d.ErrRaised), false},
		"a context":        {context.Canceled, false},
	} {
		assert.Equal(t, c.want, worker.NeedsRestart(c.err), text)
	}
	for _, code := range []c10d.Code{worker.ErrNoRestart, worker.ErrSnapshot} {
		assert.NotContains(t, failed(code).Error(), "Recover", "what it cannot mend")
	}
}

func TestWorker_Process_Name(t *testing.T) {
	w := start(t, 1, worker.Config{})[0]
	proc := fmt.Sprintf("/proc/%d", w.Pid())
	line, err := os.ReadFile(proc + "/cmdline")
	require.NoError(t, err)
	assert.Equal(t, filepath.Base(os.Args[0])+": pyhook worker, rank 0 of 1\x00", string(line))
	name, err := os.ReadFile(proc + "/comm")
	require.NoError(t, err)
	assert.Equal(t, "pyhook-worker", strings.TrimSpace(string(name)))
}

// TestReducer_Recover_withoutASnapshot: a worker that dies before the Reducer has kept the hook's state
// leaves no way back, and the error says so and nothing else.
func TestReducer_Recover_withoutASnapshot(t *testing.T) {
	ctx := testutil.Soon(t)
	w := start(t, 1, worker.Config{Timeout: 20 * time.Second, StartTimeout: time.Minute})[0]
	hook, err := w.NewHook(ctx, "raises_once:hook", worker.HookConfig{State: worker.State{Spec: "raises_once:State", Args: map[string]any{"raised": "none"}}})
	require.NoError(t, err)
	defer hook.Close()
	require.NoError(t, syscall.Kill(w.Pid(), syscall.SIGKILL))
	params := []*c10d.Parameter{{Name: "p", Shape: []int64{2}, DType: tensor.Float32}}
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: memgroup.New(1)[0], Hook: hook, Rollback: true})
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, r.Ready(0))
	_, err = r.Wait(ctx)
	require.ErrorIs(t, err, worker.ErrCrashed)
	err = r.Recover(ctx)
	require.ErrorContains(t, err, "could not be kept: worker of rank 0")
	assert.Equal(t, 1, strings.Count(err.Error(), "hint: "), err)
	assert.ErrorContains(t, err, "hint: end all ranks and start them again")
}
