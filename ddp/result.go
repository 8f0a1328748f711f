package ddp

import (
	"errors"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/tensor"
)

// busy returns the future of what may still write to the bucket: collectives, or, if the call was
// given up or interrupted, a thread of the hook's that nobody knows of. nil: nothing.
func (res *result) busy() *c10d.Future[c10d.Result] {
	switch {
	case res.future != nil && !res.future.IsDone():
		return res.future // done after what is left
	case res.left != nil && !res.left.IsDone():
		return res.left
	case errors.Is(res.err, errAbandoned), errors.Is(res.err, c10d.ErrInterrupted):
		return c10d.CompletedFuture[c10d.Result](nil, nil)
	}
	return nil
}

// parse reads a result and makes sure that it can be copied to the bucket.
func (r *Reducer) parse(res *result, b *bucket) (*tensor.Tensor, error) {
	t, err := r.opts.Hook.ParseHookResult(res.grad, res.value)
	if err != nil {
		return nil, err
	}
	switch {
	case t == nil:
		return nil, fmt.Errorf("%w: nil", c10d.ErrNotTensor)
	case t.Device() != b.buffer.Device():
		err = fmt.Errorf("%w: %s for a bucket on %s", c10d.ErrDevice, t, b.buffer.Device())
	case t.DType().IsComplex():
		err = convertible(b.buffer.DType(), t.DType())
	case !slices.Equal(t.Shape(), b.buffer.Shape()):
		err = fmt.Errorf("%w: %s for a bucket of %s", c10d.ErrBadResult, t, b.buffer)
	default:
		err = convertible(b.buffer.DType(), t.DType())
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// convertible says whether tensors of one dtype can be copied to those of
// another.
func convertible(to, from tensor.DType) error {
	if to == from {
		return nil
	}
	if to.IsComplex() != from.IsComplex() {
		return fmt.Errorf("%w: %s and %s: imaginary parts would be lost", c10d.ErrComplex, from, to)
	}
	dst, err := tensor.New(to, 1)
	if err != nil {
		return err
	}
	defer dst.Close()
	src, err := tensor.New(from, 1)
	if err != nil {
		return err
	}
	defer src.Close()
	return tensor.Copy(dst, src)
}
