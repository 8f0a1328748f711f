package worker_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/worker"
)

func TestMain(m *testing.M) {
	worker.Main()
	// The goroutine that frees shared memory, before tests count goroutines.
	t, err := tensor.FromSlice([]float32{0})
	if err == nil {
		t.Close()
	}
	ranks.Main(m, map[string]ranks.Func{"in-process": inProcess, "orphan": orphan})
}

// start starts the workers of size ranks, all of this process, and closes them with
// the test.
func start(t testing.TB, size int, cfg worker.Config) []*worker.Worker {
	t.Helper()
	workers := startRanks(t, size, cfg)
	t.Cleanup(func() { closeAll(workers) })
	return workers
}

func startRanks(t testing.TB, size int, cfg worker.Config) []*worker.Worker {
	t.Helper()
	cfg.InitMethod = "tcp://127.0.0.1:" + testutil.FreePort(t)
	cfg.Size = size
	cfg.Path = []string{"testdata"}
	cfg.Env = append(cfg.Env, "GLOO_SOCKET_IFNAME=lo", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1")
	if cfg.Timeout == 0 {
		cfg.Timeout = 60 * time.Second
	}
	workers := make([]*worker.Worker, size)
	errs := onRanks(size, func(rank int) (err error) {
		mine := cfg
		mine.Rank = rank
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // torch may come from a cold disk
		defer cancel()
		workers[rank], err = worker.Start(ctx, mine)
		return err
	})
	if err := errors.Join(errs...); err != nil {
		closeAll(workers)
		require.NoError(t, err)
	}
	return workers
}

// shared is one worker of one rank for all tests that leave it as it was: starting torch takes longer
// than they do.
func shared(t *testing.T) *worker.Worker {
	t.Helper()
	if sharedWorker == nil {
		sharedWorker = startRanks(t, 1, worker.Config{})[0]
	}
	require.NoError(t, sharedWorker.Err(), "an earlier test did not leave it as it was")
	return sharedWorker
}

var sharedWorker *worker.Worker // its process ends with this one

func closeAll(workers []*worker.Worker) {
	_ = onRanks(len(workers), func(rank int) error {
		if workers[rank] != nil {
			workers[rank].Close()
		}
		return nil
	})
}

// onRanks runs f for all ranks at once.
func onRanks(size int, f func(rank int) error) []error {
	errs := make([]error, size)
	var group sync.WaitGroup
	for rank := range size {
		group.Go(func() { errs[rank] = f(rank) })
	}
	group.Wait()
	return errs
}

// bucket makes a float32 bucket of shared memory, or of other memory.
func bucket(t testing.TB, w *worker.Worker, values ...float32) *c10d.GradBucket {
	t.Helper()
	var buffer *tensor.Tensor
	var err error
	if w != nil {
		buffer, err = w.NewBuffer(tensor.Float32, int64(len(values)))
	} else {
		buffer, err = tensor.New(tensor.Float32, int64(len(values)))
	}
	require.NoError(t, err)
	t.Cleanup(buffer.Close)
	copy(floats(t, buffer), values)
	n := int64(len(values))
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{n}, Sizes: [][]int64{{n}}})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

func floats(t testing.TB, of *tensor.Tensor) []float32 {
	t.Helper()
	s, err := tensor.Slice[float32](of)
	require.NoError(t, err)
	return s
}

// hook loads one, and closes it with the test.
func hook(t testing.TB, w *worker.Worker, spec string, cfg worker.HookConfig) *worker.Hook {
	t.Helper()
	h, err := w.NewHook(t.Context(), spec, cfg)
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

// reduce calls the hook and returns what came of it.
func reduce(ctx context.Context, h c10d.CommHook, b *c10d.GradBucket) ([]float32, error) {
	future, err := h.RunHook(ctx, b)
	if err != nil {
		return nil, err
	}
	defer future.Close()
	value, err := future.Wait(ctx)
	if err != nil {
		return nil, err
	}
	result, err := h.ParseHookResult(b, value)
	if err != nil {
		return nil, err
	}
	defer result.Close()
	plain, err := tensor.New(tensor.Float32, result.Shape()...)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	if err := tensor.Copy(plain, result); err != nil {
		return nil, err
	}
	s, err := tensor.Slice[float32](plain)
	return append([]float32{}, s...), err
}
