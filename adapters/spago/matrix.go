package spagoddp

import (
	"fmt"
	"sync"

	"github.com/nlpodyssey/spago/mat"
	"github.com/nlpodyssey/spago/mat/float"

	"pyhook/c10d"
	"pyhook/tensor"
)

// parameter is a parameter while it is wrapped.
type parameter struct {
	named
	index  int
	seen   *c10d.Parameter // as hooks see it, over the values
	matrix matrix          // that is nn.Param.Matrix until Unwrap

	mu       sync.Mutex
	has      bool // there is a gradient
	left     int  // gradients still to come in this Backward, by count
	complete bool // given to the Reducer
}

// matrix is what the two float types have in common.
type matrix interface {
	mat.Matrix
	// setGradient says where the gradient is.
	setGradient(view *tensor.Tensor) error
	// plain returns a matrix of spago's own with the same values.
	plain() mat.Matrix
}

// dense is the matrix of a wrapped parameter: its values and its gradient are slices of pyhook's
// memory. AccGrad, Grad, HasGrad and ZeroGrad are its own; the rest is spago's.
type dense[T float.DType] struct {
	*mat.Dense[T]
	owner *Sync
	*parameter
	grad *mat.Dense[T] // of the same shape
}

// newDense moves p's values, which are former's, to memory that hooks see.
func newDense[T float.DType](s *Sync, p *parameter, former *mat.Dense[T]) (*dense[T], error) {
	data, err := tensor.New(p.seen.DType, p.seen.Shape...)
	if err != nil {
		return nil, err
	}
	p.seen.Data = data
	values, err := tensor.Slice[T](data)
	if err != nil {
		return nil, err
	}
	copy(values, mat.Data[T](former))
	return &dense[T]{Dense: over(values, former.Shape(), true), owner: s, parameter: p}, nil
}

// over returns a matrix over a slice, which mat.WithBacking shares.
func over[T float.DType](data []T, shape []int, requiresGrad bool) *mat.Dense[T] {
	return mat.NewDense[T](mat.WithShape(shape...), mat.WithBacking(data), mat.WithGrad(requiresGrad))
}

func (d *dense[T]) setGradient(view *tensor.Tensor) error {
	data, err := tensor.Slice[T](view)
	if err != nil {
		return err
	}
	if d.grad == nil || len(data) > 0 && &data[0] != &mat.Data[T](d.grad)[0] {
		d.grad = over(data, d.Shape(), false)
	}
	return nil
}

func (d *dense[T]) plain() mat.Matrix {
	return over(append([]T(nil), mat.Data[T](d.Dense)...), d.Shape(), true)
}

// AccGrad adds a gradient up in the bucket.
func (d *dense[T]) AccGrad(gradient mat.Tensor) {
	if d.accumulate(gradient) {
		d.owner.ready(d.parameter)
	}
}

// accumulate returns whether this was the last gradient of this Backward.
func (d *dense[T]) accumulate(gradient mat.Tensor) (last bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.complete:
		d.owner.fail(fmt.Errorf("spagoddp: %s gets a gradient after it was complete: an operator on the way gives more gradients than it has operands, or a second Backward began before Wait", d.name))
		return false
	case gradient.Size() != d.Size():
		d.owner.fail(fmt.Errorf("spagoddp: %s of shape %v gets a gradient of shape %v", d.name, d.Shape(), gradient.Shape()))
		return false
	case d.has:
		d.grad.AddInPlace(gradient.(mat.Matrix))
	default:
		copy(mat.Data[T](d.grad), mat.Data[T](gradient))
		d.has = true
	}
	if d.left > 0 {
		d.left--
		d.complete = d.left == 0
	}
	return d.complete
}

// Grad returns the gradient, or nil.
func (d *dense[T]) Grad() mat.Tensor {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.has {
		return nil
	}
	return d.grad
}

// HasGrad says whether there is a gradient.
func (d *dense[T]) HasGrad() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.has
}

// ZeroGrad drops the gradient.
func (d *dense[T]) ZeroGrad() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.has = false
}
