package tensor

import (
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"sync/atomic"
	"unsafe"

	"pyhook/internal/debuggc"
	"pyhook/internal/memory"
)

// alignment of memory that this package allocates: a cache line, and the
// widest vector register.
const alignment = 64

var liveTensors atomic.Int64

// LiveMemory returns how many pieces of memory tensors hold in the process, those of Python too.
func LiveMemory() int64 { return memory.Live() }

// LiveTensors returns how many Tensors are open in the process.
func LiveTensors() int64 { return liveTensors.Load() }

// Tensor is memory with a dtype, a shape and strides. It is a handle on memory
// that other Tensors and Python may share. The description never changes, so
// any goroutine may use it; the elements are the callers' to guard. Close is
// idempotent.
type Tensor struct {
	data    unsafe.Pointer // the first element
	dtype   DType
	device  Device
	shape   []int64
	strides []int64 // in elements
	length  int64   // elements
	owner   memory.Owner
	spare   int64        // elements of memory after the last one
	uses    atomic.Int32 // 1 for being open, and 1 for each operation that is inside
	closed  atomic.Bool
	cleanup runtime.Cleanup

	alias  atomic.Pointer[Tensor] // see Alias
	parent *Tensor                // of an alias
}

// newTensor takes over one reference of owner.
func newTensor(data unsafe.Pointer, dtype DType, device Device, shape, strides []int64, owner memory.Owner) *Tensor {
	t := &Tensor{data: data, dtype: dtype, device: device, shape: shape, strides: strides, owner: owner}
	t.length, _ = count(shape)
	t.uses.Store(1)
	liveTensors.Add(1)
	t.cleanup = runtime.AddCleanup(t, func(owner memory.Owner) {
		liveTensors.Add(-1)
		owner.Release()
	}, owner)
	return t
}

// Retain returns a reference on t's memory, which the caller releases: for package tensorconv,
// whose Python tensors hold the memory.
func (t *Tensor) Retain() (memory.Owner, error) {
	if err := t.use(); err != nil {
		return memory.Owner{}, err
	}
	defer t.done()
	t.owner.Retain()
	return t.owner, nil
}

// FromOwner returns a tensor over memory whose reference it takes over: for package tensorconv,
// which imports the memory of Python's tensors. Without strides it is contiguous. With an error
// the reference stays the caller's. What must hold: elements lie within the memory.
func FromOwner(data unsafe.Pointer, dtype DType, shape, strides []int64, device Device, owner memory.Owner) (*Tensor, error) {
	if _, err := count(shape); err != nil {
		return nil, err
	}
	if strides == nil {
		strides = contiguous(shape)
	}
	return newTensor(data, dtype, device, shape, strides, owner), nil
}

// New returns a zeroed, contiguous CPU tensor in C memory, aligned to 64 bytes:
// the memory to prefer for buckets, as it never moves and needs no pinning, and
// as it has capacity (see WithCapacity). No dimensions make a scalar.
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

// FromSlice returns a contiguous tensor over s itself. s is pinned until the
// tensor and all that shares its memory (views, Python tensors) are gone. No
// dimensions make it one-dimensional.
func FromSlice[T Element](s []T, shape ...int64) (*Tensor, error) {
	return FromSliceAs(s, elementType(*new(T)), shape...)
}

