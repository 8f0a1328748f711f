package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"pyhook/internal/report"
	"pyhook/launch"
	"pyhook/pyhook"
)

// The exit codes; topics.go tells users.
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

// cobraUsage are the beginnings of the errors that cobra itself makes of a
// command line. It has no types for them (cobra v1.10.2, args.go, command.go,
// flag_groups.go).
var cobraUsage = []string{"unknown command", "required flag", "if any flags in the group",
	"at least one of the flags", "accepts ", "requires at least", "invalid argument"}

// exitCode is the code for an error that reached main.
func exitCode(ctx context.Context, err error) int {
	var chosen *exitError
	var discovery *pyhook.DiscoveryError
	var rank *launch.RankError
	switch cause := context.Cause(ctx); {
	case errors.As(err, &chosen):
		return chosen.code
	case errors.Is(err, launch.ErrTerminated), errors.Is(cause, launch.ErrTerminated):
		return exitTerminated
	case errors.Is(err, errInterrupted), errors.Is(cause, errInterrupted):
		return exitInterrupted
	case errors.As(err, &discovery):
		return exitNoPython
	case errors.As(err, &rank):
		return exitRankDied
	}
	for _, beginning := range cobraUsage {
		if strings.HasPrefix(err.Error(), beginning) {
			return exitUsage
		}
	}
	return exitFailed
}

// printError says why the command ends: the message, a Python traceback if
// there is one, and what to do.
func printError(w io.Writer, cmd *cobra.Command, code int, err error) {
	var chosen *exitError
	if errors.As(err, &chosen) && chosen.err == nil {
		return
	}
	message, hints := report.SplitHints(err.Error())
	var discovery *pyhook.DiscoveryError
	switch {
	case code == exitUsage && cmd != nil:
		hints = append(hints, cmd.CommandPath()+" --help")
	case code == exitNoPython && errors.As(err, &discovery):
		hints = append(hints, "pyhook doctor shows what was found")
	}
	report.New(w).Error(message, pythonTraceback(err), hints...)
}

// pythonTraceback is the traceback of the user's own code in err, or "". The
// exceptions of pyhook's own Python package speak by their message; what they
// come from may be the user's.
func pythonTraceback(err error) string {
	var python *pyhook.PythonError
	if !errors.As(err, &python) {
		return ""
	}
	for python != nil && strings.HasPrefix(python.Type, "pyhook.") {
		python = python.Cause
	}
	if python == nil {
		return ""
	}
	return userFrames(python.FullTraceback())
}

// userFrames leaves out the frames of pyhook's own Python and of the import
// machinery. Where no frame is left there is nothing to see.
func userFrames(traceback string) string {
	var kept []string
	frames, inner, skipping := 0, 0, false
	for _, line := range strings.Split(traceback, "\n") {
		if strings.HasPrefix(line, "  File ") {
			skipping = strings.Contains(line, `"<embedded pyhook>`) || strings.Contains(line, `"<frozen `) || strings.Contains(line, "/importlib/")
			frames++
			if skipping {
				inner++
			}
		} else if !strings.HasPrefix(line, "    ") {
			skipping = false
		}
		if !skipping {
			kept = append(kept, line)
		}
	}
	if frames > 0 && frames == inner {
		return ""
	}
	return strings.Join(kept, "\n")
}
