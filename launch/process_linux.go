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

// reap waits for cmd, and calls sweep between its end and its reaping: until
// it is reaped its id, and so its group's, cannot be given to a stranger. To
// sweep before Wait also closes the output pipes that leftovers hold, for which
// Wait would wait.
func reap(cmd *exec.Cmd, sweep func()) error {
	for errors.Is(unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	sweep()
	return cmd.Wait()
}
