package tensor

import (
	"fmt"
	"slices"
	"unsafe"
)

// View returns a handle on the same memory: offset elements after t's first, with this shape and
// these strides (nil: contiguous). A view beyond t's lowest or highest element is an *Error. The
// caller closes it.
func (t *Tensor) View(offset int64, shape, strides []int64) (*Tensor, error) {
	if err := t.use(); err != nil {
		return nil, err
	}
	defer t.done()
	n, err := count(shape)
	if err != nil {
		return nil, err
	}
	if strides == nil {
		strides = contiguous(shape)
	}
	if len(strides) != len(shape) {
		return nil, &Error{Op: "view", Why: fmt.Sprintf("%d strides for %d dimensions", len(strides), len(shape))}
	}
	low, high, ok := span(shape, strides)
	first, last, _ := span(t.shape, t.strides)
	data := t.data
	switch {
	case !ok:
		return nil, &Error{Op: "view", Why: fmt.Sprintf("strides %v reach beyond any memory", strides)}
	case n == 0: // no elements: any address will do, and Go would refuse one past the end
	case t.Len() == 0, offset < first-low, offset > last-high:
		return nil, &Error{Op: "view", Why: fmt.Sprintf("shape %v, strides %v at %d go beyond elements %d to %d", shape, strides, offset, first, last)}
	default:
		data = unsafe.Add(t.data, offset*int64(t.dtype.Size()))
	}
	t.owner.Retain()
	return newTensor(data, t.dtype, t.device, slices.Clone(shape), slices.Clone(strides), t.owner), nil
}

// Slice returns the elements of a contiguous CPU tensor as a Go slice over the same memory, valid
// until the tensor is closed: keep the tensor.
func Slice[T Element](t *Tensor) ([]T, error) {
	var zero T
	switch {
	case t.IsClosed():
		return nil, ErrClosed
	case !t.Device().IsCPU():
		return nil, &Error{Op: "slice", Why: "the memory is on " + t.Device().String()}
	case !t.IsContiguous():
		return nil, &Error{Op: "slice", Why: fmt.Sprintf("not contiguous: shape %v, strides %v", t.shape, t.strides)}
	case int(unsafe.Sizeof(zero)) != t.dtype.Size():
		return nil, &Error{Op: "slice", Why: fmt.Sprintf("%T for %s", zero, t.dtype)}
	}
	return unsafe.Slice((*T)(t.data), t.Len()), nil
}

// RawBytes returns the bytes of a contiguous CPU tensor; see Slice.
func RawBytes(t *Tensor) ([]byte, error) {
	switch {
	case t.IsClosed():
		return nil, ErrClosed
	case !t.Device().IsCPU() || !t.IsContiguous():
		return nil, &Error{Op: "bytes", Why: "not contiguous CPU memory"}
	}
	return unsafe.Slice((*byte)(t.data), t.Bytes()), nil
}
