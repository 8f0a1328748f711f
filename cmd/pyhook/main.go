// Command pyhook runs and checks unmodified Python DDP communication hooks from
// Go. `pyhook help` says what it can do; `pyhook help exit-codes` how it ends.
//
// Each subcommand is a package of internal/cli; what they share is in internal/cli itself.
package main

import (
	"context"
	"io"
	"os"

	"pyhook/internal/cli"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the whole program, and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := cli.WithSignals(context.Background(), stderr)
	defer stop()
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return cli.ExitOK
	}
	code := exitCode(ctx, err)
	printError(stderr, cmd, code, err)
	return code
}
