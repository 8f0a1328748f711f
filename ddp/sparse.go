package ddp

import (
	"errors"
	"fmt"

	"pyhook/c10d"
	"pyhook/tensor"
)

// ReadySparse is Ready for a sparse parameter (c10d.Parameter.Sparse): g is this
// step's local gradient, of any number of rows. Its memory is shared with hooks,
// which may change the values in place, as they may a Gradient; it must stay
// until Wait, which writes nothing to it. In NoSync, and where StaticGraph has
// several marks, g is all that was added up so far: rows may just be appended to
// those of before. The error is ErrSparse for a dense parameter,
// c10d.ErrSparseGradient for indices and values that are no gradient of the
// parameter, and else as Ready's; the parameter is not marked then.
func (r *Reducer) ReadySparse(i int, g *c10d.SparseGradient) error {
	if i >= 0 && i < len(r.params) && r.params[i].Sparse {
		own, err := c10d.CheckSparseGradient(g, r.params[i])
		if err != nil {
			return r.gradientError(i, err)
		}
		if err := r.markSparse(i, own); err != nil {
			own.Close()
			return err
		}
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.markableLocked(i); err != nil {
		return err
	}
	return r.kindError(i)
}

// markSparse takes g over.
func (r *Reducer) markSparse(i int, g *c10d.SparseGradient) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, err := r.beginMarkLocked(i, true)
	if err != nil {
		return err
	}
	if r.noSync {
		r.carried[i].close()
		r.carried[i] = carry{used: true, sparse: g}
		return nil
	}
	r.step.sparse[i].Close()
	r.step.sparse[i] = g
	if last {
		r.markReadyLocked(r.step, i)
	}
	return nil
}

// SparseGradient returns the reduced gradient of a sparse parameter after a Wait
// that succeeded: each place once, sorted, and as many rows as the ranks together
// have. nil before that, and for a dense parameter. It belongs to the reducer and
// is gone at the end of the next Wait that succeeds, and at Close.
func (r *Reducer) SparseGradient(i int) *c10d.SparseGradient {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	return r.reduced[i]
}

// kindError is of a sparse parameter that was marked as a dense one, or the other
// way round.
func (r *Reducer) kindError(i int) error {
	e := &ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[i].Name}, Code: ErrSparse}
	if r.params[i].Sparse {
		e.Detail, e.Hint = "its gradient is sparse", "mark it with ReadySparse (MarkUnused without memory), or make it dense: Parameter.Sparse on every rank"
	} else {
		e.Detail, e.Hint = "its gradient is dense", "mark it with Ready or ReadyFrom, or set Parameter.Sparse on every rank"
	}
	return e
}

// checkSparse says whether the hook can reduce the parameters' gradients.
func (r *Reducer) checkSparse() error {
	for _, p := range r.params {
		if !p.Sparse {
			continue
		}
		r.sparse = true
		if device := p.GradientDevice(); !device.IsCPU() {
			return fmt.Errorf("ddp, rank %d: %w: %s is sparse and on %s: sparse gradients are reduced in the CPU's memory: "+
				"keep the embedding there, or make its gradient dense", r.opts.Group.Rank(), ErrSparse, p.Name, device)
		}
		if len(p.Shape) == 0 {
			return fmt.Errorf("ddp, rank %d: %s is sparse and has no dimensions", r.opts.Group.Rank(), p.Name)
		}
		if _, ok := r.opts.Hook.(c10d.SparseHook); !ok {
			return fmt.Errorf("ddp, rank %d: %w: %s is sparse and the hook (%T) is not a c10d.SparseHook: "+
				"use one (AllReduceCommHook, Python's hooks, or none), or make the gradient dense", r.opts.Group.Rank(), ErrSparse, p.Name, r.opts.Hook)
		}
	}
	return nil
}

// callSparse, by the launcher, calls the hook for a sparse bucket.
func (r *Reducer) callSparse(s *step, res *result, b *bucket) (*c10d.Future[c10d.Result], c10d.Chain, error) {
	i := b.params[0]
	g := s.sparse[i]
	if g == nil {
		empty, err := r.noRows(i)
		if err != nil {
			return nil, nil, err
		}
		defer empty.Close()
		g = empty
	} else if r.opts.Rollback {
		copied, err := r.copyOf(i, g)
		if err != nil {
			return nil, nil, err
		}
		defer copied.Close()
		g = copied
	}
	var err error
	// It looks at the indices again: they are the trainer's memory.
	if res.grad, err = c10d.NewSparseGradBucket(res.timing.Bucket, len(r.buckets), r.params[i], g); err != nil {
		return nil, nil, err
	}
	res.timing.Bytes = g.Indices.Bytes() + g.Values.Bytes()
	return r.callWith(s, res.grad)
}

// noRows is the gradient of a step that does not use the parameter.
func (r *Reducer) noRows(i int) (*c10d.SparseGradient, error) {
	dims := 1
	if before := r.SparseGradient(i); before != nil {
		dims = int(before.Indices.Shape()[0])
	}
	return c10d.NewSparseGradient(r.params[i], dims, 0)
}

// copyOf is parameter i's gradient in memory of its own.
func (r *Reducer) copyOf(i int, g *c10d.SparseGradient) (*c10d.SparseGradient, error) {
	c, err := c10d.NewSparseGradient(r.params[i], int(g.Indices.Shape()[0]), g.NNZ())
	if err != nil {
		return nil, err
	}
	if err := errors.Join(tensor.Copy(c.Indices, g.Indices), tensor.Copy(c.Values, g.Values)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// fillSparse is fill for a sparse parameter.
func (r *Reducer) fillSparse(s *step, i int) {
	if c := &r.carried[i]; !r.countingLocked() && c.used {
		s.used[i] = 1
		s.sparse[i], c.sparse = c.sparse, nil
	}
}

// parseSparse reads a result for storeReduced.
func (r *Reducer) parseSparse(res *result, b *bucket) error {
	g, err := r.opts.Hook.(c10d.SparseHook).ParseSparseHookResult(res.grad, res.value)
	if err != nil {
		return err
	}
	defer g.Close()
	if res.reduced, err = c10d.CheckSparseGradient(g, r.params[b.params[0]]); err != nil {
		return fmt.Errorf("%w: %w", c10d.ErrBadResult, err)
	}
	return nil
}

// storeReduced makes the result the parameter's reduced gradient.
func (r *Reducer) storeReduced(res *result, b *bucket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := b.params[0]
	r.reduced[i].Close()
	r.reduced[i], res.reduced = res.reduced, nil
}

// closeSparse lets go of a result's sparse bucket when nothing works on it.
func (res *result) closeSparse() {
	res.reduced.Close()
	switch {
	case res.grad == nil || res.grad.Sparse() == nil:
	case res.future == nil:
		res.grad.Close()
	default:
		whenDone(res.future, res.grad.Close)
	}
}

// bytes are the buffer's; those of a sparse bucket are known when it is called.
func (b *bucket) bytes() int64 {
	if b.sparse {
		return 0
	}
	return b.buffer.Bytes()
}

func closeGradients(list []*c10d.SparseGradient) {
	for i, g := range list {
		g.Close()
		list[i] = nil
	}
}
