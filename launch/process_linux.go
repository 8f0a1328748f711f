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
