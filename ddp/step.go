package ddp

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"pyhook/c10d"
	"pyhook/tensor"
)

// manyBytes is from where on copying takes so much longer than starting
// goroutines that several of them do it.
const manyBytes = 4 << 20

// Wait waits until every bucket is reduced, and then, if all of them are,
// writes the results to the gradients and returns how long each took. On an
// error no result is written and the step is over; whether the next one may
// begin, StepError says. Where gradients are on a device, the host waits until they are reduced there:
// see WaitStream. The error is a *StepError; a *ParameterError if a parameter was
// not marked ready; an *OutOfStepError if a step before failed; or ErrClosed.
//
// Also on an error Wait first waits for all reductions that were started, or
// for the end of ctx. What the hooks did not finish by then is given up: it may
// go on, on memory that the reducer no longer uses (see Gradient). A hook call
// that is inside is waited for even after ctx ended, since Python cannot be
// left in the middle. A step that is reduced when ctx ends is a success, with AgreementVote where the
// ranks have agreed by then.
func (r *Reducer) Wait(ctx context.Context) (timings []Timing, err error) { return r.wait(ctx, true) }

// WaitStream is Wait, but the host does not wait for devices: it returns when the reduction and the
// writing of its results are enqueued, and what is enqueued on the trainer's stream (Options.Stream)
// after that comes after them. What fails on a device later, an nccl collective for example, shows
// where the host next waits for it, and the ranks' vote does not know of it. Without gradients on a
// device it is Wait.
func (r *Reducer) WaitStream(ctx context.Context) (timings []Timing, err error) {
	return r.wait(ctx, false)
}

// wait waits for the step, and on the host for the devices too.
func (r *Reducer) wait(ctx context.Context, host bool) ([]Timing, error) {
	s, err := r.beginWait()
	if err != nil || s == nil {
		return nil, err
	}
	defer r.leaveWait() // Close closes the memories after it
	defer r.releaseGradients(s)
	timings, err := r.finishStep(ctx, s, host)
	if len(r.memories.devices) == 0 {
		return timings, err
	}
	failed := r.memories.end()
	if failed == nil && err == nil && host {
		failed = r.memories.synchronize(context.WithoutCancel(ctx)) // the results' copies
	}
	if failed == nil {
		return timings, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return nil, errors.Join(err, r.breakLocked(r.deviceError(failed)))
}

// deviceError is of work that failed on a device, which says so where the host next waits for it, and not
// whose it was.
func (r *Reducer) deviceError(err error) error {
	var failed *c10d.Error
	if hook := hookTerm(r.opts.Hook); hook != "" && !r.sum && errors.As(err, &failed) {
		named := *failed
		named.Op += ", for work of the trainer or of hook " + hook
		err = &named
	}
	return r.asStepError(err)
}

// finishStep is wait without the end of the devices' work.
func (r *Reducer) finishStep(ctx context.Context, s *step, host bool) (timings []Timing, err error) {
	var layout [][]int
	defer func() {
		if broken := r.endWait(s, layout, err); broken != nil {
			err = errors.Join(err, broken)
		}
	}()
	cut := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stopLocked(s, context.Cause(ctx))
	})
	defer cut()
	defer r.trace.waited(time.Now())
	<-s.finished
	reduced, err := r.finalizeBackward(s, host)
	defer func() {
		for _, t := range reduced {
			t.Close()
		}
	}()
	if err == nil && s.left != nil {
		err = r.asStepError(s.left)
	}
	if err == nil {
		err = r.checkOverlap(s)
	}
	if err == nil || s.reduced {
		// Also where this rank refuses a result: on the others it may be good.
		var failed error
		if layout, failed = r.syncBucketIndices(s); failed != nil {
			s.reduced = false
			if err == nil {
				err = r.stepError(len(r.buckets)-1, failed)
			}
		}
	}
	if err = r.agree(ctx, s, err); err == nil {
		r.snapshotHook(context.WithoutCancel(ctx))
		if err = r.writeResults(s, reduced); err != nil { // the other ranks have written theirs
			s.reduced = false
			r.mu.Lock()
			_ = r.breakLocked(err)
			r.mu.Unlock()
		}
	}
	r.logStep(s, err)
	r.mu.Lock()
	r.lastFailed, r.lastJoined = err, s.joined
	r.waits++
	r.mu.Unlock()
	if err != nil && (!s.reduced || r.agreement != nil) { // with a vote all ranks know: the step is done again as it was
		layout = nil
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used = s.usedSum; r.countingLocked() {
		r.counts = s.seen
	}
	if err != nil {
		return nil, err
	}
	r.committed++
	timings = make([]Timing, len(s.results))
	for i, res := range s.results {
		timings[i] = res.timing
	}
	return timings, nil
}

