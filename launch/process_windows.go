package launch

import (
	"os"
	"os/exec"
	"syscall"
)

func rankAttributes() *syscall.SysProcAttr { return nil }

// reap does not sweep: there is no process group.
func reap(cmd *exec.Cmd, _ func()) error { return cmd.Wait() }

// signalGroup kills the process: Windows has no SIGTERM, and no groups without job objects.
func signalGroup(pid int, _ syscall.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil
	}
	defer p.Release()
	return p.Kill()
}

func signalName(sig syscall.Signal) string { return sig.String() }

func processExists(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	p.Release()
	return true
}

func endedBy(any) syscall.Signal { return 0 }
