// Package cli holds what the subcommands of cmd/pyhook share: exit codes and usage errors, signals,
// flags with their completions, starting ranks of this program and reading their answers.
//
// Each subcommand is a package below it, whose Command returns it for the root.
package cli

import "fmt"

// The exit codes; `pyhook help exit-codes` lists them.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitNoPython    = 3
	ExitRankDied    = 4
	ExitInterrupted = 130
	ExitTerminated  = 143
)

// ExitError chooses the exit code. A nil err means that all has been said.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// Exit ends a command that has said all, with a code.
func Exit(code int) error {
	if code == ExitOK {
		return nil
	}
	return &ExitError{Code: code}
}

// UsageError makes an error of the command line: exit code 2 and a pointer to
// the command's help.
func UsageError(format string, args ...any) error {
	return &ExitError{ExitUsage, fmt.Errorf(format, args...)}
}
