package worker

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"pyhook/pyhook"
)

// The kinds of an Error, for errors.Is.
var (
	// ErrStart: the process could not start, find Python, or join the others.
	ErrStart = errors.New("the worker did not start")
	// ErrCrashed: a signal ended it: a segmentation fault, an abort of C++, a
	// SIGKILL that pyhook did not send (the kernel's, when memory runs out).
	ErrCrashed = errors.New("the worker crashed")
	// ErrExited: it ended itself, by os._exit or exit() of C.
	ErrExited = errors.New("the worker exited")
	// ErrHung: a call was not done after Config.Timeout.
	ErrHung = errors.New("the worker hung")
	// ErrCancelled: the context of a call ended before the call did.
	ErrCancelled = errors.New("the worker was stopped, as the context of a call ended")
	// ErrFrozen: no sign of life: the process is stopped, or gets no time.
	ErrFrozen = errors.New("the worker is frozen")
	// ErrMemory: it used more than Config.MemoryLimit.
	ErrMemory = errors.New("the worker used too much memory")
	// ErrProtocol: what it sent is no message of this package: a hook has written to
	// memory or descriptors that are not its own.
	ErrProtocol = errors.New("the worker sent what is no message")
	// ErrStopped: Restart or Close ended it.
	ErrStopped = errors.New("the worker was stopped")
	// ErrNoRestart: Config.Restarts are used up.
	ErrNoRestart = errors.New("the worker may not be restarted any more")
	// ErrSnapshot: the ranks have no snapshot in common.
	ErrSnapshot = errors.New("the hook's state cannot be restored")
	// ErrNotArmed: the program does not call Main.
	ErrNotArmed = errors.New("worker.Main was not called: call it first in main (in tests: in TestMain), since a worker is this same program")
)

// Error says that a worker process failed, how, and what it was doing. The
// gradients of the call are the trainer's to use; see Hook.Rollback.
type Error struct {
	Rank     int
	Hook     string // whose call did not end; empty: none
	Bucket   int    // -1: none
	Kind     error
	Detail   string
	ExitCode int            // -1: it did not exit by itself
	Signal   syscall.Signal // that ended it; 0: none
	Stack    string         // Python's, of all threads, at the end; may be empty
	Stderr   string         // the last of its output
	Err      error          // the cause, such as a context's error; may be nil
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "worker of rank %d", e.Rank)
	if e.Hook != "" {
		fmt.Fprintf(&b, ", hook %s", e.Hook)
	}
	if e.Bucket >= 0 {
		fmt.Fprintf(&b, ", bucket %d", e.Bucket)
	}
	fmt.Fprintf(&b, ": %v", e.Kind)
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Stack != "" {
		b.WriteString("\n" + strings.TrimRight(e.Stack, "\n"))
	}
	if e.Stderr != "" {
		b.WriteString("\nits last output:\n" + strings.TrimRight(e.Stderr, "\n"))
	}
	b.WriteString("\nhint: " + e.hint())
	return b.String()
}

func (e *Error) hint() string {
	switch {
	case e.Kind == ErrStart:
		return "the cause is above; `pyhook doctor` tells what Python and torch can do here"
	case e.Kind == ErrCrashed && e.Signal == syscall.SIGKILL:
		return "the kernel kills so when memory runs out: look at its log. Restart it on every rank (worker.NeedsRestart is true on all of them)"
	case e.Kind == ErrHung:
		return "did all ranks call the hook? The stack shows where it waited. Restart it on every rank"
	case e.Kind == ErrStopped:
		return "use it again after Restart has returned, on every rank"
	}
	return "Restart it on every rank (worker.NeedsRestart is true on all of them), and go back to the step that Restart returns"
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// at is e for one call.
func (e *Error) at(hook string, bucket int) *Error {
	c := *e
	c.Hook, c.Bucket = hook, bucket
	return &c
}

func signalText(s syscall.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return fmt.Sprintf("by signal %d (%s)", int(s), name)
	}
	return fmt.Sprintf("by signal %d", int(s))
}

// pyhookError is an error of the worker's own pyhook that is no HookError, as of a
// process group: its text, its kinds and its exception.
type pyhookError struct {
	text  string
	kinds []error
}

func (e *pyhookError) Error() string   { return e.text }
func (e *pyhookError) Unwrap() []error { return e.kinds }

// hookFailure is err as the error of a hook.
func hookFailure(hook string, rank, bucket int, kind, err error, hint string) error {
	return &pyhook.HookError{Hook: hook, Rank: rank, Bucket: bucket, Kind: kind, Detail: err.Error(), Hint: hint, Err: err}
}
