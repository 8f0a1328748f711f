package ranks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/testutil"
	"pyhook/launch"
)

func TestMain(m *testing.M) {
	Main(m, map[string]Func{"add": add, "pid": addWithPid, "retire": retire, "fail": fail, "panic": panics, "hang": hang, "environment": environment})
}

func add(_ context.Context, r *Rank) error {
	var numbers []int
	if err := r.Args(&numbers); err != nil {
		return err
	}
	return r.Report(r.Rank*100 + numbers[0] + numbers[1])
}

func addWithPid(_ context.Context, r *Rank) error {
	var numbers []int
	if err := r.Args(&numbers); err != nil {
		return err
	}
	return r.Report([]int{r.Rank*100 + numbers[0] + numbers[1], os.Getpid()})
}

func retire(ctx context.Context, r *Rank) error {
	if r.Rank == 1 {
		r.Retire()
	}
	return addWithPid(ctx, r)
}

type tracedError struct{ error }

func (tracedError) Traceback() string { return "File \"hook.py\", line 3" }

func fail(ctx context.Context, r *Rank) error {
	if r.Rank == 1 {
		return tracedError{errors.New("out of cheese")}
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func panics(ctx context.Context, r *Rank) error {
	if r.Rank == 0 {
		panic("a panic on rank 0")
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// hang ignores its context, as a call into C does. Bounded, should the test be
// broken.
func hang(_ context.Context, r *Rank) error {
	if err := os.WriteFile(filepath.Join(r.Dir, strconv.Itoa(r.Rank)), nil, 0o600); err != nil {
		return err
	}
	time.Sleep(time.Minute)
	return nil
}

func environment(_ context.Context, r *Rank) error {
	return r.Report([]string{os.Getenv("OMP_NUM_THREADS"), os.Getenv("RANK"), os.Getenv("CHEESE")})
}

func TestRun(t *testing.T) {
	t.Run("every rank reads the arguments and reports", func(t *testing.T) {
		job := Run(t, 3, "add", []int{4, 5})
		for rank := range 3 {
			assert.Equal(t, rank*100+9, Result[int](t, job, rank))
		}
	})
	t.Run("ranks have one thread and the options' environment", func(t *testing.T) {
		job := RunOptions(t, Options{N: 2, Case: "environment", Env: []string{"CHEESE=brie"}})
		assert.Equal(t, []string{"1", "1", "brie"}, Result[[]string](t, job, 1))
	})
}

func TestShared(t *testing.T) {
	var first []int
	for i, numbers := range [][]int{{1, 2}, {3, 4}} {
		job := Shared(t, Options{N: 2, Case: "pid", Args: numbers})
		for rank := range 2 {
			got := Result[[]int](t, job, rank)
			assert.Equal(t, rank*100+4*i+3, got[0])
			if first = append(first, got[1]); i > 0 {
				assert.Equal(t, first[rank], got[1], "the same process")
			}
		}
	}
	dir := t.TempDir()
	options := Options{N: 2, Case: "fail", Timeout: time.Minute}
	err := options.runShared(dir)
	var rank *launch.RankError
	require.ErrorAs(t, err, &rank)
	assert.Equal(t, 1, rank.Rank)
	assert.ErrorContains(t, err, "out of cheese")
	for _, pid := range first {
		testutil.Eventually(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	}
	pid := func(name string, env ...string) int {
		return Result[[]int](t, Shared(t, Options{N: 2, Case: name, Args: []int{5, 6}, Env: env}), 0)[1]
	}
	other := pid("pid")
	assert.NotContains(t, first, other, "other processes")
	assert.NotEqual(t, other, pid("pid", "CHEESE=brie"), "another environment")
	assert.Equal(t, other, pid("retire"))
	assert.NotEqual(t, other, pid("pid"), "processes that were retired")
}

func TestJob_Wait(t *testing.T) {
	t.Run("the failing rank is named with its message and traceback", func(t *testing.T) {
		err := Start(t, Options{N: 2, Case: "fail"}).Wait()
		var rank *launch.RankError
		require.ErrorAs(t, err, &rank)
		assert.Equal(t, 1, rank.Rank)
		assert.ErrorContains(t, err, "out of cheese")
		assert.ErrorContains(t, err, `File "hook.py", line 3`)
	})
	t.Run("a panic of a rank arrives with its stack", func(t *testing.T) {
		err := Start(t, Options{N: 2, Case: "panic"}).Wait()
		assert.ErrorContains(t, err, "a panic on rank 0")
		assert.ErrorContains(t, err, "ranks.panics")
	})
	t.Run("a hanging rank ends and prints its goroutines", func(t *testing.T) {
		start := time.Now()
		job := Start(t, Options{N: 2, Case: "hang", Timeout: time.Second})
		assert.ErrorContains(t, job.Wait(), "not done after 1s")
		assert.Contains(t, job.Output(), "ranks.hang")
		assert.Less(t, time.Since(start), 20*time.Second)
	})
}

func TestStart(t *testing.T) {
	t.Run("no rank outlives the test", func(t *testing.T) {
		var pids []int
		t.Run("a test that does not wait", func(t *testing.T) {
			job := Start(t, Options{N: 2, Case: "hang"})
			pids = job.Pids()
			testutil.Eventually(t, func() bool {
				files, err := filepath.Glob(filepath.Join(job.Dir, "[01]"))
				return err == nil && len(files) == 2
			})
		})
		require.Len(t, pids, 2)
		for _, pid := range pids {
			assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
		}
	})
	t.Run("an unknown case is refused", func(t *testing.T) {
		_, err := start(t, Options{N: 1, Case: "none"})
		assert.ErrorContains(t, err, "no such case")
	})
}
