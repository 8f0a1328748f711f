package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
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
