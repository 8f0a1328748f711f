package pyhook

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pyhook/cbridge"
	"pyhook/internal/verbose"
)

// The kinds of hook errors, for errors.Is.
var (
	// ErrRaised: the hook raised an exception when it was called.
	ErrRaised = errors.New("the hook raised an exception")
	// ErrInterrupted: the context ended while the hook ran. It is the context's
	// error too.
	ErrInterrupted = errors.New("the hook was interrupted")
	// ErrNotFuture: the hook returned something that is no torch future.
	ErrNotFuture = errors.New("the hook did not return a future")
	// ErrNoneResult: the hook returned None, which crashes PyTorch itself. It
	// is an ErrNotFuture too.
	ErrNoneResult = fmt.Errorf("%w: it returned None", ErrNotFuture)
	// ErrFutureFailed: the hook's future completed with an exception, raised
	// in a callback or given to set_exception.
	ErrFutureFailed = errors.New("the hook's future failed")
	// ErrCollective: a collective that the hook issued failed, and the hook did not
	// look at it: neither the hook nor its future says so.
	ErrCollective = errors.New("a collective of the hook failed unseen")
	// ErrBadResult: the future's value cannot be a reduced bucket. The kinds
	// below are ErrBadResult too.
	ErrBadResult = errors.New("the hook's result is not valid")
	ErrNotTensor = fmt.Errorf("%w: not a tensor", ErrBadResult)
	ErrShort     = fmt.Errorf("%w: too few elements", ErrBadResult)
	ErrSparse    = fmt.Errorf("%w: sparse", ErrBadResult)
	ErrMeta      = fmt.Errorf("%w: on the meta device", ErrBadResult)
	ErrDevice    = fmt.Errorf("%w: on another device", ErrBadResult)
	ErrLayout    = fmt.Errorf("%w: no plain memory", ErrBadResult)
	ErrComplex   = fmt.Errorf("%w: real and complex mixed", ErrBadResult)
	ErrNonFinite = fmt.Errorf("%w: not finite", ErrBadResult)

	// ErrBucket: the bucket cannot be shown to Python: a dtype that this torch
	// does not have, or parts that do not fit each other.
	ErrBucket = errors.New("the bucket cannot be given to the hook")
	// ErrSparseGradient: indices and values are none of a gradient of the parameter.
	ErrSparseGradient = errors.New("the sparse gradient is not valid")

	// ErrLoad: a hook or state could not be made from its spec. The kinds
	// below are ErrLoad too.
	ErrLoad         = errors.New("the hook cannot be loaded")
	ErrBadSpec      = fmt.Errorf("%w: the spec cannot be read", ErrLoad)
	ErrNoModule     = fmt.Errorf("%w: no such module or file", ErrLoad)
	ErrNoAttribute  = fmt.Errorf("%w: no such name in the module", ErrLoad)
	ErrNotCallable  = fmt.Errorf("%w: not callable", ErrLoad)
	ErrArity        = fmt.Errorf("%w: it does not take (state, bucket)", ErrLoad)
	ErrImportFailed = fmt.Errorf("%w: its module fails to import", ErrLoad)
	ErrBadArguments = fmt.Errorf("%w: the state's arguments do not fit", ErrLoad)
	// ErrOrder: its attribute pyhook_order is neither "ordered" nor "serial".
	ErrOrder = fmt.Errorf("%w: its pyhook_order is not known", ErrLoad)
	// ErrNeverFuture: an `async def` or a generator, so that each call would be
	// an ErrNotFuture, which it is too.
	ErrNeverFuture = fmt.Errorf("%w: calling it gives no future (%w)", ErrLoad, ErrNotFuture)

	// ErrGroup: the process group could not be made or used.
	ErrGroup = errors.New("process group")
	// ErrPeer: another rank, or the way to it, is gone, frozen or too slow. It is
	// ErrGroup too, and beside ErrRaised or ErrFutureFailed where a hook met it.
	ErrPeer = fmt.Errorf("%w: a peer failed", ErrGroup)
	// The kinds below are of ranks that meet, and ErrGroup too.
	ErrJoinTimeout = fmt.Errorf("%w: not all ranks came in time", ErrGroup)
	ErrRank        = fmt.Errorf("%w: a rank out of range, or taken twice", ErrGroup)
	ErrWorldSize   = fmt.Errorf("%w: the ranks' world sizes differ", ErrGroup)
	ErrAddress     = fmt.Errorf("%w: the store's address is none of this host", ErrGroup)
	ErrPortInUse   = fmt.Errorf("%w: the store's port is in use", ErrGroup)
	ErrNotAStore   = fmt.Errorf("%w: what listens at the store's port is none", ErrGroup)
	// ErrTorchVersion: the ranks, or a rank and torchrun's agent, have different torch.
	ErrTorchVersion = fmt.Errorf("%w: the ranks' torch differs", ErrGroup)

	// ErrOutOfStep: a step failed on this rank, so other ranks may be in that step still, and no
	// later one can begin: see ddp.OutOfStepError.
	ErrOutOfStep = errors.New("this rank is out of step with the others")

	// ErrClosed: used after Close.
	ErrClosed = errors.New("used after Close")
	// ErrRunning: the process has a Runtime already; share it.
	ErrRunning = cbridge.ErrRunning
	// ErrExitTimeout: Python's end took longer than Config.ExitWait: see ExitError.
	ErrExitTimeout = cbridge.ErrExitTimeout
)

