package launch

import (
	"fmt"
	"os"
	"strconv"
)

// parentVariable holds the process id of the launcher. Spawn sets it; another
// launcher may. A process id means nothing in another PID namespace: a rank that
// starts inside a container must not inherit the variable.
const parentVariable = "PYHOOK_PARENT_PID"

// parentAtStart narrows the time in which a launcher can die unseen: package
// variables are set before main runs.
var parentAtStart = os.Getppid()

// checkParent finds a launcher that died before the kernel was asked to watch
// it.
//
// The variable is inherited further down, so a process whose parent is another
// than the one named may be a grandchild of a launcher that lives: a shell
// script in between is common. It is gone only if nobody has its id.
func checkParent() error {
	parent := os.Getppid()
	if parent != parentAtStart {
		return ErrParentGone
	}
	text := os.Getenv(parentVariable)
	if text == "" {
		return nil
	}
	told, err := strconv.Atoi(text)
	if err != nil || told < 1 {
		return fmt.Errorf("launch: %s=%q is not a process id", parentVariable, text)
	}
	if parent != told && !processExists(told) {
		return ErrParentGone
	}
	return nil
}
