package simdevice_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/freeport"
	"pyhook/pyhook"
	"pyhook/tests/ranks"
	"pyhook/worker"
)

// shares has the device's memory shared with other processes.
const shares = "PYHOOK_SIM_SHARES=1"

// runWorkers is run with hooks in workers.
func runWorkers(t *testing.T, name string, with settings) *ranks.Job {
	port, err := freeport.Find()
	require.NoError(t, err)
	with.Worker = port
	return run(t, name, with, shares)
}

func (t *trainer) startWorker(ctx context.Context) (err error) {
	t.worker, err = worker.Start(ctx, t.workerConfig())
	if err != nil {
		return err
	}
	t.worker.UseRuntime(t.rt)
	t.group = t.worker.Group()
	return nil
}

func (t *trainer) workerConfig() worker.Config {
	return worker.Config{
		Python: t.Python, Path: append(t.Path, "testdata", "autoload"), Backend: t.Backend,
		InitMethod: fmt.Sprintf("tcp://127.0.0.1:%d", t.Worker), Rank: t.rank, Size: 2,
	}
}

// workerHook makes the scenario's hook in the worker.
func (t *trainer) workerHook(ctx context.Context, s scenario) (c10d.CommHook, func(), error) {
	cfg := worker.HookConfig{}
	if state := s.state(); state != nil {
		cfg.State = state
	}
	if s.forms {
		cfg.Futures = pyhook.FutureFormsNCCL
	}
	hook, err := t.worker.NewHook(ctx, s.hook, cfg)
	if err != nil {
		return nil, nil, err
	}
	return hook, hook.Close, nil
}

// In workers, which share the device's memory, hooks give the same bits, in every way to train.
func TestReducer_workers(t *testing.T) {
	t.Parallel() // it waits more than it computes
	parity(t, runWorkers(t, "reduce", settings{}), 2)
}

// What cannot be right is said of a hook in a worker, too, and steps after it are right again.
func TestReducer_faultsInWorkers(t *testing.T) {
	t.Parallel() // it waits more than it computes
	job := runWorkers(t, "faults", settings{})
	for rank := range 2 {
		failed := ranks.Result[map[string]string](t, job, rank)
		assert.Len(t, failed, len(inWorkers))
		for name, wrong := range failed {
			t.Run(fmt.Sprintf("%s/rank %d", name, rank), func(t *testing.T) { assert.Empty(t, wrong) })
		}
	}
}

// inWorkers are the faults that are a worker's, too.
var inWorkers = map[string]bool{
	"a hook with a state that raises on one rank": true,
	"a hook whose result is on another device":    true,
	"a hook that needs too much memory":           true,
	"a hook whose work fails on the device":       true,
	"no memory for the buckets":                   true,
	"an address of another device than it says":   true,
}
