package tensor

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"pyhook/internal/memory"
)

// alignment of allocated memory: a cache line, and the widest vector register.
const alignment = 64

// Retain returns a reference on t's memory, which the caller releases. Package tensorconv's Python
// tensors hold one.
func (t *Tensor) Retain() (memory.Owner, error) {
	if err := t.use(); err != nil {
		return memory.Owner{}, err
	}
	defer t.done()
	t.owner.Retain()
	return t.owner, nil
}

// FromOwner returns a tensor over memory whose reference it takes over; with an error that stays
// the caller's. nil strides mean contiguous. All elements must lie within the memory: it cannot
// check. Package tensorconv imports the memory of Python's tensors by it.
func FromOwner(data unsafe.Pointer, dtype DType, shape, strides []int64, device Device, owner memory.Owner) (*Tensor, error) {
	if _, err := count(shape); err != nil {
		return nil, err
	}
	if strides == nil {
		strides = contiguous(shape)
	}
	return newTensor(data, dtype, device, shape, strides, owner), nil
}

// New returns a zeroed, contiguous CPU tensor in C memory, aligned to 64 bytes. Prefer it for
// buckets: the memory never moves, needs no pinning, and has capacity (see WithCapacity). Without
// dimensions it is a scalar.
func New(dtype DType, shape ...int64) (*Tensor, error) {
	n, err := count(shape)
	if err != nil {
		return nil, err
	}
	if dtype == Invalid || dtype >= NumDTypes {
		return nil, &Error{Op: "new", Why: "invalid dtype"}
	}
	capacity := n
	if len(shape) == 1 {
		capacity = squareFrom(n)
	}
	owner, base, ok := memory.Alloc(uint64(capacity)*uint64(dtype.Size()), alignment)
	if !ok {
		return nil, &Error{Op: "new", Why: fmt.Sprintf("out of memory for %d elements of %s", n, dtype)}
	}
	t := newTensor(base, dtype, Device{Type: CPU}, slices.Clone(shape), contiguous(shape), owner)
	t.spare = capacity - n
	return t, nil
}

// FromSlice returns a contiguous tensor over s itself. s stays pinned until the tensor and all that
// share its memory (views, Python tensors) are gone. Without dimensions it is flat.
func FromSlice[T Element](s []T, shape ...int64) (*Tensor, error) {
	return FromSliceAs(s, elementType(*new(T)), shape...)
}

// FromSliceAs is FromSlice with an explicit dtype, for half-precision and 8-bit floats that Go
// holds as uint16 and uint8.
func FromSliceAs[T Element](s []T, dtype DType, shape ...int64) (*Tensor, error) {
	if len(shape) == 0 {
		shape = []int64{int64(len(s))}
	}
	n, err := count(shape)
	if err != nil {
		return nil, err
	}
	var zero T
	// The address of no elements may be any; nil needs no pinning.
	var data unsafe.Pointer
	if len(s) > 0 {
		data = unsafe.Pointer(unsafe.SliceData(s))
	}
	if int(unsafe.Sizeof(zero)) != dtype.Size() {
		return nil, &Error{Op: "from slice", Why: fmt.Sprintf("%T has %d bytes and %s has %d", zero, unsafe.Sizeof(zero), dtype, dtype.Size())}
	}
	if n != int64(len(s)) {
		return nil, &Error{Op: "from slice", Why: fmt.Sprintf("shape %v has %d elements and the slice has %d", shape, n, len(s))}
	}
	if !dtype.Aligned(data) {
		return nil, &Error{Op: "from slice", Why: fmt.Sprintf("the slice is not aligned for %s", dtype)}
	}
	pinner := new(runtime.Pinner)
	if data != nil {
		pinner.Pin(data)
	}
	return newTensor(data, dtype, Device{Type: CPU}, slices.Clone(shape), contiguous(shape), memory.Foreign(pinner.Unpin)), nil
}

// FromPointer returns a tensor over memory that the caller manages: C or CUDA memory, another
// library's buffer. strides are in elements; nil means contiguous. The memory must stay until
// release (nil is allowed) is called: once, on a goroutine of this package, when the tensor and all
// that share its memory are gone. The pointer must not point into Go's heap: use FromSlice.
func FromPointer(data unsafe.Pointer, dtype DType, shape, strides []int64, device Device, release func()) (*Tensor, error) {
	n, err := count(shape)
	if err != nil {
		return nil, err
	}
	if strides == nil {
		strides = contiguous(shape)
	}
	if len(strides) != len(shape) {
		return nil, &Error{Op: "from pointer", Why: fmt.Sprintf("%d strides for %d dimensions", len(strides), len(shape))}
	}
	if dtype == Invalid || dtype >= NumDTypes {
		return nil, &Error{Op: "from pointer", Why: "invalid dtype"}
	}
	if _, _, ok := span(shape, strides); !ok {
		return nil, &Error{Op: "from pointer", Why: fmt.Sprintf("strides %v reach beyond any memory", strides)}
	}
	switch {
	case n == 0:
		data = nil
	case data == nil:
		return nil, &Error{Op: "from pointer", Why: "nil pointer"}
	case !dtype.Aligned(data):
		return nil, &Error{Op: "from pointer", Why: fmt.Sprintf("%p is not aligned for %s", data, dtype)}
	}
	if release == nil {
		release = func() {}
	}
	return newTensor(data, dtype, device.dlpack(), slices.Clone(shape), slices.Clone(strides), memory.Foreign(release)), nil
}
