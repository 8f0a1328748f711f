//go:build unix && !linux

package launch

import (
	"os/exec"
	"syscall"
)

func rankAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// reap sweeps after the reaping: these systems have no wait in Go's syscall
// packages that leaves the process in place. Cmd.WaitDelay bounds the wait for
// pipes that leftovers hold.
func reap(cmd *exec.Cmd, sweep func()) error {
	err := cmd.Wait()
	sweep()
	return err
}
