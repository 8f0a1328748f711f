package ddp

import (
	"cmp"
	"errors"
	"fmt"

	"pyhook/tensor"
)

// mark is how far a parameter is in a step.
type mark uint8

const (
	unmarked mark = iota
	copying       // ReadyFrom is inside
	marked
)

// Ready says that Gradient(i) holds this step's local gradient. When that
// completes a bucket the hook is started, on another goroutine. The error is a
// *ParameterError or ErrClosed, or says that there is no parameter i; a failure
// of the hook is Wait's.
func (r *Reducer) Ready(i int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, err := r.beginMarkLocked(i, false)
	switch {
	case err != nil:
		return err
	case r.noSync:
		return r.carryOverLocked(i, nil)
	case last:
		r.markReadyLocked(r.step, i)
	}
	return nil
}

// ReadyFrom is Ready for a gradient in the trainer's own memory: it is copied
// into the bucket, and a Wait that succeeds copies the reduced one back. The
// memory must stay until then, and no other gradient of the step may share it: Wait is ErrOverlap then,
// and writes nothing. Its dtype may differ, its shape not. On a device it must not be
// written until then either: a bucket's gradients are copied when all of them are marked. The Reducer
// has a handle of its own on the memory until Wait ends: where that is the last one, the memory is
// released to what the trainer's stream has next, and after Wait, other than WaitStream, to anybody. A
// gradient that cannot be copied leaves the parameter unmarked.
func (r *Reducer) ReadyFrom(i int, grad *tensor.Tensor) error {
	r.mu.Lock()
	if grad == nil {
		defer r.mu.Unlock()
		if err := r.markableLocked(i); err != nil {
			return err
		}
		return r.gradientError(i, errors.New("the tensor is nil"))
	}
	last, err := r.beginMarkLocked(i, false)
	if err != nil || !last || r.noSync {
		defer r.mu.Unlock()
		if err == nil {
			err = r.readyLaterLocked(i, grad)
		}
		return err
	}
	s, view, device := r.step, r.viewLocked(i), r.deviceOf(i)
	if err = r.matches(i, grad); err != nil {
		defer r.mu.Unlock()
		r.undoMarkLocked(s, i)
		return r.gradientError(i, err)
	}
	// From here on a second ReadyFrom is refused before it writes to a bucket
	// that may be with the hook.
	s.marks[i] = copying
	s.beginLocked(r, i)
	r.mu.Unlock()

	back, err := r.copyIn(view, grad, device != nil)

	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil && !s.over && !r.closed:
		if s.copyBack[i], s.scaled[i] = back, true; device != nil {
			s.filling[i] = toCopy
		}
		r.markReadyLocked(s, i)
		return nil
	case r.closed:
		err = ErrClosed
	case s.over:
		err = &ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[i].Name}, Code: ErrNotReady,
			Detail: "Wait ended the step while its gradient was copied", Hint: "call Wait when all parameters are marked"}
	default:
		r.undoMarkLocked(s, i)
		err = r.gradientError(i, err)
	}
	back.Close()
	return err
}

// readyLaterLocked is ReadyFrom for a gradient that is not to be
// copied yet: in NoSync, or not the parameter's last mark of a static graph.
func (r *Reducer) readyLaterLocked(i int, grad *tensor.Tensor) error {
	if r.noSync {
		return r.carryOverLocked(i, grad)
	}
	if !r.countingLocked() {
		return nil // it comes again
	}
	back, err := grad.View(0, grad.Shape(), grad.Strides())
	if err == nil {
		err = r.matches(i, grad)
	}
	if err != nil {
		back.Close()
		r.undoMarkLocked(r.step, i)
		return r.gradientError(i, err)
	}
	r.step.copyBack[i].Close()
	r.step.copyBack[i] = back
	return nil
}

// copyIn copies grad to view, or leaves that to the launcher. It returns a handle on grad's memory, by
// which the result goes back even if the trainer closes its own.
func (r *Reducer) copyIn(view, grad *tensor.Tensor, later bool) (*tensor.Tensor, error) {
	back, err := grad.View(0, grad.Shape(), grad.Strides())
	if err != nil {
		return nil, err
	}
	if later {
		return back, nil
	}
	if err := r.copyInto(view, grad); err != nil {
		back.Close()
		return nil, err
	}
	return back, nil
}

