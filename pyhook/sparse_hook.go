package pyhook

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pyhook/c10d"
	"pyhook/internal/ctxerr"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// sparseHint is for a hook that fails on a sparse bucket by itself.
const sparseHint = "the bucket's buffer is a sparse gradient (bucket.buffer().is_sparse), which this hook or this torch cannot do that with: " +
	"use a hook that does (allreduce, post_localsgd), let the hook treat sparse buckets apart, or make the parameter's gradient dense"

// runSparse calls hook, which is h.callable or a chain around it, with a bucket whose buffer is a
// torch sparse COO tensor over the gradient's own memory.
func (h *PythonCommHook) runSparse(ctx context.Context, b *c10d.GradBucket, hook *Object) (*c10d.Future[c10d.Result], error) {
	if err := ctx.Err(); err != nil {
		return nil, h.failAt(b.Index(), contextCode(ctx), ctxerr.While(ctx, notCalled))
	}
	layout, err := sparseLayout(h.rt, b)
	if err != nil {
		return nil, h.failAt(b.Index(), c10d.ErrBucket, err)
	}
	var future *Object
	stacks, interrupted := h.rt.interpreter.Interruptible(ctx, func() { future, err = h.rt.bridge.Call("run_sparse_hook", hook, h.State(), layout) })
	if interrupted && isInterrupted(err) {
		return nil, h.interrupted(ctx, b.Index(), stacks, err)
	}
	if err != nil {
		return nil, h.failSparse(b, c10d.ErrRaised, err)
	}
	return h.rt.newFuture(future, func(err error) error { return h.failSparse(b, c10d.ErrFutureFailed, err) })
}

// sparseLayout returns the Python object of a sparse bucket, a pyhook._runtime.bucket.BucketLayout. It
// belongs to the bucket.
func sparseLayout(rt *Runtime, b *c10d.GradBucket) (*Object, error) {
	object, err := b.Attach(pythonKey, func() (c10d.Attachment, error) {
		p, g := b.Parameters()[0], b.Sparse()
		parameter, err := pythonParameter(p, g.Values.Device())
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", p.Name, err)
		}
		return rt.bridge.Call("sparse_layout", g.Indices, g.Values, p.Shape, b.Index(), b.Count(), parameter)
	})
	if err != nil {
		return nil, err
	}
	return object.(*Object), nil
}

// failSparse gives errors that torch or the hook raised a hint about sparse
// buckets, where they have none of their own.
func (h *PythonCommHook) failSparse(b *c10d.GradBucket, code c10d.Code, err error) error {
	e := h.advise(hookError(h.name, h.rt.Rank(), b.Index(), code, err))
	var python *PythonError
	if (e.Code.Is(c10d.ErrRaised) || e.Code.Is(c10d.ErrFutureFailed)) && errors.As(err, &python) && strings.Contains(strings.ToLower(e.Detail), "sparse") {
		e.Hint = sparseHint
	}
	return e
}

// ParseSparseHookResult: see c10d.SparseHook. It shares no memory with b. Dense
// results, ones of another shape and other things are refused with a *c10d.Error
// (c10d.ErrBadResult), before any gradient is touched.
func (h *PythonCommHook) ParseSparseHookResult(b *c10d.GradBucket, r c10d.Result) (*c10d.SparseGradient, error) {
	result, ok := r.(*pythonResult)
	if !ok || b.Sparse() == nil {
		return nil, h.failAt(b.Index(), c10d.ErrBadResult, errors.New("not the value of a future of a call of this hook with this bucket"))
	}
	layout, err := sparseLayout(h.rt, b)
	if err != nil {
		return nil, h.failAt(b.Index(), c10d.ErrClosed, err)
	}
	parts, err := h.rt.bridge.Call("sparse_parts", result.object, layout)
	if err != nil {
		return nil, h.failAt(b.Index(), codeOfValue(result.object), err)
	}
	defer parts.Close()
	h.legacy.note(layout)
	part := func(i int) (*tensor.Tensor, error) {
		item, err := parts.Call("__getitem__", i)
		if err != nil {
			return nil, err
		}
		defer item.Close()
		return tensorconv.FromPython(item)
	}
	indices, err := part(0)
	if err != nil {
		return nil, h.failAt(b.Index(), c10d.ErrLayout, err)
	}
	values, err := part(1)
	if err != nil {
		indices.Close()
		return nil, h.failAt(b.Index(), c10d.ErrLayout, err)
	}
	return &c10d.SparseGradient{Indices: indices, Values: values}, nil
}

var _ c10d.SparseHook = (*PythonCommHook)(nil)
