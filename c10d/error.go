package c10d

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pyhook/internal/verbose"
)

// Code says what kind of failure an error is: one word, the same in Go, in Python's exceptions, in
// JSON and between a worker and its trainer. A Code is an error itself, for errors.Is:
//
//	errors.Is(err, c10d.ErrBadResult)
//
// It is also the kinds that contain it: ErrShort is an ErrBadResult.
type Code string

// The codes. codes.go has their texts, hints and parents.
const (
	// ErrRaised: the hook raised an exception when it was called.
	ErrRaised Code = "hook_raised"
	// ErrInterrupted: the context ended while the hook ran. The error is the context's too.
	ErrInterrupted Code = "interrupted"
	// ErrNotFuture: the hook returned something other than a future.
	ErrNotFuture Code = "not_future"
	// ErrNoneResult: the hook returned None, which crashes PyTorch itself. It is ErrNotFuture too.
	ErrNoneResult Code = "none_result"
	// ErrFutureFailed: the hook's future completed with an exception, which a callback raised or
	// set_exception was given.
	ErrFutureFailed Code = "future_failed"
	// ErrCollective: a collective that the hook issued failed, and the hook did not look at it:
	// neither the hook nor its future says so.
	ErrCollective Code = "collective"

	// ErrBadResult: the future's value cannot be a reduced bucket. The codes below are ErrBadResult
	// too. ErrSparse, ErrDevice and ErrComplex are also of what is given: a gradient, a bucket for which
	// the hook is not, a collective's tensor.
	ErrBadResult Code = "bad_result"
	ErrNotTensor Code = "not_tensor"
	ErrShort     Code = "short"
	ErrSparse    Code = "sparse"
	ErrMeta      Code = "meta"
	ErrDevice    Code = "device"
	ErrLayout    Code = "layout"
	ErrComplex   Code = "complex"
	ErrNonFinite Code = "nonfinite"

	// ErrBucket: the bucket cannot be given to the hook: a dtype that this torch does not have, or
	// parts that do not fit each other.
	ErrBucket Code = "bucket"
	// ErrDeviceMemory: torch could not do what package ddp asked of a device: no memory, no such
	// device or stream, an address that is not the device's.
	ErrDeviceMemory Code = "device_memory"
	// ErrSparseGradient: indices and values are not a gradient of the parameter.
	ErrSparseGradient Code = "sparse_gradient"

	// ErrLoad: a hook or a state could not be made from its spec. The codes below are ErrLoad too.
	ErrLoad         Code = "load"
	ErrBadSpec      Code = "bad_spec"
	ErrNoModule     Code = "no_module"
	ErrNoAttribute  Code = "no_attribute"
	ErrNotCallable  Code = "not_callable"
	ErrArity        Code = "arity"
	ErrImportFailed Code = "import_failed"
	ErrBadArguments Code = "bad_arguments"
	// ErrOrder: the hook's attribute pyhook_order is neither "ordered" nor "serial".
	ErrOrder Code = "order"
	// ErrNeverFuture: an `async def` or a generator, each call of which would be ErrNotFuture, which
	// it is too.
	ErrNeverFuture Code = "never_future"

	// ErrGroup: a process group could not be made or used.
	ErrGroup Code = "group"
	// ErrPeer: another rank, or the way to it, is gone, frozen or too slow. It is ErrGroup too, and
	// comes beside ErrRaised or ErrFutureFailed where a hook met it.
	ErrPeer Code = "peer"
	// The codes below are of ranks that meet, and ErrGroup too.
	ErrJoinTimeout  Code = "timeout"       // not all ranks came in time
	ErrRank         Code = "rank"          // out of range, or taken twice
	ErrWorldSize    Code = "world_size"    // the ranks' differ
	ErrAddress      Code = "address"       // the store's is not one of this host
	ErrPortInUse    Code = "port_in_use"   // the store's
	ErrNotAStore    Code = "not_a_store"   // the service at MASTER_PORT
	ErrTorchVersion Code = "torch_version" // the ranks', or a rank's and torchrun's agent's, differ

	// ErrOutOfStep: a step failed, some rank may be in it still, and no later one can begin until
	// the group was made anew: see ddp.OutOfStepError.
	ErrOutOfStep Code = "out_of_step"
	// ErrClosed: used after Close.
	ErrClosed Code = "closed"

	// ErrState: a hook's state cannot be saved or restored. The codes below are ErrState too.
	ErrState Code = "state"
	// ErrStateUnsafe: only pickle could write or read it; the error names what.
	ErrStateUnsafe Code = "state_unsafe"
	// ErrStateCorrupt: the file is not a saved state, or was cut short or changed.
	ErrStateCorrupt Code = "state_corrupt"
	// ErrStateVersion: a version of the format that this pyhook cannot read.
	ErrStateVersion Code = "state_version"
	// ErrStateClass: the state of another kind of hook.
	ErrStateClass Code = "state_class"
	// ErrStateRank: another rank's state, or that of a group of another size.
	ErrStateRank Code = "state_rank"
	// ErrStateBuckets, of a hook call: the state that was loaded holds tensors, and was saved with
	// other buckets than the hook is called with.
	ErrStateBuckets Code = "state_buckets"

	// ErrCanceled and ErrDeadline are context.Canceled and context.DeadlineExceeded too.
	ErrCanceled Code = "canceled"
	ErrDeadline Code = "deadline"
)

