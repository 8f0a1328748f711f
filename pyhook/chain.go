package pyhook

import (
	"context"
	"errors"

	"pyhook/cbridge"
)

// ChainedHook is a hook whose callbacks run when its caller says so: a call's before
// the next call, as on NCCL, or in another order that is the same on every rank, so
// that buckets overlap where callbacks in gloo's order would mix up the ranks.
type ChainedHook interface {
	CommHook
	// RunHookChained is RunHook, but nothing of the call's futures completes
	// before the Chain is advanced (or the hook itself waits for it).
	RunHookChained(ctx context.Context, b *GradBucket) (*Future, Chain, error)
}

// IndependentHook is a ChainedHook that knows whether it bears the latter.
type IndependentHook interface {
	ChainedHook
	// Independent says whether callbacks of the hook use nothing that its call for
	// another bucket changes, so that this may come before them. An error is that the
	// hook says it in a way that is not known.
	Independent() (bool, error)
}

// Chain is the collectives of one hook call, level by level: level 0 are those
// that the call itself issued, level 1 those of their callbacks, and so on. One
// goroutine at a time; every rank must advance its chains in the same order.
type Chain interface {
	// Advance waits for the collectives of the current level and runs their
	// callbacks, in order, on the calling goroutine. It returns whether those
	// issued more. Failures go to the hook's future; the error is the
	// context's, ErrClosed, or, when there are no more, ErrCollective.
	Advance(ctx context.Context) (more bool, err error)
	// Close drops the chain. Idempotent.
	Close()
}

// chain is python/pyhook/_ordered.py's Chain.
type chain struct {
	hook   *PythonCommHook
	object *Object
	bucket int
}

// RunHookChained: see ChainedHook.
func (h *PythonCommHook) RunHookChained(ctx context.Context, b *GradBucket) (*Future, Chain, error) {
	object, err := h.rt.tools.newChain.Invoke([]any{h.callable()}, nil)
	if err != nil {
		return nil, nil, h.fail(b, ErrClosed, err)
	}
	future, err := h.run(ctx, b, object)
	if err != nil {
		object.Close()
		return nil, nil, err
	}
	return future, &chain{hook: h, object: object, bucket: b.Index()}, nil
}

// Independent says so of those of PyTorch's hooks that were proven to be
// (python/pyhook/_order.py has the list), of PyTorch's compression wrappers around one,
// and of a hook whose attribute pyhook_order is "ordered". The error is ErrOrder.
func (h *PythonCommHook) Independent() (bool, error) {
	order, err := h.rt.bridge.CallValue("hook_order", h.hook)
	if err != nil {
		return false, h.failAt(-1, ErrOrder, err)
	}
	return order == "ordered", nil
}

// Drain waits for the collectives of the current level, and runs no callbacks:
// after it, and Close, none of the call's writes to its bucket any more. While they
// are under way nothing of Python is held, so that ctx can end the wait.
func (c *chain) Drain(ctx context.Context) error {
	for { // one that fails ends the wait before the others are done
		unfinished, err := c.object.Call("unfinished")
		if err != nil {
			return c.fail(err)
		}
		if unfinished.IsNone() {
			unfinished.Close()
			return nil
		}
		if err := c.wait(ctx, unfinished); err != nil {
			return err
		}
	}
}

// Advance: see Chain.
func (c *chain) Advance(ctx context.Context) (bool, error) {
	if err := c.Drain(ctx); err != nil {
		return false, err
	}
	var more any
	var err error
	c.hook.rt.interpreter.Interruptible(ctx, func() { more, err = c.object.CallValue("advance") })
	if err != nil {
		return false, c.fail(err)
	}
	return more == true, nil
}

// wait waits for a real future; an error of that is left to the hook's future.
func (c *chain) wait(ctx context.Context, object *Object) error {
	future, err := c.hook.rt.watch(object, c.fail)
	if err != nil {
		return err
	}
	defer future.Close()
	_, err = c.hook.rt.wait(ctx, future)
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return c.fail(err)
	}
	return nil
}

func (c *chain) fail(err error) error {
	if errors.Is(err, cbridge.ErrObjectClosed) {
		return c.hook.failAt(c.bucket, ErrClosed, err)
	}
	return c.hook.failAt(c.bucket, ErrFutureFailed, err)
}

// Close: see Chain.
func (c *chain) Close() { c.object.Close() }

var _ IndependentHook = (*PythonCommHook)(nil)
