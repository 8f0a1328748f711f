package ddp

import (
	"errors"
	"fmt"

	"pyhook/pyhook"
	"pyhook/tensor"
)

// ReadySparse is Ready for a sparse parameter (pyhook.Parameter.Sparse): g is this
// step's local gradient, of any number of rows. Its memory is shared with hooks,
// which may change the values in place, as they may a Gradient; it must stay
// until Wait, which writes nothing to it. In NoSync, and where StaticGraph has
// several marks, g is all that was added up so far: rows may just be appended to
// those of before. The error is ErrSparse for a dense parameter,
// pyhook.ErrSparseGradient for indices and values that are no gradient of the
// parameter, and else as Ready's; the parameter is not marked then.
func (r *Reducer) ReadySparse(i int, g *pyhook.SparseGradient) error {
	if i >= 0 && i < len(r.params) && r.params[i].Sparse {
		own, err := pyhook.CheckSparseGradient(g, r.params[i])
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
	if err := r.markable(i); err != nil {
		return err
	}
	return r.kindError(i)
}

// markSparse takes g over.
func (r *Reducer) markSparse(i int, g *pyhook.SparseGradient) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, err := r.enter(i, true)
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
		r.mark(r.step, i)
	}
	return nil
}

// SparseGradient returns the reduced gradient of a sparse parameter after a Wait
// that succeeded: each place once, sorted, and as many rows as the ranks together
// have. nil before that, and for a dense parameter. It belongs to the reducer and
// is gone at the end of the next Wait that succeeds, and at Close.
func (r *Reducer) SparseGradient(i int) *pyhook.SparseGradient {
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
	e := &ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[i].Name}, Kind: ErrSparse}
	if r.params[i].Sparse {
		e.Detail, e.Hint = "its gradient is sparse", "mark it with ReadySparse (MarkUnused without memory), or make it dense: Parameter.Sparse on every rank"
	} else {
		e.Detail, e.Hint = "its gradient is dense", "mark it with Ready or ReadyFrom, or set Parameter.Sparse on every rank"
	}
	return e
}

// checkSparse says whether the hook can reduce the parameters' gradients, and
// makes Auto's order one that it can do.
func (r *Reducer) checkSparse() error {
	for _, p := range r.params {
		if !p.Sparse {
			continue
		}
		r.sparse = true
		if len(p.Shape) == 0 {
			return fmt.Errorf("ddp, rank %d: %s is sparse and has no dimensions", r.opts.Group.Rank(), p.Name)
		}
		if _, ok := r.opts.Hook.(pyhook.SparseCommHook); !ok {
			return fmt.Errorf("ddp, rank %d: %w: %s is sparse and the hook (%T) is no pyhook.SparseCommHook: "+
				"use one (AllReduceCommHook, Python's hooks, or none), or make the gradient dense", r.opts.Group.Rank(), ErrSparse, p.Name, r.opts.Hook)
		}
		if _, ok := r.opts.Hook.(pyhook.ChainedSparseHook); r.order == Ordered && !ok {
			if r.opts.Order == Ordered {
				return fmt.Errorf("ddp, rank %d: %w: Options.Order is Ordered, %s is sparse, and the hook is no pyhook.ChainedSparseHook: use Auto or Serial", r.opts.Group.Rank(), ErrSparse, p.Name)
			}
			r.order = Serial
		}
	}
	return nil
}

// callSparse, by the launcher, calls the hook for a sparse bucket.
func (r *Reducer) callSparse(s *step, res *result, b *bucket) (*pyhook.Future, pyhook.Chain, error) {
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
	if res.sparse, err = pyhook.NewSparseGradBucket(res.timing.Bucket, len(r.buckets), r.params[i], g); err != nil {
		return nil, nil, err
	}
	res.timing.Bytes = g.Indices.Bytes() + g.Values.Bytes()
	if h, ok := r.opts.Hook.(pyhook.ChainedSparseHook); ok && r.chained() {
		return h.RunSparseHookChained(s.ctx, res.sparse)
	}
	future, err := r.opts.Hook.(pyhook.SparseCommHook).RunSparseHook(s.ctx, res.sparse)
	return future, nil, err
}

// noRows is the gradient of a step that does not use the parameter.
func (r *Reducer) noRows(i int) (*pyhook.SparseGradient, error) {
	dims := 1
	if before := r.SparseGradient(i); before != nil {
		dims = int(before.Indices.Shape()[0])
	}
	return pyhook.NewSparseGradient(r.params[i], dims, 0)
}

// copyOf is parameter i's gradient in memory of its own.
func (r *Reducer) copyOf(i int, g *pyhook.SparseGradient) (*pyhook.SparseGradient, error) {
	c, err := pyhook.NewSparseGradient(r.params[i], int(g.Indices.Shape()[0]), g.NNZ())
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
	if c := &r.carried[i]; !r.counting() && c.used {
		s.used[i] = 1
		s.sparse[i], c.sparse = c.sparse, nil
	}
}

// parseSparse reads a result for take.
func (r *Reducer) parseSparse(res *result, b *bucket) error {
	g, err := r.opts.Hook.(pyhook.SparseCommHook).ParseSparseHookResult(res.sparse, res.value)
	if err != nil {
		return err
	}
	defer g.Close()
	if res.reduced, err = pyhook.CheckSparseGradient(g, r.params[b.params[0]]); err != nil {
		return fmt.Errorf("%w: %w", pyhook.ErrBadResult, err)
	}
	return nil
}

// take makes the result the parameter's reduced gradient.
func (r *Reducer) take(res *result, b *bucket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := b.params[0]
	r.reduced[i].Close()
	r.reduced[i], res.reduced = res.reduced, nil
}

// closeSparse lets go of a result's sparse bucket when nothing works on it.
func (res *result) closeSparse() {
	res.reduced.Close()
	if res.sparse == nil {
		return
	}
	if res.future == nil {
		res.sparse.Close()
		return
	}
	whenDone(res.future, res.sparse.Close)
}

// bytes are the buffer's; those of a sparse bucket are known when it is called.
func (b *bucket) bytes() int64 {
	if b.sparse {
		return 0
	}
	return b.buffer.Bytes()
}

func closeGradients(list []*pyhook.SparseGradient) {
	for i, g := range list {
		g.Close()
		list[i] = nil
	}
}