// FromSliceAs is FromSlice with the dtype said: for half-precision floats and
// 8-bit floats that Go carries as uint16 and uint8.
func FromSliceAs[T Element](s []T, dtype DType, shape ...int64) (*Tensor, error) {
	if len(shape) == 0 {
		shape = []int64{int64(len(s))}
	}
	n, err := count(shape)
	if err != nil {
		return nil, err
	}
	var zero T
	// The memory of no elements may be anything; nil needs no pinning.
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

// FromPointer returns a tensor over memory that someone else manages: C or
// CUDA memory, another library's buffer. strides are in elements; nil means
// contiguous. release (nil is allowed) is called once, on a goroutine of this
// package, when the tensor and all that shares its memory are gone; until then
// the memory must stay. The pointer must not be into Go's heap: use FromSlice.
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

// Close gives up this handle on the memory. Idempotent; nil is allowed. While
// another goroutine is inside an operation it waits for nothing, and takes
// effect when that one is out.
func (t *Tensor) Close() {
	if t == nil || t.parent != nil || !t.closed.CompareAndSwap(false, true) {
		return
	}
	t.cleanup.Stop()
	liveTensors.Add(-1)
	t.done()
}

// use keeps the memory, and t itself, until done.
func (t *Tensor) use() error {
	debuggc.Collect()
	if t != nil && t.parent != nil {
		t = t.parent
	}
	for t != nil {
		n := t.uses.Load()
		if n == 0 || t.closed.Load() {
			break
		}
		if t.uses.CompareAndSwap(n, n+1) {
			return nil
		}
	}
	return ErrClosed
}

func (t *Tensor) done() {
	if t.parent != nil {
		t = t.parent
	}
	if t.uses.Add(-1) == 0 {
		t.owner.Release()
	}
	runtime.KeepAlive(t)
}

// IsClosed reports whether t was closed.
func (t *Tensor) IsClosed() bool {
	debuggc.Collect()
	if t.parent != nil {
		t = t.parent
	}
	return t.closed.Load()
}

// Alias returns a handle like t whose Close does nothing: it is open as long as
// t is. Always the same one: it costs nothing, for what is handed out at every
// step and whose owner stays.
func (t *Tensor) Alias() (*Tensor, error) {
	if t.IsClosed() {
		return nil, ErrClosed
	}
	if t.parent != nil {
		return t, nil
	}
	if a := t.alias.Load(); a != nil {
		return a, nil
	}
	a := &Tensor{data: t.data, dtype: t.dtype, device: t.device, shape: t.shape, strides: t.strides, length: t.length, owner: t.owner, spare: t.spare, parent: t}
	t.alias.CompareAndSwap(nil, a)
	return t.alias.Load(), nil
}

// DType returns the element type.
func (t *Tensor) DType() DType { return t.dtype }

// Device returns where the memory is.
func (t *Tensor) Device() Device { return t.device.dlpack() }

// Shape returns the sizes of the dimensions; not to be changed.
func (t *Tensor) Shape() []int64 { return t.shape }

// Strides returns the steps between elements, in elements; not to be changed.
func (t *Tensor) Strides() []int64 { return t.strides }

// Data returns the address of the first element, valid until the last handle
// on the memory is closed.
func (t *Tensor) Data() unsafe.Pointer { return t.data }

// Len returns the number of elements.
func (t *Tensor) Len() int64 { return t.length }

// Bytes returns Len times the element's size.
func (t *Tensor) Bytes() int64 { return t.Len() * int64(t.dtype.Size()) }

// String describes the tensor, not its elements.
func (t *Tensor) String() string {
	return fmt.Sprintf("%s%v on %s", t.dtype, t.shape, t.Device())
}

// IsContiguous reports whether the elements lie in row-major order with no gaps.
func (t *Tensor) IsContiguous() bool {
	if t.Len() == 0 {
		return true
	}
	want := int64(1)
	for i := len(t.shape) - 1; i >= 0; i-- {
		if t.shape[i] != 1 && t.strides[i] != want {
			return false
		}
		want *= t.shape[i]
	}
	return true
}

// View returns a handle on the same memory: offset elements after t's first,
// with this shape and these strides (nil: contiguous). It must lie between t's
// lowest and highest element; that is checked. The result is closed on its own.
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
	case n == 0: // of nothing, so anywhere: a pointer past the end would be Go's to refuse
	case t.Len() == 0, offset < first-low, offset > last-high:
		return nil, &Error{Op: "view", Why: fmt.Sprintf("shape %v, strides %v at %d go beyond elements %d to %d", shape, strides, offset, first, last)}
	default:
		data = unsafe.Add(t.data, offset*int64(t.dtype.Size()))
	}
	t.owner.Retain()
	return newTensor(data, t.dtype, t.device, slices.Clone(shape), slices.Clone(strides), t.owner), nil
}

// Slice returns the elements of a contiguous CPU tensor as a Go slice over the
// same memory: valid until the tensor is closed, so keep the tensor.
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

// beyond is more elements than any memory has: 2^62 bytes of the widest dtype.
const beyond = 1 << 58

// Extent returns the elements of a shape, and the lowest and the highest that lie by its strides
// (nil: contiguous), counted from the first. A shape or strides beyond any memory are an *Error.
func Extent(shape, strides []int64) (n, low, high int64, err error) {
	if n, err = count(shape); err != nil {
		return 0, 0, 0, err
	}
	if strides == nil {
		strides = contiguous(shape)
	}
	low, high, ok := span(shape, strides)
	if !ok {
		return 0, 0, 0, &Error{Op: "shape", Why: fmt.Sprintf("strides %v reach beyond any memory", strides)}
	}
	return n, low, high, nil
}

func count(shape []int64) (int64, error) {
	n, empty := int64(1), false
	for _, size := range shape {
		if size < 0 {
			return 0, &Error{Op: "shape", Why: fmt.Sprintf("negative size in %v", shape)}
		}
		// Also where another size is 0: the strides must fit.
		if size > 0 && n > beyond/size {
			return 0, &Error{Op: "shape", Why: fmt.Sprintf("%v has too many elements", shape)}
		}
		n *= max(size, 1)
		empty = empty || size == 0
	}
	if empty {
		return 0, nil
	}
	return n, nil
}

// span returns the lowest and the highest element that a shape and its strides
// reach, counted from the first; not ok: beyond any memory.
func span(shape, strides []int64) (low, high int64, ok bool) {
	if slices.Contains(shape, 0) {
		return 0, 0, true
	}
	for i, size := range shape {
		over, step := bits.Mul64(uint64(size-1), uint64(max(strides[i], -strides[i])))
		if over > 0 || step > beyond {
			return 0, 0, false
		}
		if strides[i] < 0 {
			low -= int64(step)
		} else {
			high += int64(step)
		}
		if low < -beyond || high > beyond {
			return 0, 0, false
		}
	}
	return low, high, true
}

func contiguous(shape []int64) []int64 {
	strides := make([]int64, len(shape))
	step := int64(1)
	for i := len(shape) - 1; i >= 0; i-- {
		strides[i] = step
		step *= max(shape[i], 1)
	}
	return strides
}
