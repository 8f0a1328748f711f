package pyhook

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"pyhook/cbridge"
	"pyhook/tensor"
)

// hookError makes a HookError of err, mostly what Python raised. kind serves
// errors that do not say their kind themselves.
func hookError(hook string, rank, bucket int, kind error, err error) *HookError {
	e := &HookError{Hook: hook, Rank: rank, Bucket: bucket, Kind: kind, Detail: err.Error(), Err: err}
	var python *PythonError
	switch {
	case !errors.As(err, &python):
		e.Kind = goKind(err, kind)
	case strings.HasPrefix(python.Type, "pyhook.") && python.Fields["code"] != "":
		e.Kind = codeKind(python, kind)
		e.Detail, e.Hint = python.Fields["message"], python.Fields["hint"]
		if errors.Is(e.Kind, ErrCollective) && isPeer(python) {
			e.Kind, e.Hint = fmt.Errorf("%w: %w", e.Kind, ErrPeer), peerHint
		}
	default:
		nameOrigin(python)
		e.Detail = python.Error()
		if isPeer(python) {
			e.Kind, e.Hint = fmt.Errorf("%w: %w", kind, ErrPeer), peerHint
		}
	}
	if e.Hint == "" {
		e.Hint = hintFor(e.Kind, e.Detail)
	}
	return e
}

// goKind is the kind of an error of the Go side.
func goKind(err, kind error) error {
	for _, closed := range []error{ErrClosed, cbridge.ErrObjectClosed, cbridge.ErrClosed, tensor.ErrClosed} {
		if errors.Is(err, closed) {
			return ErrClosed
		}
	}
	for _, ended := range []error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, ended) {
			return ended
		}
	}
	return kind
}

func codeKind(e *PythonError, kind error) error {
	if strings.HasSuffix(e.Type, ".GroupError") {
		return groupKind(e)
	}
	if known, ok := codes[e.Fields["code"]]; ok {
		return known
	}
	return kind
}

const callbackPrefix = "Got the following error when running the callback: "

var callbackText = regexp.MustCompile(`(?s)^([A-Za-z_][\w.]*): ?(.*)$`)

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

// nameOrigin makes the exception that was raised in a `then` callback the cause
// of the RuntimeError that PyTorch makes of it: of the original only text is
// left (torch/csrc/jit/python/pybind_utils.h, PythonFutureWrapper::then), once
// for each `then` on the way. As _contract.py's callback_origin.
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

// invalidScalarType is what gloo says of a dtype that it was built without.
const invalidScalarType = "Invalid scalar type"

const dtypeHint = "this build of the backend cannot all-reduce that dtype: " +
	"run `pyhook doctor`, which lists those that it can"

// notCalled begins the detail where the context had ended before the call.
const notCalled = "not called"

// notResizable is what torch says where a hook resizes its buffer.
const notResizable = "resize storage that is not resizable"

const resizeHint = "the hook makes its buffer larger, and torch cannot resize memory that is not its own: " +
	"give the bucket a buffer of tensor.New, which has some room, or let the hook work on a clone"

// usableAgain says what a failed call leaves. A next step works in a world of one rank only: of
// several, others may wait in the collectives of this one.
const usableAgain = "a lone rank may call the hook again; of several ranks, others may wait in this call's collectives"

// hintFor is for errors that come without a hint.
func hintFor(kind error, detail string) string {
	if strings.Contains(detail, invalidScalarType) {
		return dtypeHint
	}
	if strings.Contains(detail, notResizable) {
		return resizeHint
	}
	if strings.HasPrefix(detail, notCalled) {
		return "nothing was started: call it with a context that has not ended"
	}
	for _, h := range []struct {
		kind error
		hint string
	}{
		{ErrRaised, "%+v of the error prints the traceback; " + usableAgain},
		{ErrInterrupted, "the context of the call ended while a callback ran; " + usableAgain},
		{ErrFutureFailed, "look at the hook's callbacks (%+v of the error prints the traceback); " + usableAgain},
		{ErrCollective, "let the hook see it: wait() for the work, or read fut.value() in each callback of its future"},
		{ErrOrder, "set it to \"ordered\" where callbacks use nothing that a call for another bucket changes, else leave it out"},
		{ErrClosed, "close it after the last future of its calls is done"},
		{context.Canceled, "what was started goes on; the future can be waited for again"},
		{context.DeadlineExceeded, "did all ranks call the hook? What was started goes on; the future can be waited for again"},
		{ErrNonFinite, "look for a division by zero or an overflow, in fp16 perhaps, in the hook and before it"},
		{ErrMeta, "return a tensor with data, on the bucket's device"},
		{ErrLayout, "return a plain tensor: .contiguous() or .clone() makes one"},
		{ErrBadResult, "the value must be the reduced flat tensor"},
		{ErrNotFuture, "a hook returns a torch.futures.Future of the reduced flat tensor"},
		{ErrBucket, "give the bucket a dtype and a device that this torch has (`pyhook doctor` lists them), and parts that fit each other"},
		{ErrGroup, "run `pyhook doctor`, which tries what torch.distributed can do here"},
		{ErrLoad, "the error's PythonError has the traceback"},
	} {
		if errors.Is(kind, h.kind) {
			return h.hint
		}
	}
	return ""
}
