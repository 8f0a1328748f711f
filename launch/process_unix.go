//go:build unix

package launch

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// signalGroup signals a rank and the processes that it started. It returns nil for a
// group that is already empty.
func signalGroup(pid int, sig syscall.Signal) error {
	if err := unix.Kill(-pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

func signalName(sig syscall.Signal) string { return unix.SignalName(sig) }

// processExists is true also for a process that may not be signalled (EPERM).
func processExists(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }

// endedBy returns the signal that ended the process, or 0.
func endedBy(status any) syscall.Signal {
	if s, ok := status.(syscall.WaitStatus); ok && s.Signaled() {
		return s.Signal()
	}
	return 0
}
