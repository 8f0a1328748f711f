package pyhook

import (
	"context"
	"errors"
	"sync"

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
	// Close drops the chain. What is not advanced to its end fails with ErrClosed, without its
	// callbacks, when the collectives that are under way have ended. Idempotent.
	Close()
}

// chain is python/pyhook/_ordered.py's Chain.
type chain struct {
	hook   *PythonCommHook
	object *Object
	bucket int
	future *Future // the call's; nil if it failed
	ended  bool    // Advance has said that there is no more
	cut    bool    // a callback was interrupted
	once   sync.Once
	left   *Future // see Unfinished
}

// RunHookChained: see ChainedHook.
func (h *PythonCommHook) RunHookChained(ctx context.Context, b *GradBucket) (*Future, Chain, error) {
	object, err := h.rt.tools.newChain.Invoke([]any{h.callable()}, nil)
	if err != nil {
		return nil, nil, h.fail(b, ErrClosed, err)
	}
	future, err := h.run(ctx, b, object)
	return h.chained(&chain{hook: h, object: object, bucket: b.Index(), future: future}, err)
}

// errCut is of a future of the hook's own that an interrupted callback would have completed.
var errCut = errors.New("a callback was interrupted, and the hook's future is not done")

// chained returns the results of a chained call. What a call that failed had started is given up.
func (h *PythonCommHook) chained(c *chain, err error) (*Future, Chain, error) {
	if err == nil {
		return c.future, c, nil
	}
	c.Close()
	var failed *HookError
	if errors.As(err, &failed) {
		failed.unfinished = c.left
	}
	return nil, nil, err
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
	stacks, interrupted := c.hook.rt.interpreter.Interruptible(ctx, func() { more, err = c.object.CallValue("advance") })
	if interrupted {
		failed := interruption(c.future, err)
		if failed == nil && err == nil && more != true && !c.future.completed.Load() {
			failed = errCut
		}
		if failed != nil {
			c.cut = true
			return false, c.hook.interrupted(ctx, c.bucket, stacks, failed)
		}
	}
	if err != nil {
		return false, c.fail(err)
	}
	c.ended = more != true
	return !c.ended, nil
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

// Close: see Chain. Futures that no Advance has completed fail, without their callbacks, when
// their collectives have ended; so does the call's own future.
func (c *chain) Close() { c.once.Do(c.giveUp) }

// Unfinished returns, after Close, the future of the collectives that it gave up and that may
// still write to the bucket; nil: there are none.
func (c *chain) Unfinished() *Future { return c.left }

func (c *chain) giveUp() {
	defer c.object.Close()
	if c.ended {
		return
	}
	finished, err := c.object.Call("give_up")
	if err != nil {
		return // Python is closed, and has abandoned all futures
	}
	if finished.IsNone() {
		finished.Close()
		if c.cut {
			c.abandon()
		}
		return
	}
	left, err := c.hook.rt.watch(finished, c.fail)
	if err != nil {
		return
	}
	if left.completed.Load() {
		left.Close()
		c.abandon()
		return
	}
	c.left = left
	left.onDone(func(Value, error) {
		left.Close()
		c.abandon()
	})
}

// abandon ends a future of the hook's own, which only a callback would have completed.
func (c *chain) abandon() {
	if f := c.future; f != nil && f.source != nil && !f.completed.Load() {
		f.source.abandon()
	}
}

var _ IndependentHook = (*PythonCommHook)(nil)
