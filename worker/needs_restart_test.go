package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/worker"
)

// TestNeedsRestart runs the loop of the package's example on two ranks, and kills the worker of
// rank 1 on the way: rank 0 sees no *Error, and restarts all the same.
func TestNeedsRestart(t *testing.T) {
	t.Run("the loop of the example, with a kill", func(t *testing.T) {
		workers := start(t, 2, worker.Config{Timeout: 20 * time.Second, StartTimeout: 30 * time.Second})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		const steps = 600
		want := make([][]float32, 2)
		errs := onRanks(2, func(rank int) (err error) {
			want[rank], err = train(ctx, workers[rank], steps)
			return err
		})
		require.NoError(t, errors.Join(errs...))

		got := make([][]float32, 2)
		over := atomic.Bool{}
		victim := workers[1].Pid()
		go func() {
			time.Sleep(20 * time.Millisecond)
			if !over.Load() {
				_ = syscall.Kill(victim, syscall.SIGKILL)
			}
		}()
		errs = onRanks(2, func(rank int) (err error) {
			got[rank], err = train(ctx, workers[rank], steps)
			over.Store(true)
			return err
		})
		require.NoError(t, errors.Join(errs...))
		require.NotEqual(t, victim, workers[1].Pid(), "the worker was killed after the run")
		for rank, w := range workers {
			assert.Equal(t, 1, w.Generation(), "rank %d", rank)
		}
		assert.Equal(t, want, got)
	})
}

func TestNeedsRestart_Codes(t *testing.T) {
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