// Error returns what the code means, in a few words.
func (c Code) Error() string {
	if row, ok := codes[c]; ok {
		return row.text
	}
	return string(c)
}

// Is reports whether c is target, or one of the kinds that it belongs to.
func (c Code) Is(target error) bool {
	if target == error(c) {
		return true
	}
	row := codes[c]
	return row.is != nil && target == row.is || slices.ContainsFunc(row.parents, func(p Code) bool { return p.Is(target) })
}

// Hint returns what to do about errors of the code, or of the nearest kind that has a hint.
func (c Code) Hint() string {
	row := codes[c]
	if row.hint != "" {
		return row.hint
	}
	for _, parent := range row.parents {
		if hint := parent.Hint(); hint != "" {
			return hint
		}
	}
	return ""
}

// Known reports whether c is one of this package's codes.
func (c Code) Known() bool {
	_, ok := codes[c]
	return ok
}

// Codes returns every code, sorted.
func Codes() []Code { return slices.Sorted(maps.Keys(codes)) }

// CodesOf returns the codes that errors.Is finds in err, for a program that reports them. A context's
// error has ErrCanceled or ErrDeadline.
func CodesOf(err error) []Code {
	var found []Code
	for code, row := range codes {
		if errors.Is(err, code) || row.is != nil && errors.Is(err, row.is) {
			found = append(found, code)
		}
	}
	slices.Sort(found)
	return found
}

// Error says what failed, where, and what to do.
type Error struct {
	Op     string // what failed: "hook pkg.module.name", "all_reduce"
	Rank   int    // of this process; -1 when it has none
	Bucket int    // -1 when no bucket is concerned
	Code   Code
	Also   []Code // what it is besides, as ErrPeer where a hook raised because a peer is gone
	Detail string // what was seen
	Hint   string // what to do
	Stacks string // of an interrupted hook: where every Python thread was
	Err    error  // the cause; may be nil

	// Unfinished, of a hook call, is the future of the collectives that the failed call had started
	// and that may still write to its bucket, where that is known; else nil. Its value is nothing.
	Unfinished *Future[Result]
}

// NewError returns err as the error of an operation on a rank. code is for an err that has none of its
// own: a Close, a context's end, and a *Error or Code within err give theirs. What fails on a process
// group is ErrGroup in any case, and those two besides.
func NewError(op string, rank, bucket int, code Code, err error) *Error {
	e := &Error{Op: op, Rank: rank, Bucket: bucket, Code: code, Detail: err.Error(), Err: err}
	var known *Error
	var own Code
	switch ended := ContextCode(err); {
	case IsClosed(err):
		e.Code = ErrClosed
	case ended != "":
		e.Code = ended
	case errors.As(err, &known):
		e.Code, e.Hint = known.Code, known.Hint
		e.Detail = strings.Replace(e.Detail, "\nhint: "+known.Hint, "", 1)
	case errors.As(err, &own) && own.Is(code):
		e.Code = own
	}
	if code == ErrGroup && (e.Code == ErrClosed || e.Code == ErrCanceled || e.Code == ErrDeadline) {
		e.Code, e.Also = ErrGroup, []Code{e.Code}
	}
	return e
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Rank >= 0 {
		fmt.Fprintf(&b, ", rank %d", e.Rank)
	}
	if e.Bucket >= 0 {
		fmt.Fprintf(&b, ", bucket %d", e.Bucket)
	}
	// Where a context ended the detail says it all.
	if e.Detail == "" || e.Code != ErrCanceled && e.Code != ErrDeadline {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(e.Code.Error())
	}
	for _, code := range e.Also {
		if code != ErrCanceled && code != ErrDeadline {
			fmt.Fprintf(&b, ": %v", code)
		}
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Hint != "" {
		b.WriteString("\nhint: " + e.Hint)
	}
	return b.String()
}

// Format implements fmt.Formatter: %+v adds the Python traceback of the cause, as python prints it,
// and Stacks.
func (e *Error) Format(s fmt.State, verb rune) {
	var python interface{ FullTraceback() string }
	traceback := ""
	if errors.As(e.Err, &python) {
		traceback = python.FullTraceback()
	}
	verbose.Format(s, verb, e.Error(), verbose.Detail{Title: "traceback:", Text: traceback},
		verbose.Detail{Title: "where every Python thread was:", Text: e.Stacks})
}

// Unwrap returns the codes and the cause.
func (e *Error) Unwrap() []error {
	list := make([]error, 0, 3)
	list = append(list, e.Code)
	for _, code := range e.Also {
		list = append(list, code)
	}
	if e.Err != nil {
		list = append(list, e.Err)
	}
	return list
}

// ContextCode returns the code of a context's error, or "" for any other error.
func ContextCode(err error) Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return ErrDeadline
	case errors.Is(err, context.Canceled):
		return ErrCanceled
	}
	return ""
}
