package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/worker"
	"pyhook/worker/internal/ipc"
)

// The faults of testdata/faults.py, by number.
const (
	none = iota
	segv
	abort
	leave
	sysExit
	kill
	stop
	holdGIL
	spin
	sleep
	lock
	eat
	terminate
	say
)

const (
	callTimeout = 6 * time.Second
	frozenAfter = 2 * time.Second
	// soonAfter is what a busy machine may add to a deadline.
	soonAfter = 5 * time.Second
)

// fault is what a hook does, and what the trainer gets of it.
type fault struct {
	name   string
	spec   string
	fault  int
	ctx    time.Duration // of the faulty rank's call; 0: none
	kind   error
	within time.Duration
	code   int
	signal syscall.Signal
	stack  string
}

var faults = []fault{
	{"a segmentation fault", "faults:in_call", segv, 0, worker.ErrCrashed, 0, -1, syscall.SIGSEGV, "in segv"},
	{"a segmentation fault in a callback", "faults:in_callback", segv, 0, worker.ErrCrashed, 0, -1, syscall.SIGSEGV, "in segv"},
	{"abort", "faults:in_call", abort, 0, worker.ErrCrashed, 0, -1, syscall.SIGABRT, "in abort"},
	{"an uncaught exception of C++", "faults:in_callback", terminate, 0, worker.ErrCrashed, 0, -1, syscall.SIGABRT, "in terminate"},
	{"os._exit", "faults:in_call", leave, 0, worker.ErrExited, 0, 7, 0, "in leave"},
	{"os._exit in a callback", "faults:in_callback", leave, 0, worker.ErrExited, 0, 7, 0, "in leave"},
	{"the kernel's SIGKILL", "faults:in_call", kill, 0, worker.ErrCrashed, 0, -1, syscall.SIGKILL, ""},
	{"a stopped process", "faults:in_call", stop, 0, worker.ErrFrozen, frozenAfter, -1, syscall.SIGKILL, ""},
	{"C code that keeps the GIL", "faults:in_call", holdGIL, time.Second, worker.ErrCancelled, time.Second, -1, syscall.SIGKILL, "in hold_gil"},
	{"an endless loop", "faults:in_callback", spin, time.Second, worker.ErrCancelled, time.Second, -1, syscall.SIGKILL, "in spin"},
	{"an endless call", "faults:in_call", sleep, 0, worker.ErrHung, callTimeout, -1, syscall.SIGKILL, "in sleep"},
	{"a lock in a callback", "faults:in_callback", lock, time.Second, worker.ErrCancelled, time.Second, -1, syscall.SIGKILL, "in lock"},
	{"memory without end", "faults:in_call", eat, 0, worker.ErrMemory, callTimeout, -1, syscall.SIGKILL, "in eat"},
}

func TestWorker_Restart(t *testing.T) {
	t.Run("whatever a hook does the trainer goes on", func(t *testing.T) {
		for _, c := range []struct {
			size  int
			every int // of the faults
		}{{2, 1}, {4, 4}} {
			t.Run(fmt.Sprint(c.size, " ranks"), func(t *testing.T) { outlive(t, c.size, c.every) })
		}
	})
}

func outlive(t *testing.T, size, every int) {
	t.Helper()
	out := &testutil.Output{}
	workers := start(t, size, worker.Config{Timeout: callTimeout, FrozenAfter: frozenAfter, MemoryLimit: 1 << 30, Output: out})
	hooks := map[string][]*worker.Hook{}
	buckets := make([]*c10d.GradBucket, size)
	for rank, w := range workers {
		for _, spec := range []string{"faults:in_call", "faults:in_callback"} {
			hooks[spec] = append(hooks[spec], hook(t, w, spec, worker.HookConfig{}))
		}
		buckets[rank] = bucket(t, w, 0, 1)
	}
	before := resources(t)
	for i, c := range faults {
		if i%every == 0 {
			t.Run(c.name, func(t *testing.T) { c.survive(t, workers, hooks[c.spec], buckets) })
		}
	}
	for _, w := range workers {
		assert.NoError(t, w.Err())
	}
	nothingIsLeft(t, before)
	if t.Failed() {
		t.Log(out)
	}
}

