package ddp

import (
	"fmt"

	"pyhook/c10d"
	"pyhook/tensor"
)

// carry is what the steps without synchronisation leave to the next one with it.
type carry struct {
	used   bool
	grad   *tensor.Tensor       // ReadyFrom's; nil: the gradient is the view
	sparse *c10d.SparseGradient // ReadySparse's
}

func (c carry) close() {
	c.grad.Close()
	c.sparse.Close()
}

// NoSync runs f, in which gradients are only accumulated:
// DistributedDataParallel.no_sync. Until it returns, Ready and ReadyFrom mark
// nothing and Wait returns at once; no hook is called. The trainer adds the
// gradients up, in Gradient(i) or its own memory, and the next step marks and
// reduces the sums. Every rank must do the same steps without synchronisation.
// The error is f's, or that a step is under way.
func (r *Reducer) NoSync(f func() error) error {
	r.mu.Lock()
	err := r.betweenLocked("NoSync")
	if err == nil {
		r.noSync = true
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.noSync = false
	}()
	return f()
}

// betweenLocked says whether no step is under way.
func (r *Reducer) betweenLocked(doing string) error {
	if err := r.usableLocked(); err != nil {
		return err
	}
	if r.noSync {
		return fmt.Errorf("ddp, rank %d: %s inside NoSync", r.opts.Group.Rank(), doing)
	}
	if r.waiting || r.step.stop != nil {
		return fmt.Errorf("ddp, rank %d: %s before the step is over", r.opts.Group.Rank(), doing)
	}
	for i, m := range r.step.marks {
		if m != unmarked || r.step.seen[i] > 0 {
			return fmt.Errorf("ddp, rank %d: %s in a step in which %s is marked already: call Wait first", r.opts.Group.Rank(), doing, r.params[i].Name)
		}
	}
	return nil
}

// carryOverLocked notes what NoSync does not mark. A
// parameter that was used here has a gradient also if the step that reduces does
// not use it (reducer.cpp, autograd_hook, sets local_used_map_ also under
// no_sync).
func (r *Reducer) carryOverLocked(i int, grad *tensor.Tensor) error {
	c := carry{used: true}
	if grad != nil {
		err := r.matches(i, grad)
		if err == nil {
			c.grad, err = grad.View(0, grad.Shape(), grad.Strides())
		}
		if err != nil {
			return r.gradientError(i, err)
		}
	}
	r.carried[i].close()
	r.carried[i] = c
	return nil
}

// dropCarriedLocked forgets what was carried over.
func (r *Reducer) dropCarriedLocked() {
	for i := range r.carried {
		r.carried[i].close()
		r.carried[i] = carry{}
	}
}
