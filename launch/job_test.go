//go:build unix

package launch

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// job is a SpawnConfig for a role, whose temporary files and output the test
// can look at.
func job(t *testing.T, n int, role, path string) (SpawnConfig, *bytes.Buffer) {
	t.Helper()
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Cleanup(func() {
		left, err := os.ReadDir(tmp)
		assert.NoError(t, err)
		assert.Empty(t, left, "temporary files are left")
	})
	out := new(bytes.Buffer)
	command, env := self(role, path)
	return SpawnConfig{Command: command, Env: env, N: n, Stdout: out, Stderr: out}, out
}

// fifoHolders makes a FIFO for holdFIFO. ready returns when n processes hold it,
// dead when none does any more.
func fifoHolders(t *testing.T) (path string, ready func(n int), dead func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	lines, ended := make(chan string, 16), make(chan struct{})
	go func() {
		defer close(ended)
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			lines <- s.Text()
		}
	}()
	ready = func(n int) {
		t.Helper()
		for range n {
			select {
			case <-lines:
			case <-time.After(20 * time.Second):
				require.Fail(t, "a process did not start")
			}
		}
	}
	dead = func() {
		t.Helper()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			require.Fail(t, "a process still runs")
		}
	}
	return path, ready, dead
}

func TestSpawn(t *testing.T) {
	t.Run("every rank has torchrun's variables", func(t *testing.T) {
		t.Setenv("OMP_NUM_THREADS", "")
		t.Setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
		t.Setenv("PET_NPROC_PER_NODE", "8")
		cfg, out := job(t, 2, "print", "")
		require.NoError(t, Spawn(t.Context(), cfg))
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		slices.Sort(lines)
		threads, ports := regexp.MustCompile(`OMP_NUM_THREADS=[1-9]\d*$`), regexp.MustCompile(`127\.0\.0\.1:[1-9]\d*$`)
		for i, line := range lines {
			lines[i] = ports.ReplaceAllString(threads.ReplaceAllString(line, "OMP_NUM_THREADS=n"), "127.0.0.1:port")
		}
		assert.Equal(t, []string{
			"[rank 0] OMP_NUM_THREADS=n",
			"[rank 0] TORCHELASTIC_USE_AGENT_STORE=False",
			"[rank 0] no newline at the end",
			"[rank 0] rank 0 of 2 (local 0 of 2) from torchrun's RANK/WORLD_SIZE, master 127.0.0.1:port",
			"[rank 1] OMP_NUM_THREADS=n",
			"[rank 1] TORCHELASTIC_USE_AGENT_STORE=False",
			"[rank 1] no newline at the end",
			"[rank 1] rank 1 of 2 (local 1 of 2) from torchrun's RANK/WORLD_SIZE, master 127.0.0.1:port",
		}, lines)
	})
	t.Run("a chosen number of threads stays", func(t *testing.T) {
		cfg, out := job(t, 2, "print", "")
		cfg.Env = append(cfg.Env, "OMP_NUM_THREADS=17")
		cfg.Show = ShowPlain
		require.NoError(t, Spawn(t.Context(), cfg))
		assert.Contains(t, out.String(), "OMP_NUM_THREADS=17\n")
		assert.Contains(t, out.String(), "rank 0 of 2")
		assert.Contains(t, out.String(), "rank 1 of 2")
	})
	t.Run("a process that a rank leaves behind is killed", func(t *testing.T) {
		fifo, _, dead := fifoHolders(t)
		cfg, _ := job(t, 1, "leave-child", fifo)
		require.NoError(t, Spawn(t.Context(), cfg))
		dead()
	})
}

