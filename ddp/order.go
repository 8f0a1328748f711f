package ddp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pyhook/c10d"
)

// setOrder makes Options.Order what it comes to.
func (r *Reducer) setOrder() error {
	independent := false
	if h, ok := r.opts.Hook.(c10d.IndependentHook); ok {
		var err error
		if independent, err = h.Independent(); err != nil {
			return err
		}
	}
	if r.order = r.opts.Order; r.order == OrderAuto {
		r.order = chooseOrder(r.opts, independent)
	}
	if _, ok := r.opts.Hook.(c10d.ChainedHook); r.order == OrderOrdered && !ok {
		return fmt.Errorf("ddp, rank %d: Options.Order is OrderOrdered and the hook is no c10d.ChainedHook: use OrderAuto or OrderSerial", r.opts.Group.Rank())
	}
	// nccl ends the process, or the wait, when a collective fails.
	if h, ok := r.opts.Hook.(c10d.CheckingHook); ok && r.order == OrderOverlapped && r.opts.Group.Backend() != "nccl" {
		return h.CheckCollectives()
	}
	return nil
}

// chooseOrder is OrderAuto's rule. A hook may say that it issues collectives only
// when it is called. A backend of several ("cpu:gloo,cuda:nccl") reduces our
// CPU memory by another one than nccl.
func chooseOrder(opts Options, independent bool) Order {
	if opts.Group.Backend() == "nccl" {
		return OrderOverlapped
	}
	if h, ok := opts.Hook.(c10d.InCallHook); ok && h.CollectivesOnlyInCall() {
		return OrderOverlapped
	}
	if independent {
		return OrderOrdered
	}
	return OrderSerial
}

// chained says whether the reducer runs the hooks' callbacks.
func (r *Reducer) chained() bool { return r.order == OrderSerial || r.order == OrderOrdered }

// bucketChain is the callbacks that a bucket still has to come.
type bucketChain struct {
	bucket int
	chain  c10d.Chain
}

// chains are those of one step, first bucket first.
type chains []bucketChain

// errAbandoned is of a bucket that was under way when another one failed.
var errAbandoned = errors.New("given up after another bucket failed")

// abandon gives up the chains of a step that is over before they are. Their
// next collectives are not issued: on the other ranks the failed bucket's may
// come in between.
func (r *Reducer) abandon(s *step, c *chains) {
	r.mu.Unlock()
	defer r.mu.Lock()
	for _, b := range *c {
		if res := s.results[b.bucket]; res.err == nil && !res.future.IsDone() {
			res.err = errAbandoned
		}
		b.chain.Close()
		if c, ok := b.chain.(c10d.UnfinishedChain); ok {
			s.results[b.bucket].left = c.Unfinished()
		}
	}
}

// drain runs the open chains to their end, and returns whether the step may go on.
// In OrderSerial that is one chain, after each bucket's hook.
func (r *Reducer) drain(s *step, c *chains) bool {
	for len(*c) > 0 {
		if !r.advance(s, c) {
			return false
		}
	}
	return true
}

// advance moves every open chain one level on, first bucket first, with the
// mutex free. In OrderOrdered it is called once after each bucket's hook, and then until
// no chain is left: when bucket t has been called, bucket t-1 gets its first
// callbacks, bucket t-2 its second ones, and so on. That order depends on
// nothing but the hooks, so every rank issues every collective in the same one;
// the newest bucket's collective is under way meanwhile. It returns whether the
// step may go on.
func (r *Reducer) advance(s *step, c *chains) bool {
	if len(*c) == 0 {
		return true
	}
	r.mu.Unlock()
	defer r.mu.Lock()
	var open chains
	for i, b := range *c {
		start := time.Now()
		more, err := b.chain.Advance(s.ctx)
		r.trace.advanced(start, b.bucket)
		res := s.results[b.bucket]
		if (err == nil || errors.Is(err, c10d.ErrCollective)) && res.future.IsDone() {
			// A failed callback: on the other ranks the chain may go on. It says more
			// than that nobody looked at the cause.
			if _, failed := res.future.Wait(context.Background()); failed != nil {
				err = failed
			}
		}
		if err != nil {
			res.err = err
			*c = append(open, (*c)[i:]...)
			return false
		}
		if more {
			open = append(open, b)
		} else {
			b.chain.Close()
		}
	}
	*c = open
	return true
}