// breakLocked notes that no further step can begin here. Other ranks may go on, so that their
// collectives would meet those of whoever uses the group next.
func (r *Reducer) breakLocked(err error) error {
	r.broken = err
	if r.opts.Group.Size() > 1 {
		retireGroup(r.opts.Group, err)
		r.agreement.fail(newStatement(r.asStepError(err)).failure(r.opts.Group.Rank())) // the next step, which the other ranks may begin
	}
	return err
}

// beginWait returns no step in NoSync.
func (r *Reducer) beginWait() (*step, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.usableLocked(); err != nil {
		var out *OutOfStepError
		if !errors.As(err, &out) || !r.step.begun {
			return nil, err
		}
		r.stopLocked(r.step, err) // another Reducer's step failed: the other ranks, in Wait perhaps, hear it
	}
	if r.noSync {
		return nil, nil
	}
	if r.waiting {
		return nil, fmt.Errorf("ddp, rank %d: Wait is called while another Wait is inside", r.opts.Group.Rank())
	}
	r.waiting = true
	if r.step.stop == nil {
		// The hooks' context stays: what was launched shall end orderly.
		if err := r.markRestLocked(r.step); r.step.stop == nil { // the first mark may have ended the step
			r.step.stop = err
		}
	}
	r.wake.Broadcast()
	return r.step, nil
}

func (r *Reducer) leaveWait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = false
	r.wake.Broadcast()
}

// endWait ends the step and begins the next, with new buckets if there is a
// layout. failed is why the step is not reduced, or nil. The error is that none can begin.
func (r *Reducer) endWait(s *step, layout [][]int, failed error) error {
	r.releaseStep(s)
	defer r.leaveTurn()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaveStepLocked(s, failed)
	r.dropCarriedLocked()
	defer r.wake.Broadcast()
	if r.closed {
		return nil
	}
	r.freeMovedLocked()
	if layout != nil {
		if err := r.rebuildBucketsLocked(layout); err != nil {
			return r.breakLocked(fmt.Errorf("ddp, rank %d: the step is reduced, but there is no memory for the buckets of the next: %w", r.opts.Group.Rank(), err))
		}
	}
	r.freeRetiredLocked()
	for i, old := range r.buckets {
		if r.usesShadowBuffer() {
			_ = r.replaceShadowBufferLocked(i) // an error is the next step's, unless there is memory by then
			continue
		}
		if old.busy == nil {
			continue
		}
		b, err := r.makeBucket(i, len(r.buckets), old.params)
		if err != nil {
			return r.breakLocked(fmt.Errorf("ddp, rank %d: no memory for another step: %w", r.opts.Group.Rank(), err))
		}
		r.buckets[i] = b
		r.retired = append(r.retired, old)
	}
	r.step = newStep(r)
	return nil
}

