package worker

import (
	"context"
	"errors"
	"sync/atomic"

	"pyhook/c10d"
	"pyhook/internal/ctxerr"
	"pyhook/tensor"
)

// hookCall is one call of a hook, as the trainer sees it.
type hookCall struct {
	call
	h       *Hook
	p       *process
	b       *c10d.GradBucket
	ctx     context.Context
	memory  *tensor.Tensor // that the worker works on
	promise c10d.Promise[c10d.Result]
	over    atomic.Bool
	closed  atomic.Bool                 // its chain is
	release atomic.Pointer[func() bool] // ends what endWithContext began
}

// run calls the hook, and waits for the call but not for its future.
func (h *Hook) run(ctx context.Context, b *c10d.GradBucket, chained bool) (*c10d.Future[c10d.Result], *chain, error) {
	if ctx.Err() != nil {
		return nil, nil, h.fail(b, c10d.ErrRaised, ctxerr.While(ctx, "not called"))
	}
	if b.Sparse() != nil {
		return nil, nil, h.fail(b, c10d.ErrBucket, errors.New("the bucket is sparse, and a worker takes dense ones only"))
	}
	w := h.worker
	p := w.process()
	s, err := w.bucket(b)
	if err != nil {
		return nil, nil, h.fail(b, c10d.ErrClosed, err)
	}
	if err := h.begin(ctx, b); err != nil {
		return nil, nil, h.fail(b, c10d.ErrState, err)
	}
	memory, err := w.prepare(ctx, p, b, s)
	if err != nil {
		return nil, nil, h.fail(b, c10d.ErrBucket, err)
	}
	c := &hookCall{call: call{hook: h.Name(), bucket: b.Index()}, h: h, p: p, b: b, ctx: ctx, memory: memory}
	c.done = c.finished
	c.promise.Init(nil, c.ended)
	h.count(1)
	if err := p.open(&c.call); err != nil {
		c.finished(answer{outcome: outcomeFailed, err: err})
		return nil, nil, err
	}
	a := c.request(&runMessage{Call: c.id, Hook: h.id, Bucket: s.id, Chained: chained})
	if a.outcome == outcomePending {
		c.endWithContext()
	} else {
		p.drop(&c.call)
		c.finished(a)
		if a.outcome == outcomeFailed {
			return nil, nil, h.fail(b, c10d.ErrRaised, a.err)
		}
	}
	if chained {
		return c.promise.Future(), &chain{c}, nil
	}
	return c.promise.Future(), nil, nil
}

// request sends the call and waits for the answer. Calls of several goroutines run at once in the
// worker: two hooks may wait for each other over ranks.
func (c *hookCall) request(m *runMessage) answer {
	if err := c.p.post(&message{Kind: kindRun, ID: c.id, Run: m}, nil); err != nil {
		return answer{outcome: outcomeFailed, err: err}
	}
	return c.wait()
}

// wait waits for the answer or for the end of the process.
func (c *hookCall) wait() answer {
	done := c.ctx.Done()
	if c.h.worker.cfg.KeepOnCancel {
		done = nil
	}
	select {
	case a := <-c.answered:
		return a
	case <-c.p.dead:
	case <-done:
		c.cancel()
	}
	return answer{outcome: outcomeFailed, err: c.p.failure.at(c.hook, c.bucket)}
}

// cancel ends the worker because the context did.
func (c *hookCall) cancel() {
	cause := context.Cause(c.ctx)
	c.p.kill(&Error{Code: ErrCancelled, Detail: c.what() + ": " + cause.Error(), Err: cause}, true)
}

// endWithContext ends the worker if the context ends before the call, which is pending, does.
func (c *hookCall) endWithContext() {
	if c.ctx.Done() == nil || c.h.worker.cfg.KeepOnCancel {
		return
	}
	stop := context.AfterFunc(c.ctx, func() {
		if !c.over.Load() {
			c.cancel()
		}
	})
	c.release.Store(&stop)
	if c.over.Load() {
		stop()
	}
}

// ended is the error of waiting for the future with a context that ended. If it is the call's
// context, the worker is being ended, and its error says more.
func (c *hookCall) ended(err error) error {
	if c.ctx.Err() != nil && !c.h.worker.cfg.KeepOnCancel {
		select {
		case <-c.p.dead:
			return c.p.failure.at(c.hook, c.bucket)
		case <-c.promise.Future().Done(): // nothing is ended: what is waited for comes after the call
		}
	}
	return c.h.fail(c.b, c10d.ErrFutureFailed, err)
}

// finished completes the future, once.
func (c *hookCall) finished(a answer) {
	if !c.over.CompareAndSwap(false, true) {
		return
	}
	if stop := c.release.Load(); stop != nil {
		(*stop)()
	}
	c.h.count(-1)
	switch a.outcome {
	case outcomeSame:
		c.h.countReduced(c.p, c.b)
		c.promise.Complete(c10d.TensorResult{Tensor: c.memory}, nil)
	case outcomeOther:
		c.h.countReduced(c.p, c.b)
		c.promise.Complete(c10d.TensorResult{Tensor: a.tensor, Owned: true}, nil)
	default:
		c.promise.Complete(nil, c.h.fail(c.b, c10d.ErrFutureFailed, a.err))
	}
}

func (h *Hook) count(calls int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underway += calls
}

// countReduced begins a snapshot after the last bucket of a step, if one is due.
func (h *Hook) countReduced(p *process, b *c10d.GradBucket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reduced++; h.reduced != b.Count() {
		return
	}
	h.completed++
	if every := int64(h.cfg.SnapshotEvery); every > 0 && h.completed%every == 0 && h.underway == 0 {
		h.saving = &saving{done: make(chan struct{})}
		go h.snapshot(p, h.completed, h.saving)
	}
}
