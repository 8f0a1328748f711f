package spagoddp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/nlpodyssey/spago/ag"
	"github.com/nlpodyssey/spago/mat"
	"github.com/nlpodyssey/spago/mat/float"
	"github.com/nlpodyssey/spago/nn"
	"github.com/nlpodyssey/spago/optimizers"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/tensor"
)

// Sync keeps a model's parameters alike over the ranks. Its methods are for one goroutine, which
// runs one step after another.
type Sync struct {
	ctx     context.Context // Wrap's
	opts    ddp.Options
	params  []*parameter
	seen    []*c10d.Parameter
	byValue map[mat.Tensor]int // the values' matrix, of each parameter
	reducer *ddp.Reducer
	noSync  bool

	mu     sync.Mutex
	failed error // of a gradient of this step, the first
}

// Wrap checks that all ranks have the same model, gives every rank rank 0's values, and moves
// values and gradients to pyhook's memory: a collective. What is wrong on one rank is an error on
// every rank, and the model is as it was. opts are those of ddp.NewReducer but StaticGraph. The
// model must have no gradients yet; load a checkpoint before. Optimisers may be made before or
// after.
func Wrap(ctx context.Context, model nn.Model, opts ddp.Options) (*Sync, error) {
	s := &Sync{ctx: ctx, opts: opts, byValue: map[mat.Tensor]int{}}
	frozen, err := s.prepare(model)
	defer closeAll(frozen)
	if err := ddp.ShareError(ctx, opts.Group, err); err != nil {
		s.free()
		return nil, err
	}
	s.reducer, err = ddp.NewReducer(ctx, s.seen, opts)
	if err == nil {
		err = ddp.VerifyParameters(ctx, opts.Group, frozen)
	}
	if err == nil {
		err = ddp.BroadcastParameters(ctx, opts.Group, append(slices.Clone(s.seen), frozen...))
	}
	if err == nil {
		err = s.setGradients()
	}
	if err != nil {
		s.free()
		return nil, err
	}
	for _, p := range s.params {
		p.param.Matrix = p.matrix
	}
	return s, nil
}

// prepare finds the parameters. frozen are those that need no gradient, over their own memory; the
// caller closes them, also with an error.
func (s *Sync) prepare(model nn.Model) (frozen []*c10d.Parameter, err error) {
	if s.opts.StaticGraph {
		return nil, errors.New("spagoddp: Options.StaticGraph is for parameters that are marked several times in a step: Backward counts gradients itself")
	}
	list, err := parametersOf(model)
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		switch m := n.param.Matrix.(type) {
		case *mat.Dense[float32]:
			frozen, err = prepareDense(s, n, m, tensor.Float32, frozen)
		case *mat.Dense[float64]:
			frozen, err = prepareDense(s, n, m, tensor.Float64, frozen)
		case matrix:
			err = errors.New("it is wrapped already: Unwrap first")
		default:
			err = fmt.Errorf("a parameter that is a %T", m)
		}
		if err != nil {
			return frozen, fmt.Errorf("spagoddp: %s: %w", n.name, err)
		}
	}
	if len(s.params) == 0 {
		return frozen, fmt.Errorf("spagoddp: no parameter of %T requires a gradient", model)
	}
	return frozen, nil
}

func prepareDense[T float.DType](s *Sync, n named, m *mat.Dense[T], dtype tensor.DType, frozen []*c10d.Parameter) ([]*c10d.Parameter, error) {
	seen := &c10d.Parameter{Name: n.name, Shape: shapeOf(m.Shape()), DType: dtype}
	if !m.RequiresGrad() {
		data, err := tensor.FromSlice(mat.Data[T](m), seen.Shape...)
		if err != nil {
			return frozen, err
		}
		seen.Data = data
		return append(frozen, seen), nil
	}
	if m.HasGrad() {
		return frozen, errors.New("it has a gradient: Wrap before the first Backward, or after nn.ZeroGrad")
	}
	p := &parameter{named: n, index: len(s.params), seen: seen}
	s.params, s.seen = append(s.params, p), append(s.seen, seen)
	d, err := newDense(s, p, m)
	if err != nil {
		return frozen, err
	}
	p.matrix = d
	s.byValue[d.Value()] = p.index
	return frozen, nil
}

// shapeOf is the shape as hooks see it: a column, as spago has vectors, is a vector to torch.
func shapeOf(shape []int) []int64 {
	if shape[1] == 1 {
		return []int64{int64(shape[0])}
	}
	return []int64{int64(shape[0]), int64(shape[1])}
}

func closeAll(list []*c10d.Parameter) {
	for _, p := range list {
		p.Close()
		p.Data.Close()
	}
}

// setGradients follows the gradients to where the Reducer has them now.
func (s *Sync) setGradients() error {
	for i, p := range s.params {
		if err := p.matrix.setGradient(s.reducer.Gradient(i)); err != nil {
			return fmt.Errorf("spagoddp: %s: %w", p.name, err)
		}
	}
	return nil
}

// Parameters are the wrapped parameters, as hooks see them. They belong to s.
func (s *Sync) Parameters() []*c10d.Parameter { return slices.Clone(s.seen) }

// Reducer returns the Reducer, for its LoggingData, Buckets and Order. It is closed with s.
func (s *Sync) Reducer() *ddp.Reducer { return s.reducer }

