package pyhook

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pyhook/internal/ctxerr"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// SparseCommHook is a CommHook that also reduces sparse gradients.
type SparseCommHook interface {
	CommHook
	// RunSparseHook is RunHook for a sparse bucket, which must stay open until the
	// future is done and its value read. Hooks may change the gradient in place.
	RunSparseHook(ctx context.Context, b *SparseGradBucket) (*Future, error)
	// ParseSparseHookResult makes the reduced gradient of the value of a future of
	// b: each place once, sorted. The caller closes it.
	ParseSparseHookResult(b *SparseGradBucket, v Value) (*SparseGradient, error)
}

// ChainedSparseHook is to SparseCommHook what ChainedHook is to CommHook.
type ChainedSparseHook interface {
	SparseCommHook
	RunSparseHookChained(ctx context.Context, b *SparseGradBucket) (*Future, Chain, error)
}

// sparseHint is for a hook that fails on a sparse bucket by itself.
const sparseHint = "the bucket's buffer is a sparse gradient (bucket.buffer().is_sparse), which this hook or this torch cannot do that with: " +
	"use a hook that does (allreduce, post_localsgd), let the hook treat sparse buckets apart, or make the parameter's gradient dense"

// RunSparseHook calls hook(state, bucket) with a bucket whose buffer is a torch
// sparse COO tensor over the gradient's own memory. The error is a *HookError:
// as RunHook's, or ErrSparse for hooks that are known to leave sparse gradients
// unreduced (PowerSGD's, which PyTorch lets do so in silence).
func (h *PythonCommHook) RunSparseHook(ctx context.Context, b *SparseGradBucket) (*Future, error) {
	return h.runSparse(ctx, b, h.callable())
}

// RunSparseHookChained: see ChainedSparseHook.
func (h *PythonCommHook) RunSparseHookChained(ctx context.Context, b *SparseGradBucket) (*Future, Chain, error) {
	object, err := h.rt.tools.newChain.Invoke([]any{h.callable()}, nil)
	if err != nil {
		return nil, nil, h.failAt(b.index, ErrClosed, err)
	}
	future, err := h.runSparse(ctx, b, object)
	return h.chained(&chain{hook: h, object: object, bucket: b.index, future: future}, err)
}

// runSparse calls hook, which is h.callable() or a chain around it.
func (h *PythonCommHook) runSparse(ctx context.Context, b *SparseGradBucket, hook *Object) (*Future, error) {
	if err := ctx.Err(); err != nil {
		return nil, h.failAt(b.index, err, ctxerr.While(ctx, notCalled))
	}
	if err := b.forPython(h.rt); err != nil {
		return nil, h.failAt(b.index, ErrBucket, err)
	}
	var future *Object
	var err error
	stacks, interrupted := h.rt.interpreter.Interruptible(ctx, func() { future, err = h.rt.bridge.Call("run_sparse_hook", hook, h.state, b.layout) })
	if interrupted && isInterrupted(err) {
		return nil, h.interrupted(ctx, b.index, stacks, err)
	}
	if err != nil {
		return nil, h.failSparse(b, ErrRaised, err)
	}
	return h.rt.watch(future, func(err error) error { return h.failSparse(b, ErrFutureFailed, err) })
}

func (b *SparseGradBucket) forPython(rt *Runtime) error {
	if b.layout != nil {
		return nil
	}
	parameter, err := b.parameter.forPython(b.gradient.Values.Device())
	if err != nil {
		return fmt.Errorf("parameter %s: %w", b.parameter.Name, err)
	}
	b.layout, err = rt.bridge.Call("sparse_layout", b.gradient.Indices, b.gradient.Values, b.parameter.Shape, b.index, b.count, b.parameter.Name, parameter)
	return err
}

// failSparse gives errors that torch or the hook raised a hint about sparse
// buckets, where they have none of their own.
func (h *PythonCommHook) failSparse(b *SparseGradBucket, kind, err error) error {
	e := h.advise(hookError(h.name, h.rt.Rank(), b.index, kind, err))
	var python *PythonError
	if (errors.Is(e.Kind, ErrRaised) || errors.Is(e.Kind, ErrFutureFailed)) && errors.As(err, &python) && strings.Contains(strings.ToLower(e.Detail), "sparse") {
		e.Hint = sparseHint
	}
	return e
}

// ParseSparseHookResult: see SparseCommHook. It shares no memory with b. Dense
// results, ones of another shape and other things are refused with a *HookError
// (ErrBadResult), before any gradient is touched.
func (h *PythonCommHook) ParseSparseHookResult(b *SparseGradBucket, v Value) (*SparseGradient, error) {
	if v.Object() == nil || b.layout == nil {
		return nil, h.failAt(b.index, ErrBadResult, errors.New("not the value of a future of a call of this hook with this bucket"))
	}
	parts, err := h.rt.bridge.Call("sparse_parts", v.Object(), b.layout)
	if err != nil {
		return nil, h.failAt(b.index, kindOf(v.Object()), err)
	}
	defer parts.Close()
	h.legacy.note(b.layout)
	tensor := func(i int) (*tensor.Tensor, error) {
		part, err := parts.Call("__getitem__", i)
		if err != nil {
			return nil, err
		}
		defer part.Close()
		return tensorconv.FromPython(part)
	}
	indices, err := tensor(0)
	if err != nil {
		return nil, h.failAt(b.index, ErrLayout, err)
	}
	values, err := tensor(1)
	if err != nil {
		indices.Close()
		return nil, h.failAt(b.index, ErrLayout, err)
	}
	return &SparseGradient{indices, values}, nil
}

// RunSparseHook: see SparseCommHook. AverageSparse says for what.
func (h *AllReduceCommHook) RunSparseHook(ctx context.Context, b *SparseGradBucket) (*Future, error) {
	fail := func(err error) error {
		e := hookError("AllReduceCommHook", h.Group.Rank(), b.index, ErrRaised, err)
		e.Detail = err.Error()
		return e
	}
	future, err := AverageSparse(ctx, h.Group, b.parameter, b.gradient)
	if err != nil {
		return nil, fail(err)
	}
	future.label(fail)
	return future, nil
}

// ParseSparseHookResult: see SparseCommHook.
func (h *AllReduceCommHook) ParseSparseHookResult(_ *SparseGradBucket, v Value) (*SparseGradient, error) {
	return NativeSparseResult(v)
}

// NativeSparseResult is ParseSparseHookResult for hooks whose futures hold
// Value.Sparse.
func NativeSparseResult(v Value) (*SparseGradient, error) {
	if v.Sparse() == nil {
		return nil, &HookError{Hook: "Go hook", Rank: -1, Bucket: -1, Kind: ErrNotTensor, Detail: "the future holds no Go sparse gradient"}
	}
	return v.Sparse().views()
}

var (
	_ ChainedSparseHook = (*PythonCommHook)(nil)
	_ SparseCommHook    = (*AllReduceCommHook)(nil)
)