// survive has rank 1's hook do it, and all ranks go on.
func (c *fault) survive(t *testing.T, workers []*worker.Worker, hooks []*worker.Hook, buckets []*c10d.GradBucket) {
	for rank, b := range buckets {
		copy(floats(t, b.Buffer()), []float32{map[bool]float32{false: none, true: float32(c.fault)}[rank == 1], 3})
	}
	began := time.Now()
	errs := onRanks(len(workers), func(rank int) error {
		ctx := context.Background()
		if rank == 1 && c.ctx > 0 {
			limited, cancel := context.WithTimeout(ctx, c.ctx)
			defer cancel()
			ctx = limited
		}
		_, err := reduce(ctx, hooks[rank], buckets[rank])
		return err
	})
	within := c.within
	if len(workers) > 2 { // a rank that is not connected to rank 1 may wait for its own limit
		within = max(within, callTimeout)
	}
	assert.Less(t, time.Since(began), within+soonAfter)
	var failed *worker.Error
	require.ErrorAs(t, errs[1], &failed)
	assert.ErrorIs(t, errs[1], c.kind)
	assert.Equal(t, []any{1, hooks[1].Name(), 0, c.code, c.signal}, []any{failed.Rank, failed.Hook, failed.Bucket, failed.ExitCode, failed.Signal}, "%v", errs[1])
	assert.Contains(t, failed.Stack, c.stack)
	if c.ctx > 0 {
		assert.ErrorIs(t, errs[1], context.DeadlineExceeded)
	}
	for rank, err := range errs {
		if rank != 1 {
			requirePeerError(t, err)
		}
	}
	assert.Equal(t, float32(c.fault), floats(t, buckets[1].Buffer())[0], "the gradients are there")
	_, err := reduce(testutil.Soon(t), hooks[1], buckets[1])
	assert.ErrorIs(t, err, c.kind, "until it is restarted")

	restart(t, workers)
	sumIsRight(t, hooks, buckets)
}

// requirePeerError: the rank whose peer is gone gets an error of its hook, or of its
// worker if it waited too long.
func requirePeerError(t *testing.T, err error) {
	t.Helper()
	var hook *c10d.Error
	var process *worker.Error
	require.True(t, errors.As(err, &hook) || errors.As(err, &process), "%v", err)
}

func restart(t *testing.T, workers []*worker.Worker) {
	t.Helper()
	for _, err := range onRanks(len(workers), func(rank int) error {
		_, err := workers[rank].Restart(testutil.Soon(t))
		return err
	}) {
		require.NoError(t, err)
	}
}

// sumIsRight asserts that a step of all ranks averages.
func sumIsRight(t *testing.T, hooks []*worker.Hook, buckets []*c10d.GradBucket) {
	t.Helper()
	for rank, b := range buckets {
		copy(floats(t, b.Buffer()), []float32{none, float32(3 + 2*rank)})
	}
	for _, err := range onRanks(len(hooks), func(rank int) error {
		got, err := reduce(testutil.Soon(t), hooks[rank], buckets[rank])
		assert.Equal(t, []float32{0, float32(2 + len(hooks))}, got)
		return err
	}) {
		require.NoError(t, err)
	}
}

// use is what must come back to what it was.
type use struct {
	descriptors, children, goroutines int
	regions, tensors, memory          int64
}

// more: than before, when something of an earlier test may still have been there.
func (u use) more(before use) bool {
	return u.descriptors > before.descriptors || u.children > before.children || u.goroutines > before.goroutines ||
		u.regions > before.regions || u.tensors > before.tensors || u.memory > before.memory
}

func resources(t testing.TB) use {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return use{len(files), children(t), runtime.NumGoroutine(), ipc.LiveRegions(), tensor.LiveTensors(), tensor.LiveMemory()}
}

// nothingIsLeft waits until all is as it was before; what is closed goes on
// goroutines.
func nothingIsLeft(t testing.TB, before use) {
	t.Helper()
	var now use
	testutil.Eventually(t, func() bool { now = resources(t); return !now.more(before) }, "%+v before, %+v now", before, &now)
}

// children counts this process's, zombies too.
func children(t testing.TB) int {
	t.Helper()
	n := 0
	lists, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err == nil { // a thread that ended meanwhile has none
			n += len(strings.Fields(string(data)))
		}
	}
	return n
}

func TestHook_RunHook_SysExit(t *testing.T) {
	t.Run("sys.exit is an error of the hook", func(t *testing.T) {
		w := start(t, 1, worker.Config{})[0]
		for spec, kind := range map[string]error{"faults:in_call": c10d.ErrRaised, "faults:in_callback": c10d.ErrFutureFailed} {
			h := hook(t, w, spec, worker.HookConfig{})
			b := bucket(t, w, sysExit, 1)
			_, err := reduce(testutil.Soon(t), h, b)
			assert.ErrorIs(t, err, kind)
			assert.ErrorContains(t, err, "SystemExit")
			floats(t, b.Buffer())[0] = 0
			_, err = reduce(testutil.Soon(t), h, b)
			assert.NoError(t, err)
		}
	})
}

