package worker

import (
	"context"
	"errors"

	"pyhook/pyhook"
	"pyhook/tensor"
)

// remoteError is an error on its way from the worker to the trainer.
type remoteError struct {
	Text   string
	Kinds  []string
	Python *pyhook.PythonError
	Hook   *remoteHookError
}

type remoteHookError struct {
	Hook         string
	Rank, Bucket int
	Kind         string
	Detail, Hint string
}

// kinds are what errors.Is tells apart, and finds on this side too. They travel by
// their texts, which are all different.
var kinds = []error{
	pyhook.ErrRaised, pyhook.ErrInterrupted, pyhook.ErrSparseGradient, pyhook.ErrNotFuture, pyhook.ErrNoneResult, pyhook.ErrFutureFailed, pyhook.ErrBadResult,
	pyhook.ErrNotTensor, pyhook.ErrShort, pyhook.ErrSparse, pyhook.ErrMeta, pyhook.ErrDevice, pyhook.ErrLayout,
	pyhook.ErrComplex, pyhook.ErrNonFinite, pyhook.ErrBucket, pyhook.ErrLoad, pyhook.ErrBadSpec, pyhook.ErrNoModule,
	pyhook.ErrNoAttribute, pyhook.ErrNotCallable, pyhook.ErrArity, pyhook.ErrImportFailed, pyhook.ErrBadArguments,
	pyhook.ErrNeverFuture, pyhook.ErrCollective, pyhook.ErrOrder, pyhook.ErrGroup, pyhook.ErrPeer, pyhook.ErrJoinTimeout, pyhook.ErrRank, pyhook.ErrWorldSize,
	pyhook.ErrAddress, pyhook.ErrPortInUse, pyhook.ErrNotAStore, pyhook.ErrOutOfStep, pyhook.ErrTorchVersion, pyhook.ErrClosed, pyhook.ErrRunning, pyhook.ErrExitTimeout, pyhook.ErrState, pyhook.ErrStateUnsafe,
	pyhook.ErrStateCorrupt, pyhook.ErrStateVersion, pyhook.ErrStateClass, pyhook.ErrStateRank, pyhook.ErrStateBuckets, tensor.ErrClosed,
	context.Canceled, context.DeadlineExceeded,
}

// kindNamed returns the kind with a text, or nil.
func kindNamed(text string) error {
	for _, kind := range kinds {
		if kind.Error() == text {
			return kind
		}
	}
	return nil
}

// remote makes err ready to travel; nil stays nil.
func remote(err error) *remoteError {
	if err == nil {
		return nil
	}
	r := &remoteError{Text: err.Error()}
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			r.Kinds = append(r.Kinds, kind.Error())
		}
	}
	errors.As(err, &r.Python)
	var hook *pyhook.HookError
	if errors.As(err, &hook) {
		r.Hook = &remoteHookError{hook.Hook, hook.Rank, hook.Bucket, hook.Kind.Error(), hook.Detail, hook.Hint}
	}
	return r
}

// local makes the error that remote was given, as far as it can be told apart.
func (r *remoteError) local() error {
	if r == nil {
		return nil
	}
	plain := &pyhookError{text: r.Text}
	for _, name := range r.Kinds {
		plain.kinds = append(plain.kinds, kindNamed(name))
	}
	kinds := plain.kinds
	if r.Python != nil {
		plain.kinds = append(plain.kinds, r.Python)
	}
	if r.Hook == nil {
		return plain
	}
	kind := kindNamed(r.Hook.Kind)
	if kind == nil { // of several, as where a hook raised since a peer is gone
		kind = &pyhookError{text: r.Hook.Kind, kinds: kinds}
	}
	e := &pyhook.HookError{Hook: r.Hook.Hook, Rank: r.Hook.Rank, Bucket: r.Hook.Bucket, Kind: kind, Detail: r.Hook.Detail, Hint: r.Hook.Hint, Err: plain}
	if r.Python != nil {
		e.Err = r.Python
	}
	return e
}
