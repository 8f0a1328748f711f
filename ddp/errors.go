package ddp

import (
	"errors"
	"fmt"
	"strings"

	"pyhook/internal/verbose"
)

var (
	// ErrReadyTwice: a parameter was marked ready twice in one step.
	ErrReadyTwice = errors.New("marked ready twice in one step")
	// ErrNotReady: Wait was called before all parameters were marked ready.
	ErrNotReady = errors.New("not marked ready in this step")
	// ErrClosed: the reducer was used after Close.
	ErrClosed = errors.New("the reducer was closed")
	// ErrGraphChanged: a step of a static graph marks parameters otherwise than the
	// first one did. PyTorch: "Your training graph has changed in this iteration".
	ErrGraphChanged = errors.New("the training graph has changed in this step, which StaticGraph does not allow")
	// ErrSparse: a sparse parameter was marked as a dense one or the other way round,
	// or the hook cannot reduce sparse gradients.
	ErrSparse = errors.New("sparse and dense gradients do not fit each other")
	// ErrLateWrite: a hook wrote to its bucket after its future was done.
	ErrLateWrite = errors.New("the hook wrote to its bucket after its future was done")
	// ErrMismatch: the ranks have different parameter lists.
	ErrMismatch = errors.New("the ranks' parameter lists differ")
)

// ParameterError is an error about parameters of the model.
type ParameterError struct {
	Rank   int
	Names  []string
	Kind   error // ErrReadyTwice, ErrNotReady, ErrGraphChanged, ErrSparse, ErrMismatch
	Detail string
	Hint   string
}

func (e *ParameterError) Error() string {
	names := e.Names
	more := ""
	if len(names) > 8 {
		names, more = names[:8], fmt.Sprintf(" and %d more", len(names)-8)
	}
	text := fmt.Sprintf("rank %d: %v: %s%s", e.Rank, e.Kind, strings.Join(names, ", "), more)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Hint != "" {
		text += "\nhint: " + e.Hint
	}
	return text
}

// Unwrap returns the kind.
func (e *ParameterError) Unwrap() error { return e.Kind }

// StepError says that a step's reduction failed, and at which bucket first. The gradients of the
// step are not reduced: where the trainer's own memory holds them (ReadyFrom) it is untouched, as
// with Options.Rollback; else in the bucket's memory (Gradient) a hook that works in place may
// have changed them, and one that raised after it had started a collective may still do so.
//
// On a group of several ranks the Reducer then refuses the next step with an *OutOfStepError,
// since other ranks may be in this one still. Only an error of Options.CheckFinite, or of
// LateWrites in the step of the write, leaves it ready: these are found when all collectives are
// over. On a group of one rank the next step may always begin.
type StepError struct {
	Rank   int
	Bucket int
	Names  []string // of the bucket's parameters
	Err    error    // the hook's, a *pyhook.HookError, or a context's
}

func (e *StepError) Error() string { return fmt.Sprintf("%s%v", e.text(), e.Err) }

// text is what stands before the cause.
func (e *StepError) text() string {
	return fmt.Sprintf("rank %d: reducing bucket %d (%d parameters, from %s) failed: ", e.Rank, e.Bucket, len(e.Names), first(e.Names))
}

// Format implements fmt.Formatter: %+v adds what the %+v of the hook's error shows beside its
// text, the Python traceback.
func (e *StepError) Format(s fmt.State, verb rune) {
	text := e.text()
	if verb == 'v' && s.Flag('+') {
		fmt.Fprintf(s, "%s%+v", text, e.Err)
		return
	}
	verbose.Format(s, verb, e.Error())
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

func first(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return names[0]
}
