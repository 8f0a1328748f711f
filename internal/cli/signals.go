package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pyhook/launch"
)

// ErrInterrupted is the cancel cause of SIGINT, as launch.ErrTerminated is of
// SIGTERM.
var ErrInterrupted = errors.New("interrupted")

// waitedFor names what the command waits for after a signal to stop.
var waitedFor atomic.Pointer[string]

// WaitingFor says, until the returned function is called, what the end of the command
// would wait for.
func WaitingFor(format string, args ...any) (done func()) {
	text := fmt.Sprintf(format, args...)
	before := waitedFor.Swap(&text)
	return func() { waitedFor.Store(before) }
}

// Stopped is the signal's error, if one has ended ctx: what names what it ended.
func Stopped(ctx context.Context, what string) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("the %s was stopped: %w", what, context.Cause(ctx))
}

// WithSignals cancels the context on the first SIGINT or SIGTERM, and says what is waited
// for; the second one ends the process at once. What comes within a moment of the first
// is the same request: see launch.SignalEcho.
func WithSignals(parent context.Context, stderr io.Writer) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	ended := make(chan struct{})
	var first atomic.Pointer[time.Time]
	go func() {
		for {
			select {
			case s := <-signals:
				cause, code := ErrInterrupted, ExitInterrupted
				if s == syscall.SIGTERM {
					cause, code = launch.ErrTerminated, ExitTerminated
				}
				if begin := first.Load(); begin != nil {
					if time.Since(*begin) > launch.SignalEcho {
						os.Exit(code)
					}
					continue
				}
				now := time.Now()
				first.Store(&now)
				cancel(cause)
				sayStopping(stderr, s)
			case <-ended:
				return
			}
		}
	}()
	return ctx, sync.OnceFunc(func() {
		close(ended)
		cancel(context.Canceled)
		// The echo of a signal must not end the process while it says why it ends.
		if begin := first.Load(); begin != nil {
			time.AfterFunc(launch.SignalEcho-time.Since(*begin), func() { signal.Stop(signals) })
			return
		}
		signal.Stop(signals)
	})
}

// sayStopping is for the user at the terminal. A rank that this program started waits for nothing
// that it would name: its launcher has said it.
func sayStopping(stderr io.Writer, s os.Signal) {
	what := waitedFor.Load()
	if what == nil {
		return
	}
	again := "a second SIGTERM"
	name := "stopped by SIGTERM"
	if s == os.Interrupt {
		again, name = "Ctrl-C again", "interrupted"
	}
	fmt.Fprintf(stderr, "\npyhook: %s: waiting for %s; %s ends it at once\n", name, *what, again)
}

// InC is why a stop may take long.
const InC = "a hook call that blocks in C code cannot be interrupted"
