package pyhook

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pyhook/c10d"
)

// FutureForms says in which form the futures of collectives hold their tensors, in a
// hook's body and callbacks. The backends differ: NCCL's future of an all_gather holds
// one tensor of all ranks, [tensor of (world, ...)], and gloo's the list of the outputs.
type FutureForms string

const (
	// FutureFormsBackend: as the group's own backend gives them; the default.
	FutureFormsBackend FutureForms = ""
	// FutureFormsNCCL: as NCCL gives them, on whatever backend: for hooks that were written for
	// it and index value() so. docs/hook-guide.md has the table; reduce_scatter, send
	// and receive have futures then also where gloo has none.
	FutureFormsNCCL FutureForms = "nccl"
)

// presentFutures makes what is called in place of the hook, which its configuration and
// its code decide.
func (h *PythonCommHook) presentFutures(forms FutureForms) (err error) {
	switch forms {
	case FutureFormsBackend:
		var uses any
		uses, err = h.rt.bridge.CallValue("uses_forms", h.hook, h.State())
		h.usesForms = uses == true
	case FutureFormsNCCL:
		h.ncclForms = true
	default:
		err = fmt.Errorf("HookConfig.Futures is %q: it may be pyhook.FutureFormsNCCL or left out", string(forms))
	}
	return cmp.Or(err, h.wrap())
}

// formTypes are the exceptions that code raises which indexes a future's value in the
// form of another backend.
var formTypes = []string{"IndexError", "TypeError", "AttributeError", "ValueError"}

const formsHint = "does it index the future of an all_gather (or another collective) as NCCL gives it, [tensor of all ranks], " +
	"where this backend gives [tensor, tensor, ...]? HookConfig.Futures: pyhook.FutureFormsNCCL gives it NCCL's forms here; " +
	"in the commands, --nccl-futures; in pyhook.testing, nccl_futures=True"

const stateHint = "the hook was given no state, so its first argument is None: give it one in HookConfig.State (Runtime.NewState makes it), " +
	"in the commands with --state"

// advise names the likely reason of an error that a hook raised, where that is how the
// hook was made.
func (h *PythonCommHook) advise(e *c10d.Error) *c10d.Error {
	otherForms := h.usesForms && h.rt.backend.Load() != "nccl"
	if otherForms && e.Code.Is(c10d.ErrShort) {
		e.Hint += "; or " + formsHint
		return e
	}
	var python *PythonError
	if !e.Code.Is(c10d.ErrRaised) && !e.Code.Is(c10d.ErrFutureFailed) || errors.Is(e, c10d.ErrPeer) || !errors.As(e.Err, &python) {
		return e
	}
	for ; python.Cause != nil; python = python.Cause { // the first of them
	}
	switch {
	case !slices.Contains(formTypes, python.Type):
	case h.stateless && strings.Contains(python.Message, "'NoneType'"):
		e.Hint = stateHint
	case otherForms:
		e.Hint = formsHint
	}
	return e
}
