package tensor

import (
	"fmt"
	"math"
	"slices"
	"unsafe"
)

// Capacity returns how many elements New allocates for a flat tensor of n; see WithCapacity.
func Capacity(n int64) int64 { return squareFrom(n) }

// FromPointerWithCapacity is FromPointer for n elements, flat and on the CPU, in memory for
// capacity elements; see WithCapacity.
func FromPointerWithCapacity(data unsafe.Pointer, dtype DType, n, capacity int64, release func()) (*Tensor, error) {
	if capacity < n {
		return nil, &Error{Op: "from pointer", Why: "less capacity than elements"}
	}
	t, err := FromPointer(data, dtype, []int64{n}, nil, Device{}, release)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		t.spare = capacity - n
	}
	return t, nil
}

// WithCapacity returns a handle on t and the spare memory behind it. New leaves spare memory behind
// a flat tensor, up to the next square number of elements, so that hooks may resize_ their buffer
// (batched PowerSGD makes a square of it): torch cannot grow memory that is not its own. Other
// tensors have no capacity. The caller closes the result.
func (t *Tensor) WithCapacity() (*Tensor, error) {
	if err := t.use(); err != nil {
		return nil, err
	}
	defer t.done()
	t.owner.Retain()
	shape := slices.Clone(t.shape)
	if t.spare > 0 {
		shape[0] += t.spare
	}
	return newTensor(t.data, t.dtype, t.device, shape, slices.Clone(t.strides), t.owner), nil
}

// Prefix returns a handle on the first n elements of a flat, contiguous tensor, whose other elements
// are its capacity; see WithCapacity. The caller closes it.
func (t *Tensor) Prefix(n int64) (*Tensor, error) {
	if len(t.shape) != 1 || !t.IsContiguous() || n < 0 || n > t.length {
		return nil, &Error{Op: "prefix", Why: fmt.Sprintf("%d elements of shape %v, strides %v", n, t.shape, t.strides)}
	}
	p, err := t.View(0, []int64{n}, nil)
	if err == nil && n > 0 {
		p.spare = t.length - n
	}
	return p, err
}

// squareFrom returns the smallest square number that is not below n.
func squareFrom(n int64) int64 {
	side := int64(math.Sqrt(float64(n)))
	for side*side < n {
		side++
	}
	return side * side
}
