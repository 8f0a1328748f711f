package launch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// parentVariable holds the process id of the launcher. Start sets it; another
// launcher may. A process id means nothing in another PID namespace: a rank that
// starts inside a container must not inherit the variable.
const parentVariable = "PYHOOK_PARENT_PID"

// errParentGone: the launcher ended before this process asked to end with it.
var errParentGone = errors.New("launch: the launcher that started this process is gone")

// parentAtStart narrows the time in which a launcher can die unseen: package
// variables are set before main runs.
var parentAtStart = os.Getppid()

// checkParent detects a launcher that died before this process asked the kernel
// for the signal.
//
// Children inherit the variable, so a process whose parent is not the launcher may
// be a grandchild of one that lives: a shell script in between is common. The
// launcher is gone only if no process has its id.
func checkParent() error {
	parent := os.Getppid()
	if parent != parentAtStart {
		return errParentGone
	}
	text := os.Getenv(parentVariable)
	if text == "" {
		return nil
	}
	launcher, err := strconv.Atoi(text)
	if err != nil || launcher < 1 {
		return fmt.Errorf("launch: %s=%q is not a process id", parentVariable, text)
	}
	if parent != launcher && !processExists(launcher) {
		return errParentGone
	}
	return nil
}

var requestDeathSignal = sync.OnceValue(func() error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
		select {}
	}()
	return <-result
})

// DieWithParent asks the kernel to kill this process (SIGKILL) when the thread
// that started it ends. A launcher that is itself killed cannot stop its ranks: torchrun's then
// live on and keep the GPU's memory.
//
// It returns an error when the parent had already ended: exit then. Call it first
// in main. It may be called again, at no cost, from any goroutine.
//
// The kernel keeps the request for one thread of this process, until that thread
// ends; so DieWithParent keeps a thread for it, which sleeps for ever. The kernel
// sends the signal when the parent's thread ends, not its process: a launcher must
// start ranks from a thread that outlives them, as Start does. prctl(2).
func DieWithParent() error {
	if err := requestDeathSignal(); err != nil {
		return fmt.Errorf("launch: prctl(PR_SET_PDEATHSIG): %w", err)
	}
	return checkParent()
}
