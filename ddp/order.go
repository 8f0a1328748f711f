package ddp

import (
	"context"
	"errors"
	"time"

	"pyhook/pyhook"
)

// bucketChain is the callbacks that a bucket still has to come.
type bucketChain struct {
	bucket int
	chain  pyhook.Chain
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
		if res := s.results[b.bucket]; res.err == nil && !isDone(res.future) {
			res.err = errAbandoned
		}
		b.chain.Close()
		if c, ok := b.chain.(interface{ Unfinished() *pyhook.Future }); ok {
			s.results[b.bucket].left = c.Unfinished()
		}
	}
}

// advance moves every open chain one level on, first bucket first, with the
// mutex free. It is called once after each bucket's hook, and then until no
// chain is left: when bucket t has been called, bucket t-1 gets its first
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
		if err == nil && isDone(res.future) {
			// A failed callback: on the other ranks the chain may go on.
			_, err = res.future.Wait(context.Background())
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
