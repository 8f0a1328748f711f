package ddp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pyhook/c10d"
	"pyhook/tensor"
)

// step is the state of one reduction of all buckets. The reducer's mutex guards
// marks, copyBack, copyFrom, scaled, filling, order, pending, stop and over. results are the launcher's
// until finished is closed, and then Wait's (or Close's).
type step struct {
	ctx      context.Context // the hooks': ends with the step, with Wait's or at Close
	cancel   context.CancelCauseFunc
	marks    []mark                 // by parameter
	copyBack []*tensor.Tensor       // by parameter; nil: the gradient is the view
	copyFrom map[int]*tensor.Tensor // by parameter: NoSync's gradient, where the result goes elsewhere
	scaled   []bool                 // by parameter: ReadyFrom has divided it, if that is to be
	filling  []filling              // by parameter: what its device has still to do
	order    []int                  // of the marks, while the layout is not fixed
	seen     []int                  // by parameter: marks, with StaticGraph
	used     []int32                // by parameter: 1 if this rank used it, with UnusedFind
	joined   bool                   // it is Join's
	digests  []byte                 // of the parameters' values, where the vote compares them; the launcher's, and then Wait's
	begun    bool                   // something was marked
	voted    bool                   // agree was called
	said     []statement            // to the other ranks, of its failure
	usedSum  []int32                // by parameter: how many ranks used it; like results, as usedErr
	usedErr  error
	pending  []int         // by bucket: gradients not ready yet
	left     error         // why Retry's function left the step before its Wait
	stop     error         // why no more buckets are launched
	over     bool          // settled
	reduced  bool          // every hook's result is there and valid: no collective is under way
	results  []*result     // of the buckets launched, in order
	finished chan struct{} // closed when no more will be launched

	sparse []*c10d.SparseGradient // by parameter: ReadySparse's; nil: no rows
	clock  clock
}

// result is what came of a bucket.
type result struct {
	future *c10d.Future[c10d.Result] // the hook's; nil if it returned none
	timed  *c10d.Future[c10d.Result] // future, or one after it that has set timing.Total
	value  c10d.Result
	err    error
	timing Timing
	left   *c10d.Future[c10d.Result] // of collectives that were given up and may still write to the bucket; nil: none

	start   time.Time            // of the hook call
	grad    *c10d.GradBucket     // that the hook was called with
	reduced *c10d.SparseGradient // read from its value, until it is the parameter's
}

// Timing is how a bucket's reduction went, on the host: on a device a future is done when its work is
// enqueued.
type Timing struct {
	Bucket int
	Bytes  int64         // of the bucket's buffer, or its rows on this rank
	Call   time.Duration // of the hook call itself
	Total  time.Duration // from the call to the future's completion
}

func newStep(r *Reducer) *step {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &step{ctx: ctx, cancel: cancel, finished: make(chan struct{}), marks: make([]mark, len(r.params)),
		copyBack: make([]*tensor.Tensor, len(r.params)), scaled: make([]bool, len(r.params)), filling: make([]filling, len(r.params)),
		seen: make([]int, len(r.params)), used: make([]int32, len(r.params)), pending: make([]int, len(r.buckets)), clock: clock{left: len(r.params)}}
	if r.sparse {
		s.sparse = make([]*c10d.SparseGradient, len(r.params))
	}
	for b, bucket := range r.buckets {
		s.pending[b] = len(bucket.params)
	}
	r.trace.begin(len(r.buckets))
	return s
}

// launch runs on its thread (thread.go) for the reducer's life, one step after
// another. Every step that begins is finished, be it by Close: a Wait may be
// in it already.
func (r *Reducer) launch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		s := r.step
		r.launchStep(s)
		close(s.finished)
		for r.step == s {
			if r.closed {
				return
			}
			r.idleLocked()
		}
	}
}

