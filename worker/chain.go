package worker

import (
	"context"
	"errors"
	"fmt"

	"pyhook/c10d"
)

// chain is the c10d.Chain of a call.
type chain struct{ c *hookCall }

// Advance: see c10d.Chain. The end of ctx ends the worker.
func (ch *chain) Advance(ctx context.Context) (bool, error) {
	c := ch.c
	m, err := c.p.ask(ctx, "a callback of hook "+c.hook, 0, &message{Kind: kindAdvance, Object: c.id}, nil)
	switch {
	case err == nil:
		return m.More, nil
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) && !c.h.worker.cfg.KeepOnCancel:
		c.p.kill(&Error{Code: ErrCancelled, Detail: c.what() + ": " + err.Error(), Err: err}, true)
		err = c.p.failure
	}
	return false, c.h.fail(c.b, c10d.ErrFutureFailed, err)
}

// Close: see c10d.Chain. If the call is not done it waits for the collectives that
// are under way, and the future fails then: the bucket is the trainer's again.
func (ch *chain) Close() {
	c := ch.c
	if c.closed.Swap(true) {
		return
	}
	if c.over.Load() {
		_ = c.p.wire.Send(&message{Kind: kindCloseChain, Object: c.id}, nil)
		return
	}
	// The end of its context, or of its time, ends the call and with it this.
	_, _ = c.p.ask(context.Background(), "giving up a call of hook "+c.hook, 0, &message{Kind: kindCloseChain, Object: c.id}, nil)
}

func (s *server) advance(id uint64) (*message, error) {
	call := find(s, s.calls, id)
	if call == nil || call.chain == nil {
		return nil, fmt.Errorf("call %d has no chain: %w", id, c10d.ErrClosed)
	}
	var more bool
	var err error
	s.onThreadOf(call.number, func() { more, err = call.chain.Advance(context.Background()) })
	call.over.Store(err == nil && !more)
	switch {
	case call.failed(), call.future.IsDone() && !call.onDevice():
		s.notify(call) // the caller of Advance looks at the future next
	case call.over.Load() && call.onDevice():
		go s.notifyWhenDone(call)
	}
	return &message{More: more}, err
}

// closeChain gives up the collectives that a call has not issued yet, and waits for
// those that are under way: then nothing writes to the bucket any more.
func (s *server) closeChain(id uint64) {
	call := remove(s, s.calls, id)
	if call == nil || call.chain == nil {
		return
	}
	defer call.chain.Close()
	if call.over.Load() || call.future.IsDone() && !call.onDevice() {
		return // where a thread of the hook's completes the future, it may do so later
	}
	if chain, ok := call.chain.(c10d.DrainingChain); ok {
		_ = chain.Drain(context.Background()) // an error ends them, too
	}
	call.notified.Do(func() {
		err := fmt.Errorf("given up before its last collectives: %w", c10d.ErrClosed)
		s.waitOut(call.bucket)
		call.future.Close()
		s.sendResult(kindDone, 0, failed(id, err))
	})
}
