package main

import "fmt"

// The exit codes; `pyhook help exit-codes` lists them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNoPython    = 3
	exitRankDied    = 4
	exitInterrupted = 130
	exitTerminated  = 143
)

// exitError chooses the exit code. A nil err means that all has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError makes an error of the command line: exit code 2 and a pointer to
// the command's help.
func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}
