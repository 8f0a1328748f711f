//go:build unix && !linux

package launch

import (
	"os/exec"
	"syscall"
)

func rankAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// reap calls sweep after Wait: Go's syscall packages have no wait for these systems that
// leaves the process unreaped. Cmd.WaitDelay bounds the wait for pipes that other
// processes of the group hold.
func reap(cmd *exec.Cmd, sweep func()) error {
	err := cmd.Wait()
	sweep()
	return err
}
