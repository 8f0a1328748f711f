package ddp

import (
	"fmt"
	"strings"

	"pyhook/c10d"
	"pyhook/internal/verbose"
)

// The codes of the Reducer's own errors.
const (
	// ErrReadyTwice: a parameter was marked ready twice in one step.
	ErrReadyTwice c10d.Code = "ready_twice"
	// ErrNotReady: Wait was called before all parameters were marked ready.
	ErrNotReady c10d.Code = "not_ready"
	// ErrClosed: the reducer was used after Close. It is c10d.ErrClosed too.
	ErrClosed c10d.Code = "reducer_closed"
	// ErrGraphChanged: a step of a static graph marks parameters otherwise than the first one did.
	// PyTorch: "Your training graph has changed in this iteration".
	ErrGraphChanged c10d.Code = "graph_changed"
	// ErrSparse: a sparse parameter was marked as a dense one or the other way round, or the hook
	// cannot reduce sparse gradients.
	ErrSparse c10d.Code = "sparse_and_dense"
	// ErrLateWrite: a hook wrote to its bucket after its future was done.
	ErrLateWrite c10d.Code = "late_write"
	// ErrMismatch: the ranks have different parameter lists, or options that must be alike.
	ErrMismatch c10d.Code = "mismatch"
	// ErrOtherStep: a mark, while another Reducer over the group has a step under way.
	ErrOtherStep c10d.Code = "other_step"
	// ErrParameter: a parameter that no Reducer takes: of integers, for example, or twice in the list.
	ErrParameter c10d.Code = "parameter"
	// ErrOverlap: gradients of one step, or elements of one, share the memory to which results go.
	ErrOverlap c10d.Code = "overlap"
	// ErrStep: the step failed by an error of no other code, of a hook in Go for example.
	ErrStep c10d.Code = "step_failed"
)

// ParameterError is an error about parameters of the model.
type ParameterError struct {
	Rank   int
	Names  []string
	Code   c10d.Code // ErrReadyTwice, ErrNotReady, ErrGraphChanged, ErrSparse, ErrMismatch, ErrValues, ...
	Detail string
	Hint   string
}

func (e *ParameterError) Error() string {
	names := e.Names
	more := ""
	if len(names) > 8 {
		names, more = names[:8], fmt.Sprintf(" and %d more", len(names)-8)
	}
	text := fmt.Sprintf("rank %d: %v: %s%s", e.Rank, e.Code, strings.Join(names, ", "), more)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Hint != "" {
		text += "\nhint: " + e.Hint
	}
	return text
}

// Unwrap returns the code.
func (e *ParameterError) Unwrap() error { return e.Code }

// StepError says that a step failed, on which rank and at which bucket first. With AgreementVote it
// fails on every rank alike: Origin, Bucket and Code are the same everywhere, and nothing is written
// on any rank. The gradients of the step are not reduced: where the trainer's own memory holds them
// (ReadyFrom) it is untouched, as with Options.Rollback; else in the bucket's memory (Gradient) a hook
// that works in place may have changed them, and one that raised after it had started a collective
// may still do so.
//
// On a group of several ranks the Reducer then refuses the next step with an *OutOfStepError, until
// its Recover, which each Reducer over the group needs whose step failed. Only where the collectives
// of all ranks were over (CheckFinite, DigestEvery, LateWrites in the step of the write) the next step may begin at
// once. So it may on a group of one rank.
type StepError struct {
	Rank   int      // of this process
	Origin int      // the rank where it began: Rank, or, with AgreementVote, another
	Bucket int      // -1: no bucket was concerned
	Names  []string // of the bucket's parameters
	Code   c10d.Code
	// Err is the cause: the hook's error, a *c10d.Error, or a context's, or a *ParameterError. Of
	// another rank's it is a *c10d.Error that says what that rank said.
	Err error
}

func (e *StepError) Error() string { return fmt.Sprintf("%s%v", e.text(), e.Err) }

// text is what stands before the cause.
func (e *StepError) text() string {
	where := ""
	if e.Origin != e.Rank {
		where = fmt.Sprintf(" on rank %d", e.Origin)
	}
	if e.Bucket < 0 {
		return fmt.Sprintf("rank %d: the step failed%s: ", e.Rank, where)
	}
	return fmt.Sprintf("rank %d: reducing bucket %d (%d parameters, from %s) failed%s: ", e.Rank, e.Bucket, len(e.Names), first(e.Names), where)
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

// Unwrap returns the code and the cause.
func (e *StepError) Unwrap() []error { return []error{e.Code, e.Err} }

func first(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return names[0]
}
