package ddp

import (
	"errors"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/tensor"
)

// Unused says what a parameter is that was not marked when Wait is called.
type Unused int

const (
	// UnusedIsError: Wait fails with ErrNotReady and names it.
	UnusedIsError Unused = iota
	// UnusedFind: the step did not use it on this rank (PyTorch's
	// find_unused_parameters). Its gradient is zero here; after Wait Gradient(i)
	// is the reduced one, and Used(i) says whether any rank used it. Each step has
	// one more all-reduce, of a map of what was used, after the last bucket.
	UnusedFind
)

// String names the constant.
func (u Unused) String() string {
	switch u {
	case UnusedIsError:
		return "UnusedIsError"
	case UnusedFind:
		return "UnusedFind"
	}
	return fmt.Sprintf("Unused(%d)", int(u))
}

// MarkUnused says that the step does not use parameter i on this rank: its
// gradient is set to zero, a sparse one has no rows (if it was used in NoSync before, it stays what it is)
// and marked, so that its bucket need not wait for Wait. StaticGraph finds such parameters by itself.
func (r *Reducer) MarkUnused(i int) error { return r.markUnused(i, nil) }

// MarkUnusedInto is MarkUnused for a gradient in the trainer's own memory. After
// Wait grad holds the reduced gradient; but with UnusedFind it stays as it is if
// no rank used the parameter (reducer.cpp, finalize_bucket_dense). The memory
// must stay until then.
func (r *Reducer) MarkUnusedInto(i int, grad *tensor.Tensor) error {
	if grad == nil {
		return r.gradientError(i, errors.New("the tensor is nil"))
	}
	return r.markUnused(i, grad)
}

func (r *Reducer) markUnused(i int, grad *tensor.Tensor) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.markableLocked(i); err != nil || r.noSync {
		return err
	}
	if r.opts.StaticGraph {
		return fmt.Errorf("ddp, rank %d: MarkUnused with StaticGraph: do not mark it at all", r.opts.Group.Rank())
	}
	if grad != nil {
		if r.params[i].Sparse {
			return r.kindError(i)
		}
		if err := r.matches(i, grad); err != nil {
			return r.gradientError(i, err)
		}
		back, err := grad.View(0, grad.Shape(), grad.Strides())
		if err != nil {
			return r.gradientError(i, err)
		}
		defer func() {
			r.step.redirect(i, back)
		}()
	}
	if err := r.fill(r.step, i); err != nil {
		return r.gradientError(i, err)
	}
	r.markReadyLocked(r.step, i)
	return nil
}

// redirect has parameter i's result go to back, and not to where the gradient came from.
func (s *step) redirect(i int, back *tensor.Tensor) {
	if from := s.copyBack[i]; from != nil && s.filling[i] == toCopy { // not copied yet
		if s.copyFrom == nil {
			s.copyFrom = map[int]*tensor.Tensor{}
		}
		s.copyFrom[i] = from
	} else {
		from.Close()
	}
	s.copyBack[i] = back
}

// Used says, with UnusedFind, whether any rank used parameter i in the last step
// that was reduced: an optimiser leaves out the others. Else it is true.
func (r *Reducer) Used(i int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used == nil || r.used[i] > 0
}

// matches says whether a gradient can be copied to and from parameter i's view.
func (r *Reducer) matches(i int, grad *tensor.Tensor) error {
	view := r.viewLocked(i)
	if !slices.Equal(view.Shape(), grad.Shape()) {
		return fmt.Errorf("shape %v into %v", grad.Shape(), view.Shape())
	}
	if err := checkOwnElements(grad); err != nil {
		return err
	}
	return errors.Join(r.checkDevice(i, grad), c10d.CheckConversion(view.DType(), grad.DType()), c10d.CheckConversion(grad.DType(), view.DType()))
}

// countingLocked says whether this is StaticGraph's first step.
func (r *Reducer) countingLocked() bool { return r.opts.StaticGraph && r.counts == nil }

// markRestLocked is Wait's: it marks what was not marked where
// that is allowed, and is the error of what is missing.
func (r *Reducer) markRestLocked(s *step) error {
	if err := r.markUnusedStaticLocked(s); err != nil {
		return err
	}
	if err := r.missing(s); err != nil {
		return err
	}
	for i, m := range s.marks {
		if m != unmarked {
			continue
		}
		if err := r.fill(s, i); err != nil {
			return r.gradientError(i, err)
		}
		r.markReadyLocked(s, i)
	}
	return nil
}

// fill sets the gradient of a parameter that is not marked yet: to what it was
// marked with in StaticGraph's first step or in NoSync, else to zero.
func (r *Reducer) fill(s *step, i int) error {
	if r.params[i].Sparse {
		r.fillSparse(s, i)
		return nil
	}
	back := s.copyBack[i]
	switch {
	case r.countingLocked() && s.seen[i] == 0, !r.countingLocked() && !r.carried[i].used:
		return r.zeroGradient(s, i)
	case !r.countingLocked():
		s.used[i] = 1
		back, r.carried[i].grad = r.carried[i].grad, nil
		s.copyBack[i] = back
	}
	if back == nil {
		return nil
	}
	return r.copyGradient(s, i)
}

// markUnusedStaticLocked marks what StaticGraph's first step did
// not use, before the first other mark (reducer.cpp, autograd_hook).
func (r *Reducer) markUnusedStaticLocked(s *step) error {
	for i, count := range r.counts {
		if count > 0 || s.marks[i] != unmarked {
			continue
		}
		if err := r.zeroGradient(s, i); err != nil {
			return r.gradientError(i, err)
		}
		r.markReadyLocked(s, i)
	}
	return nil
}

// allReduceLocalUsedMap, by the launcher with the mutex held, adds up what the ranks
// used: Reducer::all_reduce_local_used_map.
func (r *Reducer) allReduceLocalUsedMap(s *step) {
	mine := slices.Clone(s.used)
	r.mu.Unlock()
	defer r.mu.Lock()
	s.usedSum, s.usedErr = exchange(s.ctx, mine, func(t *tensor.Tensor) (*c10d.Future[*tensor.Tensor], error) {
		return r.opts.Group.AllReduce(s.ctx, t, c10d.Sum)
	})
}

func (r *Reducer) gradientError(i int, err error) error {
	if i < 0 || i >= len(r.params) {
		return fmt.Errorf("ddp, rank %d, gradient %d: %w", r.opts.Group.Rank(), i, err)
	}
	return fmt.Errorf("ddp, rank %d, gradient of %s: %w", r.opts.Group.Rank(), r.params[i].Name, err)
}
