package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() {
	roles["churn"] = roleChurn
	if os.Getenv(roleVariable) == "churn" {
		runtime.LockOSThread()
	}
	roles["parent"] = roleParent
	roles["orphan"] = roleOrphan
	roles["named-parent"] = roleNamedParent
}

// roleParent starts a child as a launcher that does nothing for it but keep the
// thread.
func roleParent() int {
	runtime.LockOSThread()
	command, env := self("orphan", os.Getenv(pathVariable))
	child := exec.Command(command[0])
	child.Env = append(env, fmt.Sprintf("%s=%d", parentVariable, os.Getpid()))
	must(child.Start())
	return hang()
}

// roleOrphan asks from a thread that ends with its goroutine, the worst caller.
func roleOrphan() int {
	onDyingThread(func() { must(DieWithParent()) })
	time.Sleep(20 * time.Millisecond)
	holdFIFO()
	return hang()
}

// onDyingThread avoids the main thread, which Go never ends.
func onDyingThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if syscall.Gettid() != syscall.Getpid() {
			f()
			return
		}
		onDyingThread(f)
		runtime.UnlockOSThread()
	}()
	<-done
}

func roleNamedParent() int {
	switch err := DieWithParent(); {
	case err == nil:
		return 0
	case errors.Is(err, errParentGone):
		return 42
	case strings.Contains(err.Error(), parentVariable):
		return 43
	}
	return 1
}

func TestDieWithParent(t *testing.T) {
	for _, test := range []struct {
		name, role string
		children   int
	}{
		{"Spawn's ranks, which ask for nothing and ignore SIGTERM", "launcher", 2},
		{"a child that called DieWithParent from a thread that ended", "parent", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			fifo, ready, dead := fifoHolders(t)
			command, env := self(test.role, fifo)
			parent := exec.Command(command[0])
			parent.Env = append(env, "TMPDIR="+t.TempDir())
			require.NoError(t, parent.Start())
			ready(test.children)
			require.NoError(t, parent.Process.Kill())
			_ = parent.Wait()
			dead()
		})
	}
}

func TestDieWithParent_parentGone(t *testing.T) {
	gone := exec.Command("true")
	require.NoError(t, gone.Run())
	for _, test := range []struct {
		name, pid string
		code      int
	}{
		{"no launcher named", "", 0},
		{"the parent is the launcher", fmt.Sprint(os.Getpid()), 0},
		{"the launcher is further up and lives", fmt.Sprint(os.Getppid()), 0},
		{"the launcher is gone", fmt.Sprint(gone.Process.Pid), 42},
		{"no process id", "launcher", 43},
	} {
		t.Run(test.name, func(t *testing.T) {
			command, env := self("named-parent", "")
			child := exec.Command(command[0])
			child.Env = append(env, parentVariable+"="+test.pid)
			_ = child.Run()
			assert.Equal(t, test.code, child.ProcessState.ExitCode())
		})
	}
}

// roleChurn starts ranks and then ends the launcher's other threads. Its main
// goroutine has the main thread, which Go never ends, so that the ranks are
// started from one that could end.
func roleChurn() int {
	command, env := self("orderly", os.Getenv(pathVariable))
	ctx, cancel := context.WithCancel(context.Background())
	j, err := Start(ctx, SpawnConfig{Command: command, Env: env, N: 2})
	must(err)
	var threads sync.WaitGroup
	for range 32 {
		threads.Go(func() {
			runtime.LockOSThread()
			time.Sleep(20 * time.Millisecond)
		})
	}
	threads.Wait()
	select {
	case <-j.ended:
		must(fmt.Errorf("the ranks died with a thread: %w", j.Wait()))
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	if errors.Is(j.Wait(), context.Canceled) {
		return 0
	}
	return 1
}

func TestStart(t *testing.T) {
	t.Run("ranks outlive the launcher's other threads", func(t *testing.T) {
		fifo, _, dead := fifoHolders(t)
		command, env := self("churn", fifo)
		launcher := exec.Command(command[0])
		launcher.Env = append(env, "TMPDIR="+t.TempDir())
		out, err := launcher.CombinedOutput()
		require.NoError(t, err, string(out))
		dead()
	})
}
