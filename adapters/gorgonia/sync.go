package gorgoniaddp

import (
	"context"
	"errors"
	"fmt"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/ddp/flat"
)

// Sync keeps the learnables of a graph alike over the ranks. Its methods are for one goroutine,
// which runs one step after another.
type Sync struct {
	learnables gorgonia.Nodes
	flat       reducer
	locate     func() error // finds the gradients' memory
	noSync     bool
	broken     error // this rank is not as the others are any more
}

// reducer is the flat.Sync of either dtype.
type reducer interface {
	Step(ctx context.Context) error
	NoSync(f func() error) error
	Digest(ctx context.Context) error
	Join(ctx context.Context) error
	Reducer() *ddp.Reducer
	Parameters() []*c10d.Parameter
	Close()
}

// New checks that all ranks have the same learnables, by name, shape and dtype, and gives every
// rank rank 0's values: a collective. What is wrong on one rank is an error on every rank. opts are
// those of ddp.NewReducer but StaticGraph and UnusedFind. The learnables must have values (load a
// checkpoint before), all of float32 or all of float64, and no scalar among them; a tensor of shape
// (1) is not a scalar.
func New(ctx context.Context, learnables gorgonia.Nodes, opts ddp.Options) (*Sync, error) {
	s := &Sync{learnables: append(gorgonia.Nodes(nil), learnables...)}
	dtype, err := s.check(opts)
	if err := ddp.ShareError(ctx, opts.Group, err); err != nil {
		return nil, err
	}
	if dtype == tensor.Float64 {
		err = open[float64](ctx, s, opts)
	} else {
		err = open[float32](ctx, s, opts)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// check says what is wrong with the learnables, or which dtype they have.
func (s *Sync) check(opts ddp.Options) (dtype tensor.Dtype, err error) {
	if opts.StaticGraph || opts.Unused == ddp.UnusedFind {
		return dtype, errors.New("gorgoniaddp: Options.StaticGraph and UnusedFind are for steps that use parameters differently: a graph always uses all of its learnables")
	}
	if len(s.learnables) == 0 {
		return dtype, errors.New("gorgoniaddp: no learnables")
	}
	for i, n := range s.learnables {
		if n == nil {
			return dtype, fmt.Errorf("gorgoniaddp: learnable %d is nil", i)
		}
		switch {
		case n.Value() == nil:
			err = errors.New("it has no value: give it one, with gorgonia.WithInit or WithValue")
		case n.IsScalar():
			err = errors.New("a scalar: make it a vector of one element")
		case n.Dtype() == tensor.Float64:
			_, err = elements[float64](n.Value(), n.Shape())
		default:
			_, err = elements[float32](n.Value(), n.Shape())
		}
		if err == nil && n.Dtype() != s.learnables[0].Dtype() {
			err = fmt.Errorf("it is of %v, and %s of %v: learnables must have one dtype", n.Dtype(), s.learnables[0].Name(), s.learnables[0].Dtype())
		}
		if err != nil {
			return dtype, fmt.Errorf("gorgoniaddp: %s: %w", n.Name(), err)
		}
	}
	return s.learnables[0].Dtype(), nil
}

// open makes s.flat over the learnables' memory.
func open[T float32 | float64](ctx context.Context, s *Sync, opts ddp.Options) error {
	values, grads := make([][]T, len(s.learnables)), make([][]T, len(s.learnables))
	params := make([]flat.Param[T], len(s.learnables))
	locate := func(values, grads [][]T) (err error) {
		for i, n := range s.learnables {
			if values[i], err = elements[T](n.Value(), n.Shape()); err != nil {
				return fmt.Errorf("gorgoniaddp: the value of %s: %w", n.Name(), err)
			}
			if grads == nil {
				continue
			}
			grad, err := n.Grad()
			if err == nil {
				grads[i], err = elements[T](grad, n.Shape())
			}
			if err != nil {
				return fmt.Errorf("gorgoniaddp: the gradient of %s: %w (gorgonia.Grad must be given it, and the machine have run)", n.Name(), err)
			}
		}
		return nil
	}
	if err := locate(values, nil); err != nil { // check has seen them
		return err
	}
	for i, n := range s.learnables {
		shape := make([]int64, n.Shape().Dims())
		for k, size := range n.Shape() {
			shape[k] = int64(size)
		}
		grads[i] = values[i] // of the right length; Reduce finds the gradients before they are read
		params[i] = flat.Param[T]{Name: n.Name(), Shape: shape, Value: &values[i], Grad: &grads[i]}
	}
	s.locate = func() error { return locate(values, grads) }
	f, err := flat.New(ctx, params, opts)
	s.flat = f
	return err
}

// Reduce reduces the gradients, in their own memory: for trainers that step the learnables
// themselves. Call it after the machine has run, and before the solver. On an error, which is
// ddp.Reducer.Wait's, or flat.ErrMoved where a learnable got another value's memory, or names a
// learnable without a gradient, the gradients are as they were: drop them, since the machine adds
// the next ones to them. In NoSync it does nothing.
func (s *Sync) Reduce(ctx context.Context) error {
	if s.noSync {
		return s.accumulates()
	}
	if s.broken != nil {
		return s.flat.Reducer().Leave(ctx, s.broken)
	}
	if err := s.locate(); err != nil {
		return s.flat.Reducer().Leave(ctx, err) // so that the other ranks hear why
	}
	return s.flat.Step(ctx)
}

// accumulates says whether the machine adds gradients up, from run to run.
func (s *Sync) accumulates() error {
	for _, n := range s.learnables {
		grad, err := n.Grad()
		if err == nil && grad != nil && n.Deriv() != nil && grad == n.Deriv().Value() {
			return fmt.Errorf("gorgoniaddp: NoSync: the machine does not add up the gradients of %s: make it with gorgonia.BindDualValues of all learnables", n.Name())
		}
	}
	return nil
}

// Solver returns a solver whose Step reduces the gradients before that of inner, and does not call
// it if that fails: the learnables are as they were, and the gradients dropped. If inner fails, every
// later Step is an error on every rank. In NoSync Step does nothing, so that gradients add up. ctx bounds
// the waiting for other ranks.
func (s *Sync) Solver(ctx context.Context, inner gorgonia.Solver) gorgonia.Solver {
	return &solver{ctx, s, inner}
}

type solver struct {
	ctx   context.Context
	sync  *Sync
	inner gorgonia.Solver
}

// Step implements gorgonia.Solver.
func (s *solver) Step(model []gorgonia.ValueGrad) error {
	if s.sync.noSync {
		return s.sync.accumulates()
	}
	err := s.sync.unknown(model)
	if err != nil {
		err = s.sync.flat.Reducer().Leave(s.ctx, err) // so that the other ranks hear why
	} else {
		err = s.sync.Reduce(s.ctx)
	}
	if err != nil {
		return errors.Join(err, s.sync.drop())
	}
	if err := s.inner.Step(model); err != nil {
		s.sync.broken = fmt.Errorf("gorgoniaddp: the gradients are reduced, but this rank's solver failed, where the others' stepped: %w", err)
	}
	return s.sync.broken
}

func (s *Sync) unknown(model []gorgonia.ValueGrad) error {
	for _, m := range model {
		if n, ok := m.(*gorgonia.Node); !ok || !s.learnables.Contains(n) {
			return fmt.Errorf("gorgoniaddp: Step is given %v, which New was not: its gradient would be this rank's own", m)
		}
	}
	return nil
}

// drop sets the gradients to zero, as a solver does when it has stepped.
func (s *Sync) drop() error {
	for _, n := range s.learnables {
		grad, err := n.Grad()
		if err != nil || grad == nil {
			continue // there is none
		}
		zeroer, ok := grad.(gorgonia.Zeroer)
		if !ok {
			return fmt.Errorf("gorgoniaddp: the gradient of %s cannot be dropped", n.Name())
		}
		zeroer.Zero()
	}
	return nil
}

// NoSync runs f, in which gradients are only added up, by a machine with gorgonia.BindDualValues:
// Step and Reduce do nothing. Every rank must do the same. The error is f's, or that a step is
// under way.
func (s *Sync) NoSync(f func() error) error {
	return s.flat.NoSync(func() error {
		s.noSync = true
		defer func() { s.noSync = false }()
		return f()
	})
}

// Digest checks that the learnables' values are the same bits on every rank: a collective, to call
// every so many steps. See ddp.VerifyValues.
func (s *Sync) Digest(ctx context.Context) error { return s.flat.Digest(ctx) }

// Join is what a rank does that has no more data while others may have: see flat.Sync.Join.
func (s *Sync) Join(ctx context.Context) error { return s.flat.Join(ctx) }

// Parameters are the learnables as hooks see them. They belong to s.
func (s *Sync) Parameters() []*c10d.Parameter { return s.flat.Parameters() }

// Reducer returns the Reducer, for its LoggingData, Buckets and Order. It is closed with s.
func (s *Sync) Reducer() *ddp.Reducer { return s.flat.Reducer() }

// Close frees the buckets. The group and the hook stay the caller's. Idempotent.
func (s *Sync) Close() { s.flat.Close() }