// ExitError is Runtime.Close's error when Python did not come to its end in time: it
// names what was waited for.
type ExitError = cbridge.ExitError

// codes are those of python/pyhook/_errors.py's HookContractError and
// HookLoadError, which tests keep in step; GroupError's are groupCodes.
var codes = map[string]error{
	"none_result": ErrNoneResult, "not_future": ErrNotFuture, "none_value": ErrNotTensor,
	"not_tensor": ErrNotTensor, "list_value": ErrNotTensor, "short": ErrShort, "sparse": ErrSparse,
	"meta": ErrMeta, "device": ErrDevice, "layout": ErrLayout, "complex": ErrComplex,
	"nonfinite": ErrNonFinite, "bad_spec": ErrBadSpec, "no_module": ErrNoModule, "no_file": ErrNoModule,
	"no_attribute": ErrNoAttribute, "not_callable": ErrNotCallable, "arity": ErrArity,
	"async": ErrNeverFuture, "generator": ErrNeverFuture, "import_failed": ErrImportFailed,
	"bad_arguments": ErrBadArguments, "not_done": ErrBadResult, "timeout": ErrFutureFailed,
	"collective": ErrCollective, "order": ErrOrder,
}

// HookError says what went wrong with a hook, where, and what to do.
type HookError struct {
	Hook   string // as it was loaded: "pkg.module.name"
	Rank   int    // of this process; -1 when it has none
	Bucket int    // -1 when no bucket is concerned
	Kind   error  // one of the Err variables
	Detail string // what was seen
	Hint   string // what to do
	Err    error  // the cause: a *PythonError, a context error; may be nil
	Stacks string // of an interrupted hook: where every Python thread was

	unfinished *Future // see Unfinished
}

// Unfinished returns the future of the collectives that a failed hook call had started and that
// may still write to its bucket, where that is known; else nil. Its value is nothing.
func (e *HookError) Unfinished() *Future { return e.unfinished }

func (e *HookError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "hook %s", e.Hook)
	if e.Rank >= 0 {
		fmt.Fprintf(&b, ", rank %d", e.Rank)
	}
	if e.Bucket >= 0 {
		fmt.Fprintf(&b, ", bucket %d", e.Bucket)
	}
	// Of an ended context the detail says it all.
	if e.Detail == "" || e.Kind != context.Canceled && e.Kind != context.DeadlineExceeded {
		fmt.Fprintf(&b, ": %v", e.Kind)
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Hint != "" {
		b.WriteString("\nhint: " + e.Hint)
	}
	return b.String()
}

// Format implements fmt.Formatter: %+v adds the Python traceback of the cause, as python prints
// it, and Stacks.
func (e *HookError) Format(s fmt.State, verb rune) {
	var python *PythonError
	traceback := ""
	if errors.As(e.Err, &python) {
		traceback = python.FullTraceback()
	}
	verbose.Format(s, verb, e.Error(), verbose.Detail{Title: "traceback:", Text: traceback},
		verbose.Detail{Title: "where every Python thread was:", Text: e.Stacks})
}

// Unwrap returns the kind and the cause.
func (e *HookError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// PythonError is a Python exception that crossed into Go.
type PythonError = cbridge.PythonError

// Exception names an exception type for errors.Is: what `except OSError` is in
// Python is errors.Is(err, pyhook.Exception("OSError")) in Go.
func Exception(qualifiedName string) *PythonError { return cbridge.Exception(qualifiedName) }

// DiscoveryError says that no usable Python was found, what was tried and why
// each was refused.
type DiscoveryError = cbridge.DiscoveryError