func TestConfig_Output(t *testing.T) {
	t.Run("what a worker prints is passed on and kept", func(t *testing.T) {
		out := &testutil.Output{}
		w := start(t, 1, worker.Config{Output: out})[0]
		_, err := reduce(testutil.Soon(t), hook(t, w, "faults:in_call", worker.HookConfig{}), bucket(t, w, say, 1))
		var failed *worker.Error
		require.ErrorAs(t, err, &failed)
		assert.Contains(t, failed.Stderr, "a line of rank 0")
		assert.Contains(t, failed.Stderr, "the last words")
		assert.Contains(t, out.String(), "[worker 0] a line of rank 0\n")
	})
}

func TestConfig_KeepOnCancel(t *testing.T) {
	t.Run("a call goes on after its context", func(t *testing.T) {
		w := start(t, 1, worker.Config{KeepOnCancel: true, Timeout: 3 * time.Second})[0]
		h := hook(t, w, "faults:in_callback", worker.HookConfig{})
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		b := bucket(t, w, sleep, 1)
		future, err := h.RunHook(ctx, b)
		if err == nil { // the callback may run within the call
			defer future.Close()
			_, err = future.Wait(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, 1, strings.Count(err.Error(), "context "), err)
			require.NoError(t, w.Err())
			_, err = future.Wait(testutil.Soon(t))
		}
		assert.ErrorIs(t, err, worker.ErrHung)
	})
}

func TestStart(t *testing.T) {
	t.Run("it says why it failed", func(t *testing.T) {
		for _, c := range []struct {
			name string
			cfg  worker.Config
			text string
		}{
			{"no such Python", worker.Config{Size: 1, Python: "/nowhere/python"}, "/nowhere/python"},
			{"no such backend", worker.Config{Size: 1, Backend: "carrier_pigeon"}, "carrier_pigeon"},
			{"a rank that does not come", worker.Config{Rank: 1, Size: 2, InitMethod: "tcp://127.0.0.1:" + testutil.FreePort(t), StartTimeout: 4 * time.Second}, "the start is not done after 4"},
			{"no rank", worker.Config{}, "WORLD_SIZE"},
		} {
			t.Run(c.name, func(t *testing.T) {
				before := resources(t)
				_, err := worker.Start(testutil.Soon(t), c.cfg)
				var failed *worker.Error
				require.ErrorAs(t, err, &failed)
				assert.ErrorIs(t, err, worker.ErrStart)
				assert.ErrorContains(t, err, c.text)
				nothingIsLeft(t, before)
			})
		}
		t.Run("a context that ends", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			_, err := worker.Start(ctx, worker.Config{Size: 1})
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		})
	})
}

// killWorker is what the kernel does when memory runs out.
func killWorker(w *worker.Worker) error {
	if err := syscall.Kill(w.Pid(), syscall.SIGKILL); err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); w.Err() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("the worker lives")
		}
	}
	return nil
}

// orphan starts a worker, which hangs, and is killed then.
func orphan(ctx context.Context, r *ranks.Rank) error {
	w, err := worker.Start(ctx, worker.Config{Size: 1, Path: []string{"testdata"}, InitMethod: "file:///nowhere"})
	if err != nil {
		return err
	}
	h, err := w.NewHook(ctx, "faults:in_call", worker.HookConfig{})
	if err != nil {
		return err
	}
	buffer, err := w.NewBuffer(tensor.Float32, 1)
	if err != nil {
		return err
	}
	values, err := tensor.Slice[float32](buffer)
	if err != nil {
		return err
	}
	values[0] = holdGIL
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{1}, Sizes: [][]int64{{1}}})
	if err != nil {
		return err
	}
	if err := r.Report(w.Pid()); err != nil {
		return err
	}
	_, err = h.RunHook(ctx, b)
	return err
}

func TestWorker_Process(t *testing.T) {
	t.Run("it dies with its trainer", func(t *testing.T) {
		job := ranks.Start(t, ranks.Options{N: 1, Case: "orphan"})
		report := filepath.Join(job.Dir, "report.rank0.json")
		testutil.Eventually(t, func() bool { info, err := os.Stat(report); return err == nil && info.Size() > 0 })
		pid := ranks.Result[int](t, job, 0)
		require.True(t, lives(pid))
		require.NoError(t, syscall.Kill(job.Pids()[0], syscall.SIGKILL))
		assert.Error(t, job.Wait())
		testutil.Eventually(t, func() bool { return !lives(pid) })
	})
}

// lives: a zombie does not.
func lives(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(data), ") Z ")
}