func TestJob_Wait(t *testing.T) {
	t.Run("one rank that exits stops the others", func(t *testing.T) {
		cfg, _ := job(t, 3, "exit-3", "")
		start := time.Now()
		err := Spawn(t.Context(), cfg)
		var rank *RankError
		require.ErrorAs(t, err, &rank)
		assert.Equal(t, &RankError{Rank: 1, ExitCode: 3, Tail: "out of cheese\n"}, rank)
		assert.EqualError(t, err, `launch: rank 1 exited with code 3; its last output was "out of cheese"`)
		assert.Equal(t, 3, exitCode(err))
		assert.Less(t, time.Since(start), 10*time.Second)
	})
	t.Run("one rank that is killed stops the others", func(t *testing.T) {
		cfg, _ := job(t, 2, "killed", "")
		err := Spawn(t.Context(), cfg)
		var rank *RankError
		require.ErrorAs(t, err, &rank)
		assert.Equal(t, &RankError{Rank: 1, ExitCode: -1, Signal: syscall.SIGKILL}, rank)
		assert.EqualError(t, err, "launch: rank 1 was killed by SIGKILL (the kernel sends it when memory runs out)")
		assert.Equal(t, 1, exitCode(err))
	})
	t.Run("the oldest error file is the root cause", func(t *testing.T) {
		cfg, _ := job(t, 2, "blame", t.TempDir())
		err := Spawn(t.Context(), cfg)
		var rank *RankError
		require.ErrorAs(t, err, &rank)
		assert.Equal(t, 1, rank.Rank)
		assert.Equal(t, "launch.pythonError: step 7: ValueError: boom", rank.Message)
		assert.Equal(t, rank.Message+"\n\nFile \"hook.py\", line 3", rank.Traceback)
		assert.EqualError(t, err, "launch: rank 1 exited with code 1: launch.pythonError: step 7: ValueError: boom")
	})
	t.Run("the short form of an error file is read", func(t *testing.T) {
		cfg, _ := job(t, 1, "plain-blame", "")
		assert.EqualError(t, Spawn(t.Context(), cfg), "launch: rank 0 exited with code 4: just text")
	})
	t.Run("a cancelled context stops every rank with SIGTERM", func(t *testing.T) {
		fifo, ready, dead := fifoHolders(t)
		cfg, _ := job(t, 2, "orderly", fifo)
		ctx, cancel := context.WithCancelCause(t.Context())
		j, err := Start(ctx, cfg)
		require.NoError(t, err)
		assert.Len(t, j.Pids(), 2)
		ready(2)
		cancel(ErrTerminated)
		err = j.Wait()
		dead()
		require.ErrorIs(t, err, ErrTerminated)
		assert.Equal(t, 143, exitCode(err))
		assert.Equal(t, err, j.Wait(), "Wait may be called again")
	})
	t.Run("a rank that ignores SIGTERM is killed after the grace period", func(t *testing.T) {
		fifo, ready, dead := fifoHolders(t)
		cfg, _ := job(t, 2, "stubborn", fifo)
		cfg.GracePeriod = 100 * time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		j, err := Start(ctx, cfg)
		require.NoError(t, err)
		ready(2)
		start := time.Now()
		cancel()
		require.ErrorIs(t, j.Wait(), context.Canceled)
		dead()
		assert.GreaterOrEqual(t, time.Since(start), cfg.GracePeriod)
		assert.Less(t, time.Since(start), 10*time.Second)
	})
}

func TestSpawn_refused(t *testing.T) {
	command, _ := self("print", "")
	for _, test := range []struct {
		name string
		cfg  SpawnConfig
		want string
	}{
		{"no command", SpawnConfig{N: 1}, "no command"},
		{"no ranks", SpawnConfig{Command: command}, "cannot spawn 0 ranks"},
		{"a digit too many", SpawnConfig{Command: []string{"true"}, N: 1025}, "cannot spawn 1025 ranks: at most 1024 on one machine"},
		{"a negative grace period", SpawnConfig{Command: command, N: 1, GracePeriod: -1}, "negative"},
		{"a program that is not there", SpawnConfig{Command: []string{"no-such-program-here"}, N: 2}, "start rank 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			assert.ErrorContains(t, Spawn(t.Context(), test.cfg), test.want)
		})
	}
	t.Run("a context that has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		assert.ErrorIs(t, Spawn(ctx, SpawnConfig{Command: command, N: 1}), context.Canceled)
	})
	t.Run("a context that ends while the ranks are started", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		lines := &cancelAtFirst{cancel: cancel}
		_, err := Start(ctx, SpawnConfig{Command: []string{"sh", "-c", "echo started; exec sleep 60"}, N: 200, Stdout: lines})
		require.ErrorIs(t, err, context.Canceled)
		assert.Less(t, lines.count, 200)
	})
}

// cancelAtFirst counts lines, and ends a context at the first.
type cancelAtFirst struct {
	cancel func()
	count  int
}

func (c *cancelAtFirst) Write(p []byte) (int, error) { // one at a time: see SpawnConfig
	c.count += bytes.Count(p, []byte{'\n'})
	c.cancel()
	return len(p), nil
}

func TestWithSIGTERM(t *testing.T) {
	t.Run("a trainer that stops at SIGTERM exits with 143", func(t *testing.T) {
		fifo, ready, _ := fifoHolders(t)
		command, env := self("orderly", fifo)
		cmd := exec.Command(command[0])
		cmd.Env = env
		require.NoError(t, cmd.Start())
		ready(1)
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		assert.Equal(t, 143, exit.ExitCode())
	})
}

func TestFail_exitCode(t *testing.T) {
	t.Setenv(errorFileVariable, "")
	for _, test := range []struct {
		name string
		err  error
		want int
	}{
		{"no error", nil, 0},
		{"an error", errors.New("x"), 1},
		{"SIGTERM", errors.Join(errors.New("x"), ErrTerminated), 143},
		{"the largest code of a rank", &RankError{ExitCode: 125}, 125},
		{"a rank's code above 125", &RankError{ExitCode: 143}, 1},
		{"a rank that a signal ended", &RankError{ExitCode: -1, Signal: syscall.SIGKILL}, 1},
	} {
		t.Run(test.name, func(t *testing.T) { assert.Equal(t, test.want, Fail(test.err)) })
	}
}
