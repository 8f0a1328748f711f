package launch

import (
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

var watchParent = sync.OnceValue(func() error {
	asked := make(chan error)
	go func() {
		runtime.LockOSThread()
		asked <- unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
		select {}
	}()
	return <-asked
})

// DieWithParent has the kernel kill this process (SIGKILL) when the thread that
// started it ends, on Linux. A launcher that is itself killed cannot tell its
// ranks to stop: torchrun's then live on with the GPU's memory in hand. On
// other systems it only checks that the parent is still there.
//
// It returns ErrParentGone when the parent had already ended: exit then. Call
// it first in main. It may be called again, at no cost, from any goroutine.
//
// The kernel keeps the request per thread of this process, and forgets it with
// the thread; so a thread is kept for it, which sleeps for ever. And the signal
// follows the parent's thread, not its process: a launcher must start ranks
// from a thread that outlives them, as Spawn does. prctl(2).
func DieWithParent() error {
	if err := watchParent(); err != nil {
		return fmt.Errorf("launch: prctl(PR_SET_PDEATHSIG): %w", err)
	}
	return checkParent()
}
