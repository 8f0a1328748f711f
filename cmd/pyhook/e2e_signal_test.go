package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
)

// hooks are those of check's tests.
const hooks = "../../../internal/cli/check/testdata/hooks.py:"

// running is a command whose lines on standard error are read one by one.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  chan string
	folder string // its TMPDIR
}

func background(t *testing.T, env []string, args ...string) *running {
	t.Helper()
	clitest.NeedTorch(t)
	r := &running{t: t, cmd: exec.Command(clitest.Binary, args...), lines: make(chan string, 1000), folder: t.TempDir()}
	r.cmd.Dir, r.cmd.Env = clitest.Testdata(), append(append(clitest.CleanEnvironment(), "TMPDIR="+r.folder), env...)
	stderr, err := r.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, r.cmd.Start())
	t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	go func() {
		defer close(r.lines)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			r.lines <- scanner.Text()
		}
	}()
	return r
}

// line waits for a line that has a part, and returns it.
func (r *running) line(part string, within time.Duration) string {
	r.t.Helper()
	late := time.After(within)
	var seen []string
	for {
		select {
		case line, ok := <-r.lines:
			require.True(r.t, ok, "the command ended without %q:\n%s", part, strings.Join(seen, "\n"))
			if strings.Contains(line, part) {
				return line
			}
			seen = append(seen, line)
		case <-late:
			require.Fail(r.t, "no line in time", "%q after %s:\n%s", part, within, strings.Join(seen, "\n"))
		}
	}
}

func (r *running) signal(sig syscall.Signal) {
	r.t.Helper()
	require.NoError(r.t, r.cmd.Process.Signal(sig))
}

// end waits for the command's end and returns its code and what it still said.
func (r *running) end() (code int, rest string) {
	r.t.Helper()
	var lines []string
	for line := range r.lines {
		lines = append(lines, line)
	}
	_ = r.cmd.Wait()
	return r.cmd.ProcessState.ExitCode(), strings.Join(lines, "\n")
}

func TestAnInterruptSaysWhatIsWaitedForAndASecondOneEndsIt(t *testing.T) {
	r := background(t, nil, "train", "-n", "2", "--hook", hooks+"prints_and_sleeps")
	r.line("about to sleep", time.Minute)
	r.signal(syscall.SIGINT)
	said := r.line("pyhook: interrupted: ", 3*time.Second)
	assert.Contains(t, said, "waiting for the ranks to end, at most 5s")
	assert.Contains(t, said, "blocks in C code")
	assert.Contains(t, said, "Ctrl-C again ends it at once")
	time.Sleep(time.Second)
	begin := time.Now()
	r.signal(syscall.SIGINT)
	code, _ := r.end()
	assert.Equal(t, cli.ExitInterrupted, code)
	assert.Less(t, time.Since(begin), 5*time.Second)
}

// GNU timeout sends SIGTERM to the process, and again to its group.
func TestTwoSignalsWithinAMomentAreOne(t *testing.T) {
	for sig, want := range map[syscall.Signal]int{syscall.SIGTERM: cli.ExitTerminated, syscall.SIGINT: cli.ExitInterrupted} {
		r := background(t, nil, "check", hooks+"prints_and_sleeps")
		r.line("about to sleep", time.Minute)
		r.signal(sig)
		r.signal(sig)
		time.Sleep(100 * time.Millisecond)
		r.signal(sig)
		code, rest := r.end()
		assert.Equal(t, want, code, rest)
		assert.Contains(t, rest, "error: the check was stopped")
		assert.Equal(t, 1, strings.Count(rest, "waiting for the ranks to end, at most 5s"), rest)
		left, err := filepath.Glob(filepath.Join(r.folder, "pyhook-*"))
		require.NoError(t, err)
		assert.Empty(t, left, "it cleaned up")
	}
}

func TestUnderGNUTimeoutTheCommandEndsInGoodOrder(t *testing.T) {
	clitest.NeedTorch(t)
	timeout, err := exec.LookPath("timeout")
	require.NoError(t, err, "coreutils")
	folder := t.TempDir()
	cmd := exec.Command(timeout, "15", clitest.Binary, "train", "-n", "1", "--hook", hooks+"sleeps_a_while", "--epochs", "100")
	cmd.Dir, cmd.Env = clitest.Testdata(), append(clitest.CleanEnvironment(), "TMPDIR="+folder)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, _ := cmd.CombinedOutput()
	assert.Equal(t, 124, cmd.ProcessState.ExitCode(), "%s", out)
	assert.Contains(t, string(out), "stopped by SIGTERM", "the command said why it ended")
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Empty(t, left, "%s", out)
}
