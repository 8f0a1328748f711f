package pyhook

import (
	"context"
	"errors"
	"sync"

	"pyhook/c10d"
	"pyhook/cbridge"
)

// chain is a c10d.Chain over a Chain of python/pyhook/_runtime/chain.py.
type chain struct {
	hook   *PythonCommHook
	object *Object
	bucket int
	future *c10d.Future[c10d.Result] // the call's; nil if it failed
	ended  bool                      // Advance returned false
	cut    bool                      // a callback was interrupted
	once   sync.Once
	left   *c10d.Future[c10d.Result] // see Unfinished
}

// RunHookChained: see c10d.ChainedHook.
func (h *PythonCommHook) RunHookChained(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], c10d.Chain, error) {
	kwargs, err := h.chainOptions(b)
	if err != nil {
		return nil, nil, h.fail(b, c10d.ErrBucket, err)
	}
	object, err := h.rt.torchAPI.newChain.Invoke([]any{h.callable}, kwargs)
	if err != nil {
		return nil, nil, h.fail(b, c10d.ErrClosed, err)
	}
	future, err := h.run(ctx, b, object)
	return h.chained(&chain{hook: h, object: object, bucket: b.Index(), future: future}, err)
}

// chainOptions gives the chain the stream of a bucket on a device.
func (h *PythonCommHook) chainOptions(b *c10d.GradBucket) (map[string]any, error) {
	if b.Buffer() == nil || b.Buffer().Device().IsCPU() {
		return nil, nil
	}
	python, _, err := pythonBucketOf(h.rt.torchAPI, b)
	if err != nil {
		return nil, err
	}
	defer python.release()
	return map[string]any{"on_stream": python.stream.object}, nil
}

// errCut is the error of a call whose interrupted callback would have completed the hook's future.
var errCut = errors.New("a callback was interrupted, and the hook's future is not done")

// chained returns the results of a chained call. It closes the chain of a call that failed.
func (h *PythonCommHook) chained(c *chain, err error) (*c10d.Future[c10d.Result], c10d.Chain, error) {
	if err == nil {
		return c.future, c, nil
	}
	c.Close()
	var failed *c10d.Error
	if errors.As(err, &failed) {
		failed.Unfinished = c.left
	}
	return nil, nil, err
}

// Independent returns true for those of PyTorch's hooks that were proven to be independent
// (python/pyhook/_runtime/order.py has the list), for PyTorch's compression wrappers around one,
// and for a hook whose attribute pyhook_order is "ordered". The error is c10d.ErrOrder.
func (h *PythonCommHook) Independent() (bool, error) {
	order, err := h.rt.bridge.CallValue("hook_order", h.hook)
	if err != nil {
		return false, h.failAt(-1, c10d.ErrOrder, err)
	}
	return order == "ordered", nil
}

// Drain waits for the collectives of the current level and runs no callbacks. After it and
// Close no collective of the call writes to the bucket any more. It waits without the GIL, so
// that ctx can end the wait.
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

// Advance: see c10d.Chain.
func (c *chain) Advance(ctx context.Context) (bool, error) {
	if err := c.Drain(ctx); err != nil {
		return false, err
	}
	var more any
	var err error
	stacks, interrupted := c.hook.rt.interpreter.Interruptible(ctx, func() { more, err = c.object.CallValue("advance") })
	if interrupted {
		failed := interruption(c.future, err)
		if failed == nil && err == nil && more != true && !c.future.IsDone() {
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

// wait waits for a torch future. It returns the context's error only: the future's own error
// goes to the hook's future.
func (c *chain) wait(ctx context.Context, object *Object) error {
	future, err := c.hook.rt.newFuture(object, c.fail)
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
		return c.hook.failAt(c.bucket, c10d.ErrClosed, err)
	}
	return c.hook.failAt(c.bucket, c10d.ErrFutureFailed, err)
}

// Close: see c10d.Chain. Futures that no Advance has completed fail, without their callbacks, when
// their collectives have ended; so does the call's own future.
func (c *chain) Close() { c.once.Do(c.giveUp) }

// Unfinished returns, after Close, the future of the collectives that it gave up and that may
// still write to the bucket; nil: there are none.
func (c *chain) Unfinished() *c10d.Future[c10d.Result] { return c.left }

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
	left, err := c.hook.rt.newFuture(finished, c.fail)
	if err != nil {
		return
	}
	if left.IsDone() {
		left.Close()
		c.abandon()
		return
	}
	c.left = left
	left.OnDone(func(c10d.Result, error) {
		left.Close()
		c.abandon()
	})
}

// abandon ends a future of the hook's own, which only a callback would have completed.
func (c *chain) abandon() {
	if c.future != nil {
		c.future.Abandon()
	}
}

var _ c10d.IndependentHook = (*PythonCommHook)(nil)
