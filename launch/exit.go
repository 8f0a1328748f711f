package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// exitTerminated is 128+SIGTERM, as shells number it. Launchers read it as "it
// stopped because I asked".
const exitTerminated = 128 + int(syscall.SIGTERM)

// exitCode returns what Fail documents.
func exitCode(err error) int {
	var rank *RankError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrTerminated):
		return exitTerminated
	case errors.As(err, &rank) && rank.ExitCode >= 1 && rank.ExitCode <= 125:
		return rank.ExitCode
	}
	return 1
}

// Fail is the end of a trainer's main: os.Exit(launch.Fail(err)). It writes the
// error file with the present time and returns the exit code: 0 for nil, 143 for
// an error that wraps ErrTerminated, a failed rank's own code for a *RankError
// that has one in 1..125, and 1 for the rest. A stop by SIGTERM is not a failure
// and leaves no file: a launcher could mistake the rank that it stopped for the
// root cause.
//
// A cancelled context's Err loses the reason: return context.Cause(ctx) from
// the training loop to have 143.
//
// Fail does not print err. It prints an error of writing the error file on
// standard error, since nobody else would.
func Fail(err error) int {
	code := exitCode(err)
	if code == 0 || code == exitTerminated {
		return code
	}
	if fileErr := WriteErrorFile(err, time.Now()); fileErr != nil {
		fmt.Fprintln(os.Stderr, fileErr)
	}
	return code
}

// SignalEcho is how long after a signal another one counts as the same request to stop:
// GNU timeout, for one, sends SIGTERM to the process and then to its process group.
const SignalEcho = 500 * time.Millisecond

// WithSIGTERM returns a context that SIGTERM cancels with the cause
// ErrTerminated, so that a training loop can stop at a safe point within the
// launcher's grace period (30 s for torchrun and Spawn). Further SIGTERMs change
// nothing. Call stop when done: after it SIGTERM kills the process as usual, except
// within SignalEcho of the first, so that the trainer can still print and clean
// up. stop may be called more than once.
func WithSIGTERM(parent context.Context) (ctx context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	var first atomic.Pointer[time.Time]
	go func() {
		select {
		case <-signals:
			now := time.Now()
			first.Store(&now)
			cancel(ErrTerminated)
		case <-ctx.Done():
		}
	}()
	return ctx, sync.OnceFunc(func() {
		cancel(context.Canceled)
		if at := first.Load(); at != nil {
			time.AfterFunc(SignalEcho-time.Since(*at), func() { signal.Stop(signals) })
			return
		}
		signal.Stop(signals)
	})
}
