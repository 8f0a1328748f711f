package c10d

import (
	"fmt"
	"slices"

	"pyhook/tensor"
)

// Result is what a hook's future completes with. Only the hook's own ParseHookResult knows what is
// in it. It belongs to its future, which calls Release when it is closed; Release is idempotent.
type Result interface{ Release() }

// TensorResult is the Result of a hook in Go.
type TensorResult struct {
	Tensor *tensor.Tensor
	Owned  bool // the future closes the tensor
}

// Release: see Result.
func (r TensorResult) Release() {
	if r.Owned {
		r.Tensor.Close()
	}
}

// SparseResult is the Result of a hook in Go for a sparse bucket. The future closes the gradient.
type SparseResult struct{ Gradient *SparseGradient }

// Release: see Result.
func (r SparseResult) Release() { r.Gradient.Close() }

// ParseTensor is ParseHookResult for hooks whose futures complete with a TensorResult: a handle of
// its own on the tensor, which the caller closes.
func ParseTensor(r Result) (*tensor.Tensor, error) {
	t, ok := r.(TensorResult)
	if !ok || t.Tensor == nil {
		return nil, &Error{Op: "hook in Go", Rank: -1, Bucket: -1, Code: ErrNotTensor, Detail: fmt.Sprintf("the future holds %T and no TensorResult", r)}
	}
	return t.Tensor.View(0, t.Tensor.Shape(), t.Tensor.Strides())
}

// ParseSparse is ParseSparseHookResult for hooks whose futures complete with a SparseResult.
func ParseSparse(r Result) (*SparseGradient, error) {
	s, ok := r.(SparseResult)
	if !ok || s.Gradient == nil {
		return nil, &Error{Op: "hook in Go", Rank: -1, Bucket: -1, Code: ErrNotTensor, Detail: fmt.Sprintf("the future holds %T and no SparseResult", r)}
	}
	return s.Gradient.Views()
}

// CheckResult says why t, which a hook's ParseHookResult returned, cannot be copied to its bucket's
// buffer: nil, another device or shape, or a dtype that does not convert to the buffer's.
func CheckResult(t, buffer *tensor.Tensor) error {
	switch {
	case t == nil:
		return fmt.Errorf("%w: nil", ErrNotTensor)
	case t.Device() != buffer.Device():
		return fmt.Errorf("%w: %s for a bucket on %s", ErrDevice, t, buffer.Device())
	case !t.DType().IsComplex() && !slices.Equal(t.Shape(), buffer.Shape()):
		return fmt.Errorf("%w: %s for a bucket of %s", ErrBadResult, t, buffer)
	}
	return CheckConversion(buffer.DType(), t.DType())
}

// CheckConversion says why tensors of one dtype cannot be copied to those of another.
func CheckConversion(to, from tensor.DType) error {
	if to == from {
		return nil
	}
	if to.IsComplex() != from.IsComplex() {
		return fmt.Errorf("%w: %s and %s: imaginary parts would be lost", ErrComplex, from, to)
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