// beginMarkLocked begins a mark. last is whether the parameter is
// then marked, and the gradient complete: not so in NoSync, and with StaticGraph
// only at the last mark of each later step.
func (r *Reducer) beginMarkLocked(i int, sparse bool) (last bool, err error) {
	if err := r.markableLocked(i); err != nil {
		return false, err
	}
	if r.params[i].Sparse != sparse {
		return false, r.kindError(i)
	}
	s := r.step
	if r.noSync {
		return false, nil
	}
	if r.findUnused {
		s.used[i] = 1
	}
	if !r.opts.StaticGraph {
		return true, nil
	}
	if err := r.markUnusedStaticLocked(s); err != nil {
		return false, err
	}
	s.seen[i]++
	return r.counts != nil && s.seen[i] == r.counts[i], nil
}

// undoMarkLocked takes beginMark back.
func (r *Reducer) undoMarkLocked(s *step, i int) {
	s.marks[i] = unmarked
	s.used[i] = 0
	s.filling[i] = filled
	s.seen[i] = max(0, s.seen[i]-1)
}

// markableLocked says whether parameter i can be marked now.
func (r *Reducer) markableLocked(i int) error {
	if err := r.usableLocked(); err != nil {
		return err
	}
	if i < 0 || i >= len(r.params) {
		return fmt.Errorf("ddp, rank %d: no parameter %d: there are %d", r.opts.Group.Rank(), i, len(r.params))
	}
	if r.noSync {
		return nil
	}
	s := r.step
	if !s.begun && s.stop == nil {
		if err := r.mayBegin(i); err != nil {
			return err
		}
	}
	if r.opts.StaticGraph && r.counts != nil && s.seen[i] >= r.counts[i] {
		return r.graphChanged(s, i)
	}
	if s.marks[i] != unmarked {
		return &ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[i].Name}, Code: ErrReadyTwice,
			Hint: "call Wait once after each backward pass; a shared parameter is ready when its last use is"}
	}
	return nil
}

func (r *Reducer) usableLocked() error {
	if r.closed {
		return ErrClosed
	}
	if r.broken != nil {
		return r.broken
	}
	if r.step.stop != nil {
		return nil // the step is at its end, and Wait will say why
	}
	return cmp.Or(inStep(r.opts.Group), r.out)
}

func (r *Reducer) markReadyLocked(s *step, i int) {
	s.marks[i] = marked
	s.beginLocked(r, i)
	s.clock.mark()
	if !r.fixed && !r.countingLocked() {
		s.order = append(s.order, i)
	}
	b := r.locators[i].bucket
	s.pending[b]--
	r.trace.mark(b, s.pending[b] == 0)
	if s.pending[b] == 0 {
		r.wake.Broadcast()
	}
}

// beginLocked notes that the step has begun, with parameter i, and ends it if another rank has left it already.
func (s *step) beginLocked(r *Reducer, i int) {
	if !s.begun {
		s.begun = true
		if s.stop == nil {
			if err := r.takeTurn(i); err != nil { // it was free when the mark began
				r.stopLocked(s, err)
			}
		}
		if r.opts.DigestEvery > 0 {
			r.wake.Broadcast() // the launcher takes digests
		}
		r.heedLocked(s)
	}
}

// missing is the error of the parameters that are not marked, or nil.
func (r *Reducer) missing(s *step) error {
	var names []string
	for i, m := range s.marks {
		if m == copying || m == unmarked && !r.findUnused && !r.countingLocked() {
			if r.opts.StaticGraph && m == unmarked {
				return r.graphChanged(s, i)
			}
			names = append(names, r.params[i].Name)
		}
	}
	if names == nil {
		return nil
	}
	return &ParameterError{Rank: r.opts.Group.Rank(), Names: names, Code: ErrNotReady,
		Hint: "mark every parameter once a step; one that the step did not use is marked with MarkUnused, or found with Options.Unused"}
}

// graphChanged is the error of a static graph that is none.
func (r *Reducer) graphChanged(s *step, i int) error {
	detail := fmt.Sprintf("it was marked %d times in the first step and %d times in this one", r.counts[i], s.seen[i])
	if s.seen[i] >= r.counts[i] {
		detail = fmt.Sprintf("it was marked %d times in the first step and is marked once more in this one", r.counts[i])
	}
	return &ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[i].Name}, Code: ErrGraphChanged, Detail: detail,
		Hint: "with Options.StaticGraph every step uses every parameter as often as the first one did"}
}
