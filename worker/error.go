package worker

import (
	"fmt"
	"strings"
	"syscall"

	"pyhook/c10d"

	"golang.org/x/sys/unix"
)

// The codes of an Error.
const (
	// ErrStart: the process could not start, find Python, or join the others.
	ErrStart c10d.Code = "worker_start"
	// ErrCrashed: a signal ended it: a segmentation fault, an abort of C++, a SIGKILL that pyhook
	// did not send (the kernel's, when memory runs out).
	ErrCrashed c10d.Code = "worker_crashed"
	// ErrExited: it ended itself, by os._exit or exit() of C.
	ErrExited c10d.Code = "worker_exited"
	// ErrHung: a call was not done after Config.Timeout.
	ErrHung c10d.Code = "worker_hung"
	// ErrCancelled: the context of a call ended before the call did.
	ErrCancelled c10d.Code = "worker_cancelled"
	// ErrFrozen: no sign of life: the process is stopped, or gets no time.
	ErrFrozen c10d.Code = "worker_frozen"
	// ErrMemory: it used more than Config.MemoryLimit.
	ErrMemory c10d.Code = "worker_memory"
	// ErrProtocol: what it sent is not a message of this package: a hook has written to memory or
	// descriptors that are not its own.
	ErrProtocol c10d.Code = "worker_protocol"
	// ErrStopped: Restart or Close ended it.
	ErrStopped c10d.Code = "worker_stopped"
	// ErrNoRestart: Config.Restarts are used up.
	ErrNoRestart c10d.Code = "worker_no_restart"
	// ErrSnapshot: the ranks have no snapshot in common.
	ErrSnapshot c10d.Code = "worker_snapshot"
	// ErrNotArmed: the program does not call Main.
	ErrNotArmed c10d.Code = "worker_not_armed"
)

// Error says that a worker process failed, how, and what it was doing. The
// gradients of the call are the trainer's to use; see ddp.Options.Rollback.
type Error struct {
	Rank     int
	Hook     string // whose call did not end; empty: none
	Bucket   int    // -1: none
	Code     c10d.Code
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
	fmt.Fprintf(&b, ": %v", e.Code)
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

// again is what to do about a worker that failed.
const again = "On every rank call Reducer.Recover, which starts the workers again and puts the hook's state back (ddp.Retry does that and the step); without a Reducer call Restart"

func (e *Error) hint() string {
	switch {
	case e.Code == ErrStart:
		return "the cause is above; `pyhook doctor` lists what Python and torch can do here"
	case e.Code == ErrCrashed && e.Signal == syscall.SIGKILL:
		return "the kernel kills so when memory runs out: look at its log. " + again
	case e.Code == ErrHung:
		return "did all ranks call the hook? The stack shows where it waited. " + again
	case e.Code == ErrNoRestart || e.Code == ErrSnapshot:
		return "end all ranks and start them again from a checkpoint (torchrun does)"
	case e.Code == ErrStopped:
		return "use it again after Restart has returned, on every rank"
	}
	return again
}

// Unwrap returns the code and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Err}
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
