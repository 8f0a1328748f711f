package ddp

import (
	"context"
	"fmt"
	"time"

	"pyhook/pyhook"
	"pyhook/tensorconv"
)

// step is the state of one reduction of all buckets. The reducer's mutex
// guards it.
type step struct {
	ctx      context.Context // ends with the step: it is Wait's, or Close's
	cancel   context.CancelCauseFunc
	ready    []bool               // by parameter
	copyBack []*tensorconv.Tensor // by parameter; nil: the gradient is the view
	pending  []int                // by bucket: gradients not ready yet
	results  []result             // of the buckets launched, in order
	finished chan struct{}        // closed when no more will be launched
}

type result struct {
	future *pyhook.Future
	err    error
	timing Timing
	start  time.Time
}

func newStep(r *Reducer) *step {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &step{ctx: ctx, cancel: cancel, finished: make(chan struct{}),
		ready: make([]bool, len(r.params)), copyBack: make([]*tensorconv.Tensor, len(r.params)), pending: make([]int, len(r.buckets))}
	for b, bucket := range r.buckets {
		s.pending[b] = len(bucket.params)
	}
	return s
}

// launch runs on a goroutine of its own for the reducer's life: it calls the
// hooks, in bucket order, as buckets become ready.
func (r *Reducer) launch() {
	defer close(r.ended)
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		s := r.step
		for next := 0; next < len(r.buckets); next++ {
			for s.pending[next] > 0 && s.ctx.Err() == nil {
				r.wake.Wait()
			}
			if s.ctx.Err() != nil {
				break
			}
			r.mu.Unlock()
			res := r.runHook(s, next)
			r.mu.Lock()
			s.results = append(s.results, res)
			if res.err != nil {
				// The other ranks may be in this bucket's collective: a later
				// bucket's would be taken for it.
				break
			}
		}
		close(s.finished)
		for r.step == s && !r.closed {
			r.wake.Wait()
		}
		if r.closed {
			return
		}
	}
}

func (r *Reducer) runHook(s *step, index int) result {
	b := r.buckets[index]
	res := result{start: time.Now(), timing: Timing{Bucket: index, Bytes: b.buffer.Bytes()}}
	res.future, res.err = r.opts.Hook.RunHook(s.ctx, b.grad)
	res.timing.Call = time.Since(res.start)
	if res.err == nil && r.serial {
		_, res.err = res.future.Wait(s.ctx)
		res.timing.Total = time.Since(res.start)
	}
	return res
}

// Wait waits until every bucket is reduced, and then, if all of them are,
// writes the results to the gradients and returns how long each took. On an
// error (*StepError; *ParameterError if a parameter was not marked ready; the
// context's) no result is written and the step is over: the next one may begin.
// When ctx ends first, a hook call that is inside is waited for: Python cannot
// be left in the middle.
func (r *Reducer) Wait(ctx context.Context) ([]Timing, error) {
	r.mu.Lock()
	s := r.step
	if r.closed {
		r.mu.Unlock()
		return nil, ErrClosed
	}
	if err := r.missing(s); err != nil {
		s.cancel(err)
	}
	r.wake.Broadcast()
	r.mu.Unlock()

	stop := context.AfterFunc(ctx, func() { r.end(s, context.Cause(ctx)) })
	<-s.finished
	timings, err := r.collect(s)
	stop()

	r.mu.Lock()
	defer r.mu.Unlock()
	for _, res := range s.results {
		if res.future != nil {
			res.future.Close()
		}
	}
	s.cancel(nil)
	r.step = newStep(r)
	r.wake.Broadcast()
	return timings, err
}

// end cancels the step and wakes the launcher.
func (r *Reducer) end(s *step, cause error) {
	s.cancel(cause)
	r.mu.Lock()
	r.wake.Broadcast()
	r.mu.Unlock()
}

func (r *Reducer) missing(s *step) error {
	var names []string
	for i, ready := range s.ready {
		if !ready {
			names = append(names, r.params[i].Name)
		}
	}
	if names == nil {
		return nil
	}
	return &ParameterError{Rank: r.opts.Group.Rank(), Names: names, Kind: ErrNotReady,
		Hint: "mark every parameter once a step; one that the step did not use is marked with a zero gradient"}
}

// collect waits for the futures, reads the results, and only when all of them
// are good writes any.
func (r *Reducer) collect(s *step) ([]Timing, error) {
	var reduced []*tensorconv.Tensor
	defer func() {
		for _, t := range reduced {
			t.Close()
		}
	}()
	for i := range s.results {
		res := &s.results[i]
		t, err := r.resultOf(s, res)
		if err != nil {
			return nil, r.stepError(i, err)
		}
		reduced = append(reduced, t)
	}
	if err := context.Cause(s.ctx); err != nil {
		return nil, r.stepError(min(len(reduced), len(r.buckets)-1), err)
	}
	timings := make([]Timing, len(reduced))
	for i, t := range reduced {
		if err := tensorconv.Copy(r.buckets[i].buffer, t); err != nil {
			return nil, r.stepError(i, err)
		}
		timings[i] = s.results[i].timing
	}
	for i, grad := range s.copyBack {
		if grad == nil {
			continue
		}
		if err := tensorconv.Copy(grad, r.place[i].view); err != nil {
			return nil, fmt.Errorf("ddp, rank %d, gradient of %s: %w", r.opts.Group.Rank(), r.params[i].Name, err)
		}
	}
	return timings, nil
}

func (r *Reducer) resultOf(s *step, res *result) (*tensorconv.Tensor, error) {
	if res.err != nil {
		return nil, res.err
	}
	value, err := res.future.Wait(s.ctx)
	if err != nil {
		return nil, err
	}
	if res.timing.Total == 0 {
		res.timing.Total = time.Since(res.start)
	}
	return r.opts.Hook.ParseHookResult(value)
}

func (r *Reducer) stepError(bucket int, err error) error {
	if pe, ok := err.(*ParameterError); ok {
		return pe
	}
	return &StepError{Rank: r.opts.Group.Rank(), Bucket: bucket, Names: r.buckets[bucket].names, Err: err}
}
