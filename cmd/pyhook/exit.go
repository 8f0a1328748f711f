package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
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
	var chosen *cli.ExitError
	var discovery *pyhook.DiscoveryError
	var rank *launch.RankError
	switch cause := context.Cause(ctx); {
	case errors.As(err, &chosen):
		return chosen.Code
	case errors.Is(err, launch.ErrTerminated), errors.Is(cause, launch.ErrTerminated):
		return cli.ExitTerminated
	case errors.Is(err, cli.ErrInterrupted), errors.Is(cause, cli.ErrInterrupted):
		return cli.ExitInterrupted
	case errors.As(err, &discovery):
		return cli.ExitNoPython
	case errors.As(err, &rank):
		return cli.ExitRankDied
	}
	for _, beginning := range cobraUsage {
		if strings.HasPrefix(err.Error(), beginning) {
			return cli.ExitUsage
		}
	}
	return cli.ExitFailed
}

// printError says why the command ends: the message, a Python traceback if
// there is one, and what to do.
func printError(w io.Writer, cmd *cobra.Command, code int, err error) {
	var chosen *cli.ExitError
	if errors.As(err, &chosen) && chosen.Err == nil {
		return
	}
	message, hints := report.SplitHints(err.Error())
	var discovery *pyhook.DiscoveryError
	switch {
	case code == cli.ExitUsage && cmd != nil:
		hints = append(hints, cmd.CommandPath()+" --help")
	case code == cli.ExitNoPython && errors.As(err, &discovery):
		hints = append(hints, "pyhook doctor shows what was found")
	}
	report.New(w).Error(message, cli.PythonTraceback(err), hints...)
}
