// Command pyhook runs and checks unmodified Python DDP communication hooks from
// Go. `pyhook help` says what it can do; `pyhook help exit-codes` how it ends.
//
// The command is thin: one file a subcommand, the work is in the packages.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"pyhook/launch"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the whole program, and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := withSignals(context.Background())
	defer stop()
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(ctx, err)
	printError(stderr, cmd, code, err)
	return code
}

// errInterrupted is the cancel cause of SIGINT, as launch.ErrTerminated is of
// SIGTERM.
var errInterrupted = errors.New("interrupted")

// withSignals cancels the context on the first SIGINT or SIGTERM; the second
// one ends the process at once.
func withSignals(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		for count := 0; ; count++ {
			select {
			case s := <-signals:
				cause, code := errInterrupted, exitInterrupted
				if s == syscall.SIGTERM {
					cause, code = launch.ErrTerminated, exitTerminated
				}
				if count > 0 {
					os.Exit(code)
				}
				cancel(cause)
			case <-ended:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(ended)
		cancel(context.Canceled)
	}
}
