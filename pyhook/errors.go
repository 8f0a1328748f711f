package pyhook

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"pyhook/c10d"
	"pyhook/cbridge"
)

// ErrRunning: the process has a Runtime already; share it.
var ErrRunning = cbridge.ErrRunning

// ErrExitTimeout: Python's end took longer than Config.ExitWait: see ExitError.
var ErrExitTimeout = cbridge.ErrExitTimeout

// ExitError is Runtime.Close's error when Python did not come to its end in time: it names what was
// waited for.
type ExitError = cbridge.ExitError

// PythonError is a Python exception that crossed into Go.
type PythonError = cbridge.PythonError

// Exception names an exception type for errors.Is: what `except OSError` is in Python is
// errors.Is(err, pyhook.Exception("OSError")) in Go.
func Exception(qualifiedName string) *PythonError { return cbridge.Exception(qualifiedName) }

// DiscoveryError says that no usable Python was found, what was tried and why each was refused.
type DiscoveryError = cbridge.DiscoveryError

// hookError wraps err, mostly a Python exception, as the error of a hook. code is for an err that
// has no code of its own.
func hookError(hook string, rank, bucket int, code c10d.Code, err error) *c10d.Error {
	return newError("hook "+hook, rank, bucket, code, err)
}

// groupError wraps err as the error of an operation on a process group.
func groupError(op string, rank int, err error) error {
	e := newError(op, rank, -1, c10d.ErrGroup, err)
	if !e.Code.Is(c10d.ErrGroup) { // a context's end, or Close
		e.Code, e.Also = c10d.ErrGroup, append(e.Also, e.Code)
	}
	if e.Code == c10d.ErrGroup && len(e.Also) > 0 || e.Hint == c10d.ErrGroup.Hint() {
		e.Hint = ""
	}
	return e
}

// newError makes an error of err: its code, detail and hint are those that Python's exception has,
// if it is pyhook's own, and else those that follow from err.
func newError(op string, rank, bucket int, code c10d.Code, err error) *c10d.Error {
	e := &c10d.Error{Op: op, Rank: rank, Bucket: bucket, Code: code, Detail: err.Error(), Err: err}
	var python *PythonError
	var interrupted *interruptedError
	switch {
	case errors.As(err, &interrupted):
		e.Code, e.Also = c10d.ErrInterrupted, []c10d.Code{c10d.ContextCode(interrupted.err)}
		e.Detail, e.Hint, e.Stacks = interrupted.err.Cause().Error(), interruptedHint, interrupted.stacks
	case errors.Is(err, cbridge.ErrObjectClosed), errors.Is(err, cbridge.ErrClosed):
		e.Code = c10d.ErrClosed
	case !errors.As(err, &python):
		e = c10d.NewError(op, rank, bucket, code, err)
	case strings.HasPrefix(python.Type, "pyhook.") && python.Fields["code"] != "":
		switch own := c10d.Code(python.Fields["code"]); {
		case !own.Known():
		case (code == c10d.ErrRaised || code == c10d.ErrFutureFailed) && !isContract(python):
			e.Also = []c10d.Code{own} // the hook raised it: that comes first
		default:
			e.Code = own
		}
		e.Detail, e.Hint = python.Fields["message"], python.Fields["hint"]
		if e.Code == c10d.ErrCollective && isPeer(python) {
			e.Also, e.Hint = []c10d.Code{c10d.ErrPeer}, c10d.ErrPeer.Hint()
		}
	default:
		nameOrigin(python)
		e.Detail = python.Error()
		switch {
		case !isPeer(python):
		case code == c10d.ErrGroup:
			e.Code = c10d.ErrPeer
		default:
			e.Also, e.Hint = []c10d.Code{c10d.ErrPeer}, c10d.ErrPeer.Hint()
		}
	}
	if e.Hint == "" {
		e.Hint = hintFor(e.Code, e.Detail)
	}
	return e
}

// isContract reports whether an exception is about what a hook did, and not one that a hook raised.
func isContract(python *PythonError) bool {
	return strings.HasSuffix(python.Type, ".HookContractError") || strings.HasSuffix(python.Type, ".HookLoadError")
}

// notCalled begins the detail where the context had ended before the call.
const notCalled = "not called"

// notResizable is what torch says where a hook resizes its buffer.
const notResizable = "resize storage that is not resizable"

const resizeHint = "the hook makes its buffer larger, and torch cannot resize memory that is not its own: " +
	"give the bucket a buffer of tensor.New, which has some capacity, or let the hook work on a clone"

// hintFor is for errors that come without a hint.
func hintFor(code c10d.Code, detail string) string {
	switch {
	case strings.Contains(detail, invalidScalarType):
		return dtypeHint
	case strings.Contains(detail, notResizable):
		return resizeHint
	case strings.HasPrefix(detail, notCalled):
		return "nothing was started: call it with a context that has not ended"
	}
	return code.Hint()
}

// contextCode is the code of a context that has ended.
func contextCode(ctx context.Context) c10d.Code { return c10d.ContextCode(ctx.Err()) }

const callbackPrefix = "Got the following error when running the callback: "

var callbackText = regexp.MustCompile(`(?s)^([A-Za-z_][\w.]*): ?(.*)$`)

// nameOrigin makes the exception that was raised in a `then` callback the cause of the RuntimeError
// that PyTorch makes of it: of the original only text is left (torch/csrc/jit/python/pybind_utils.h,
// PythonFutureWrapper::then), once for each `then` on the way. As _runtime/contract.py's callback_origin.
func nameOrigin(e *PythonError) {
	start := strings.LastIndex(e.Message, callbackPrefix)
	if e.Type != "RuntimeError" || start < 0 || e.Cause != nil {
		return
	}
	if brief := withoutTensors(e.Message); brief != e.Message {
		e.Traceback = strings.ReplaceAll(e.Traceback, e.Message, brief)
		e.Message, start = brief, strings.LastIndex(brief, callbackPrefix)
	}
	body, frames, _ := strings.Cut(e.Message[start+len(callbackPrefix):], "\n\nAt:\n")
	if parts := callbackText.FindStringSubmatch(body); parts != nil {
		e.Cause = &PythonError{Type: parts[1], Message: parts[2], Traceback: frames}
	}
}

// keyErrorText is a KeyError, as PyTorch has printed it.
var keyErrorText = regexp.MustCompile(`(?s)KeyError: .*?(\n\nAt:|$)`)

// withoutTensors leaves out the elements of tensors that were keys and not found.
func withoutTensors(text string) string {
	return keyErrorText.ReplaceAllStringFunc(text, func(part string) string {
		var b strings.Builder
		for {
			before, rest, found := strings.Cut(part, "tensor(")
			b.WriteString(before)
			if !found {
				return b.String()
			}
			b.WriteString("<a tensor>")
			open, end := 1, 0
			for ; end < len(rest) && open > 0; end++ {
				switch rest[end] {
				case '(':
					open++
				case ')':
					open--
				}
			}
			part = rest[end:]
		}
	})
}