// releaseStep lets go of what the step holds but for the trainer's gradients, and notes the buckets
// that reductions still work on. Idempotent.
func (r *Reducer) releaseStep(s *step) {
	for i, res := range s.results {
		res.closeSparse()
		if b := r.buckets[i]; b.busy == nil || b.busy.IsDone() { // else of a step before: see replaceShadowBufferLocked
			b.busy = res.busy()
		}
		if res.future == nil {
			continue
		}
		res.future.Close()
		res.timed.Close()
	}
	s.results = nil
	s.cancel(nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	s.over = true
	closeGradients(s.sparse)
}

// releaseGradients lets go of the trainer's own gradients, of which these may be the last handles: so
// not before the trainer's streams wait for what was enqueued (memories.end), which reads and writes
// them. Idempotent.
func (r *Reducer) releaseGradients(s *step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, back := range s.copyBack {
		back.Close()
		s.copyBack[i] = nil
	}
	for _, from := range s.copyFrom {
		from.Close()
	}
	s.copyFrom = nil
}

// finalizeBackward waits for the futures, and on the host for the devices, and reads the results, by
// bucket. The caller closes them.
func (r *Reducer) finalizeBackward(s *step, host bool) (reduced []*tensor.Tensor, err error) {
	for _, res := range s.results {
		if res.err == nil {
			res.value, res.err = res.timed.Wait(s.ctx)
		}
	}
	if err := r.failure(s); err != nil {
		return nil, err
	}
	if s.usedErr != nil {
		return nil, r.stepError(len(r.buckets)-1, fmt.Errorf("asking which parameters the ranks used: %w", s.usedErr))
	}
	reduced = make([]*tensor.Tensor, len(r.buckets))
	for i, res := range s.results {
		if b := r.buckets[i]; b.sparse {
			err = r.parseSparse(res, b)
		} else {
			reduced[i], err = r.parse(res, b)
		}
		if err != nil {
			return reduced, r.stepError(i, err)
		}
	}
	if host {
		if err := r.memories.synchronize(s.ctx); errors.Is(err, ErrClosed) {
			return reduced, ErrClosed
		} else if err != nil {
			return reduced, r.deviceError(err)
		}
	}
	s.reduced = true
	for i, res := range s.results {
		if err := r.checkResult(i, res, reduced[i]); err != nil {
			return reduced, r.stepError(i, err)
		}
	}
	return reduced, nil
}

// writeResults writes the results, by bucket, to where the trainer looks for
// them. All are good, so nothing is left to decide; PyTorch writes a bucket while
// it waits for the next, and so has written some of them when one fails.
func (r *Reducer) writeResults(s *step, reduced []*tensor.Tensor) error {
	// In order: a hook may give one bucket's memory as another's result.
	for i, t := range reduced {
		if err := r.writeBucket(s, i, t); err != nil {
			return r.stepError(i, err)
		}
	}
	return r.writeGradients(s)
}

// writeBucket writes a result into its bucket: nothing to do for most hooks,
// which give the bucket's own memory.
func (r *Reducer) writeBucket(s *step, index int, reduced *tensor.Tensor) error {
	defer r.trace.copied(time.Now(), index)
	b := r.buckets[index]
	b.dirty = false
	if b.sparse {
		r.storeReduced(s.results[index], b)
		return nil
	}
	return b.memory.Copy(b.buffer, reduced)
}

// writeGradients copies the buckets to the trainer's own memory, where gradients
// came by ReadyFrom; several goroutines do it where there is much to copy.
func (r *Reducer) writeGradients(s *step) error {
	some, bytes := false, int64(0)
	for i, back := range s.copyBack {
		some = some || back != nil
		if back != nil && r.deviceOf(i) == nil { // a device's copies are only enqueued
			bytes += back.Bytes()
		}
	}
	if !some {
		return nil
	}
	workers := 1
	if bytes >= manyBytes {
		workers = min(runtime.GOMAXPROCS(0), len(r.buckets))
	}
	errs := make([]error, len(r.buckets))
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < len(errs); i = int(next.Add(1)) - 1 {
			errs[i] = r.writeGradientsOf(s, i)
		}
	}
	var others sync.WaitGroup
	for range workers - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	return errors.Join(errs...)
}

func (r *Reducer) writeGradientsOf(s *step, bucket int) error {
	defer r.trace.copied(time.Now(), bucket)
	b := r.buckets[bucket]
	var backs, views []*tensor.Tensor
	for at, i := range b.params {
		if back := s.copyBack[i]; back != nil && (s.usedSum == nil || s.usedSum[i] > 0) {
			backs, views = append(backs, back), append(views, b.views[at])
		}
	}
	if err := b.memory.CopyAll(backs, views); err != nil {
		return r.stepError(bucket, err)
	}
	return nil
}

// failure says why the step is not reduced, or nil. A hook's own failure goes
// before the end of a context, which may have followed from it.
func (r *Reducer) failure(s *step) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failureLocked(s)
}

func (r *Reducer) failureLocked(s *step) error {
	cause := context.Cause(s.ctx)
	done := 0
	for i, res := range s.results {
		switch {
		case res.err == nil:
			done++
		case errors.Is(res.err, errAbandoned):
		case cause == nil || !errors.Is(res.err, cause) && !errors.Is(res.err, context.Canceled):
			return r.stepError(i, res.err)
		}
	}
	if done == len(r.buckets) {
		return nil
	}
	var parameters *ParameterError
	if s.stop == ErrClosed || errors.As(s.stop, &parameters) {
		return s.stop
	}
	for i, res := range s.results {
		if errors.Is(res.err, s.stop) {
			return r.stepError(i, res.err)
		} else if res.err != nil {
			return r.stepError(i, s.stop)
		}
	}
	return r.stepError(min(len(s.results), len(r.buckets)-1), s.stop)
}

func (r *Reducer) stepError(bucket int, err error) error {
	return newStepError(r.opts.Group.Rank(), bucket, r.buckets[bucket].names, err)
}
