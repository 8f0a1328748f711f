package launch

import (
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

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
// that started it ends, on Linux. A launcher that is itself killed cannot stop its
// ranks: torchrun's then live on and keep the GPU's memory. On other systems
// DieWithParent only checks that the parent still runs.
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
