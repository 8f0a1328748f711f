package ddp

import (
	"errors"
	"fmt"

	"pyhook/tensorconv"
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
	if err := r.markable(i); err != nil {
		return err
	}
	r.mark(r.step, i)
	return nil
}

// ReadyFrom is Ready for a gradient in the trainer's own memory: it is copied
// into the bucket, and a Wait that succeeds copies the reduced one back. The
// memory must stay until then; its dtype may differ, its shape not. A gradient
// that cannot be copied leaves the parameter unmarked.
func (r *Reducer) ReadyFrom(i int, grad *tensorconv.Tensor) error {
	r.mu.Lock()
	if err := r.markable(i); err != nil {
		r.mu.Unlock()
		return err
	}
	s, view := r.step, r.view(i)
	// From here on a second ReadyFrom is refused before it writes to a bucket
	// that may be with the hook.
	s.marks[i] = copying
	r.mu.Unlock()

	back, err := copyIn(view, grad, r.factor())

	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil && !s.over && !r.closed:
		s.copyBack[i], s.scaled[i] = back, true
		r.mark(s, i)
		return nil
	case r.closed:
		err = ErrClosed
	case s.over:
		err = &ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[i].Name}, Kind: ErrNotReady,
			Detail: "Wait ended the step while its gradient was copied", Hint: "call Wait when all parameters are marked"}
	default:
		s.marks[i] = unmarked
		err = fmt.Errorf("ddp, rank %d, gradient of %s: %w", r.opts.Group.Rank(), r.params[i].Name, err)
	}
	back.Close()
	return err
}

// copyIn copies grad, times factor, to view. It returns a handle on grad's memory, by which
// the result goes back even if the trainer closes its own.
func copyIn(view, grad *tensorconv.Tensor, factor float64) (*tensorconv.Tensor, error) {
	if grad == nil {
		return nil, errors.New("the tensor is nil")
	}
	back, err := grad.View(0, grad.Shape(), grad.Strides())
	if err != nil {
		return nil, err
	}
	if factor == 1 {
		err = tensorconv.Copy(view, grad)
	} else {
		err = tensorconv.Scale(view, grad, factor)
	}
	if err != nil {
		back.Close()
		return nil, err
	}
	return back, nil
}

// markable, with the mutex held, says whether parameter i can be marked now.
func (r *Reducer) markable(i int) error {
	if err := r.usable(); err != nil {
		return err
	}
	if i < 0 || i >= len(r.params) {
		return fmt.Errorf("ddp, rank %d: no parameter %d: there are %d", r.opts.Group.Rank(), i, len(r.params))
	}
	if r.step.marks[i] != unmarked {
		return &ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[i].Name}, Kind: ErrReadyTwice,
			Hint: "call Wait once after each backward pass; a shared parameter is ready when its last use is"}
	}
	return nil
}

func (r *Reducer) usable() error {
	if r.closed {
		return ErrClosed
	}
	return r.broken
}

func (r *Reducer) mark(s *step, i int) {
	s.marks[i] = marked
	if !r.fixed {
		s.order = append(s.order, i)
	}
	b := r.places[i].bucket
	if s.pending[b]--; s.pending[b] == 0 {
		r.wake.Broadcast()
	}
}

// missing is the error of the parameters that are not marked, or nil.
func (r *Reducer) missing(s *step) error {
	var names []string
	for i, m := range s.marks {
		if m != marked {
			names = append(names, r.params[i].Name)
		}
	}
	if names == nil {
		return nil
	}
	return &ParameterError{Rank: r.opts.Group.Rank(), Names: names, Kind: ErrNotReady,
		Hint: "mark every parameter once a step; one that the step did not use is marked with a zero gradient"}
}
