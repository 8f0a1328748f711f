package launch

import (
	"errors"
	"fmt"
	"os"
	"strconv"
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
