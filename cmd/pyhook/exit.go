package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"pyhook/internal/report"
	"pyhook/launch"
	"pyhook/pyhook"
)

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
