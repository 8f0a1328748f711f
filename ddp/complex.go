package ddp

import (
	"fmt"

	"pyhook/c10d"
	"pyhook/tensor"
)

// A bucket of complex parameters is a real buffer of both parts of each number, as
// DistributedDataParallel has it from torch 2.14 on: hooks that compress it, or give
// the real view that all_reduce makes, lose nothing. Gradient(i) is complex, over the
// same memory. Real and complex parameters share no buckets.

// checkComplex says whether the hook can reduce the parameters: a hook in Python
// knows what its torch's DDP can.
func (r *Reducer) checkComplex() error {
	hook, ok := r.opts.Hook.(c10d.ComplexHook)
	if !ok {
		return nil
	}
	for _, p := range r.params {
		if !p.DType.IsComplex() {
			continue
		}
		if err := hook.ComplexParameters(); err != nil {
			return fmt.Errorf("ddp, rank %d: %s is %s: %w", r.opts.Group.Rank(), p.Name, p.DType, err)
		}
		return nil
	}
	return nil
}

// shapeIn is the shape of p's gradient in a bucket.
func shapeIn(p *c10d.Parameter) []int64 {
	if p.DType.IsComplex() {
		return append(append([]int64{}, p.Shape...), 2)
	}
	return p.Shape
}

// elementsIn counts p's elements in a bucket.
func elementsIn(p *c10d.Parameter) int64 {
	if p.DType.IsComplex() {
		return 2 * elements(p)
	}
	return elements(p)
}

// viewOf returns a part of a bucket's buffer, of this shape there, as a gradient.
func viewOf(buffer *tensor.Tensor, offset int64, shape []int64, dtype tensor.DType) (*tensor.Tensor, error) {
	view, err := buffer.View(offset, shape, nil)
	if err != nil || !dtype.IsComplex() {
		return view, err
	}
	defer view.Close()
	return tensor.ViewAsComplex(view)
}
