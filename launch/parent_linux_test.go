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
	roles["parent"] = roleParent
	roles["orphan"] = roleOrphan
	roles["told-parent"] = roleToldParent
}

// roleParent starts a child as a launcher that takes no care of it, beyond the
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

func roleToldParent() int {
	switch err := DieWithParent(); {
	case err == nil:
		return 0
	case errors.Is(err, ErrParentGone):
		return 42
	case strings.Contains(err.Error(), parentVariable):
		return 43
	}
	return 1
}

func TestProcessesDieWithAParentThatIsKilled(t *testing.T) {
	for _, test := range []struct {
		name, role string
		children   int
	}{
		{"Spawn's ranks, which ask for nothing and ignore SIGTERM", "launcher", 2},
		{"a child that called DieWithParent from a thread that ended", "parent", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			fifo, ready, dead := deathWatch(t)
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

func TestDieWithParentSeesALauncherThatIsAlreadyGone(t *testing.T) {
	gone := exec.Command("true")
	require.NoError(t, gone.Run())
	for _, test := range []struct {
		name, told string
		code       int
	}{
		{"nothing told", "", 0},
		{"the parent is the launcher", fmt.Sprint(os.Getpid()), 0},
		{"the launcher is further up and lives", fmt.Sprint(os.Getppid()), 0},
		{"the launcher is gone", fmt.Sprint(gone.Process.Pid), 42},
		{"no process id", "launcher", 43},
	} {
		t.Run(test.name, func(t *testing.T) {
			command, env := self("told-parent", "")
			child := exec.Command(command[0])
			child.Env = append(env, parentVariable+"="+test.told)
			_ = child.Run()
			assert.Equal(t, test.code, child.ProcessState.ExitCode())
		})
	}
}

// holdMainThread keeps the one thread that Go never ends from all others, until
// the test is over.
func holdMainThread(t *testing.T) {
	t.Helper()
	held, release := make(chan bool), make(chan struct{})
	t.Cleanup(func() { close(release) })
	for range 1000 {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			held <- syscall.Gettid() == syscall.Getpid()
			<-release
		}()
		if <-held {
			return
		}
	}
	require.Fail(t, "the main thread is busy")
}

func TestRanksOutliveTheLaunchersOtherThreads(t *testing.T) {
	holdMainThread(t)
	fifo, ready, dead := deathWatch(t)
	cfg, _ := job(t, 2, "orderly", fifo)
	ctx, cancel := context.WithCancel(t.Context())
	g, err := Start(ctx, cfg)
	require.NoError(t, err)
	ready(2)
	var threads sync.WaitGroup
	for range 32 {
		threads.Go(func() {
			runtime.LockOSThread()
			time.Sleep(20 * time.Millisecond)
		})
	}
	threads.Wait()
	select {
	case <-g.ended:
		assert.Fail(t, "the ranks died with a thread", g.Wait())
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	assert.ErrorIs(t, g.Wait(), context.Canceled)
	dead()
}