// launchStep calls the hooks, in bucket order, as buckets become ready, and in
// OrderSerial and OrderOrdered also runs their callbacks.
func (r *Reducer) launchStep(s *step) {
	var chains chains
	defer r.abandon(s, &chains)
	if r.comparesLocked() {
		r.takeDigestsLocked(s)
	}
	for next := range r.buckets {
		for s.pending[next] > 0 && s.stop == nil {
			r.idleLocked()
		}
		if s.stop != nil {
			return
		}
		if next == 0 && r.opts.Join && !r.allReduceActiveRanks(s) {
			return
		}
		res, chain := r.runHook(s, next)
		s.results = append(s.results, res)
		// The other ranks may be in this bucket's collective: a later bucket's
		// would be taken for it.
		ok := res.err == nil && r.advance(s, &chains)
		if chain != nil {
			chains = append(chains, bucketChain{next, chain})
		}
		if ok && r.order == OrderSerial {
			ok = r.drain(s, &chains)
		}
		if !ok {
			r.reportFailureLocked(s)
			return
		}
	}
	if !r.drain(s, &chains) {
		r.reportFailureLocked(s)
		return
	}
	if r.findUnused {
		r.allReduceLocalUsedMap(s)
	}
}

// runHook calls a bucket's hook with the mutex free.
func (r *Reducer) runHook(s *step, index int) (*result, c10d.Chain) {
	b := r.buckets[index]
	r.mu.Unlock()
	defer r.mu.Lock()
	start := time.Now()
	res := &result{timing: Timing{Bucket: index, Bytes: b.bytes()}, start: start}
	var chain c10d.Chain
	if res.err = r.fillBucket(s, b); res.err != nil {
		return res, nil
	}
	if res.err = r.fillHookBuffer(index); res.err != nil {
		return res, nil
	}
	if r.sum && !b.sparse {
		// Its marks are done, so nobody writes scaled for this bucket.
		if res.err = r.divide(s, b); res.err != nil {
			return res, nil
		}
	}
	res.future, chain, res.err = r.call(s, res, b)
	res.timing.Call = time.Since(start)
	r.trace.called(start, index)
	returned, late := time.Now(), b.late.Load()
	switch {
	case res.err != nil:
		res.left = unfinished(res.err)
		return res, nil
	case res.future == nil:
		res.err = fmt.Errorf("%w: it is nil", c10d.ErrNotFuture)
		return res, chain
	}
	res.timed = res.future
	if res.future.IsDone() {
		res.timing.Total = time.Since(start)
		late.begin()
		r.trace.reduced(returned, index)
	} else {
		res.timed = res.future.Then(func(v c10d.Result) (c10d.Result, error) {
			res.timing.Total = time.Since(start)
			late.begin()
			r.trace.reduced(returned, index)
			return v, nil
		})
	}
	if r.order == OrderSerial && chain == nil {
		res.value, res.err = r.thread.Wait(s.ctx, res.timed)
	}
	return res, chain
}

// call, with the mutex free, calls the hook, chained where it and the order can be.
func (r *Reducer) call(s *step, res *result, b *bucket) (*c10d.Future[c10d.Result], c10d.Chain, error) {
	if b.sparse {
		return r.callSparse(s, res, b)
	}
	res.grad = b.grad
	return r.callWith(s, b.grad)
}

func (r *Reducer) callWith(s *step, b *c10d.GradBucket) (*c10d.Future[c10d.Result], c10d.Chain, error) {
	if h, ok := r.opts.Hook.(c10d.ChainedHook); ok && r.chained() {
		return h.RunHookChained(s.ctx, b)
	}
	future, err := r.opts.Hook.RunHook(s.ctx, b)
	return future, nil, err
}

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

// stopLocked keeps further buckets from being launched and
// tells the hooks.
func (r *Reducer) stopLocked(s *step, cause error) {
	if s.stop == nil {
		s.stop = cause
	}
	s.cancel(cause)
	r.wake.Broadcast()
}
