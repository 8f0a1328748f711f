package launch

import (
	"errors"
	"fmt"
	"strings"
)

// Error names the variable that keeps Detect from the rank, and what to do. It is
// the only error type that Detect returns; find it with errors.As.
type Error struct {
	Source   Source // the family that claimed the process
	Variable string // the environment variable at fault
	Value    string // what it held; empty when it is missing
	Reason   string // what is wrong with it, such as "is not set although RANK is"
	Hint     string // the fix
}

// Error returns one line: the variable, its value, the reason, the fix.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "launch: cannot tell the rank from %s: %s", e.Source.origin(), e.Variable)
	if e.Value != "" {
		fmt.Fprintf(&b, "=%q", e.Value)
	}
	fmt.Fprintf(&b, " %s", e.Reason)
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

// ErrTerminated is the cancel cause of a context from WithSIGTERM. Fail returns
// 143 for an error that wraps it.
var ErrTerminated = errors.New("launch: stopped by SIGTERM")