// Backward is ag.Backward, and starts the reduction: a bucket's hook is called when the last
// gradient of its last parameter was added, while spago goes on. Call it once a step and then Wait;
// several losses, of the samples of a batch, are given at once, or those before the last in NoSync.
// A parameter that has no gradient then, nor of NoSync, is named by Wait's error (ddp.ErrNotReady),
// or with Options.Unused = ddp.UnusedFind gets the other ranks' gradient. An error ends the step on
// every rank, as one of Wait does: the others hear it, and Wrap's ctx bounds that.
func (s *Sync) Backward(losses ...mat.Tensor) error {
	if s.noSync {
		return ag.Backward(losses...)
	}
	if err := s.backward(losses); err != nil {
		return s.end(s.reducer.Leave(s.ctx, err))
	}
	return nil
}

func (s *Sync) backward(losses []mat.Tensor) error {
	for _, l := range losses {
		l.Value() // waits for the forward pass: also where this returns an error, nothing uses the model then
	}
	for _, p := range s.params {
		if p.param.Matrix != mat.Matrix(p.matrix) {
			return fmt.Errorf("spagoddp: the matrix of %s was replaced since Wrap: Unwrap, and Wrap again", p.name)
		}
		if p.complete {
			return fmt.Errorf("spagoddp: Backward while the reduction of the former one is under way (%s is with it): call Wait, or use NoSync", p.name)
		}
	}
	counts, err := s.countGradients(losses)
	if err != nil {
		return err
	}
	for i, p := range s.params {
		p.left = counts[i]
	}
	if err := ag.Backward(losses...); err != nil {
		return fmt.Errorf("spagoddp, rank %d: %w", s.opts.Group.Rank(), err)
	}
	for _, p := range s.params {
		if p.complete {
			continue
		}
		p.left = 0
		switch {
		case p.has:
			p.complete = true
			s.ready(p)
		case s.opts.Unused == ddp.UnusedFind:
			if err := s.reducer.MarkUnused(p.index); err != nil {
				s.fail(err)
			}
		}
	}
	return nil
}

// ready, on a goroutine of spago's, gives a parameter to the Reducer.
func (s *Sync) ready(p *parameter) {
	if err := s.reducer.Ready(p.index); err != nil {
		s.fail(err)
	}
}

func (s *Sync) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
}

// NoSync runs f, in which Backward only adds gradients up, and Wait does nothing: all samples of a
// batch but the last. Every rank must do the same. The error is f's, or that a step is under way.
func (s *Sync) NoSync(f func() error) error {
	return s.reducer.NoSync(func() error {
		s.noSync = true
		defer func() { s.noSync = false }()
		return f()
	})
}

// Wait waits for the reduction. Then the parameters' gradients are the reduced ones, and the
// optimiser may go on. On an error, which is ddp.Reducer.Wait's, or says that an operator gives
// gradients that were not counted, there are no gradients: an optimiser would find none, and the
// values are as they were.
func (s *Sync) Wait(ctx context.Context) error {
	if s.noSync {
		return nil
	}
	s.mu.Lock()
	err := s.failed
	s.failed = nil
	s.mu.Unlock()
	if err != nil {
		err = s.reducer.Leave(ctx, err) // so that the other ranks hear why
	} else {
		_, err = s.reducer.Wait(ctx)
	}
	return s.end(err)
}

// end ends a step, with Wait's error.
func (s *Sync) end(err error) error {
	find := s.opts.Unused == ddp.UnusedFind
	for i, p := range s.params {
		p.mu.Lock()
		p.complete, p.left = false, 0
		p.has = err == nil && (!find || s.reducer.Used(i))
		p.mu.Unlock()
	}
	if c10d.IsClosed(err) {
		return err
	}
	return errors.Join(err, s.setGradients())
}

// Optimize updates every parameter that has a gradient, one after another. Use it in place of
// spago's optimizers.Optimizer.Optimize, which in v1.1.0 returns while its last updates are still
// under way on other goroutines: the next Backward or Digest could see former values, or lose a
// gradient.
func (s *Sync) Optimize(strategy optimizers.OptimizationStrategy) error {
	for _, p := range s.params {
		if !p.param.HasGrad() {
			continue
		}
		if err := strategy.OptimizeParams(p.param); err != nil {
			return fmt.Errorf("spagoddp: updating %s: %w", p.name, err)
		}
	}
	return nil
}

// Digest checks that the parameters are the same bits on every rank: a collective, to call every so
// many steps. See ddp.VerifyValues.
func (s *Sync) Digest(ctx context.Context) error {
	return ddp.VerifyValues(ctx, s.opts.Group, s.seen)
}

// Unwrap gives the model matrices of spago's own again, with the values as they are and no
// gradients, as nn.Dump needs them, and frees pyhook's memory: no forward pass may be under way.
// The group and the hook stay the caller's. Idempotent.
func (s *Sync) Unwrap() {
	for _, p := range s.params {
		if p.param.Matrix == mat.Matrix(p.matrix) {
			p.param.Matrix = p.matrix.plain()
		}
	}
	s.free()
	s.params = nil
}

// free closes what s made.
func (s *Sync) free() {
	if s.reducer != nil {
		s.reducer.Close()
	}
	closeAll(s.seen)
}
