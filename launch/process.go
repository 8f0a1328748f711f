package launch

import (
	"errors"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

func rankAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// reap waits for cmd, and calls sweep after its end and before Wait reaps it: until
// then no other process can get its id, which is also its group's. What sweep kills
// also closes the output pipes that Wait would wait for.
func reap(cmd *exec.Cmd, sweep func()) error {
	for errors.Is(unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	sweep()
	return cmd.Wait()
}

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
