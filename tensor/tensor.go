package tensor

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"pyhook/internal/debuggc"
	"pyhook/internal/memory"
)

var liveTensors atomic.Int64

// LiveMemory returns how many pieces of memory tensors hold in the process, Python's tensors
// included.
func LiveMemory() int64 { return memory.Live() }

// LiveTensors returns how many Tensors are open in the process.
func LiveTensors() int64 { return liveTensors.Load() }

// Tensor is a handle on memory, with a dtype, a shape and strides. Other Tensors and Python may
// share the memory. The description never changes, so any goroutine may use it; callers synchronise
// access to the elements. Close is idempotent.
type Tensor struct {
	data    unsafe.Pointer // the first element
	dtype   DType
	device  Device
	shape   []int64
	strides []int64 // in elements
	length  int64   // elements
	owner   memory.Owner
	spare   int64        // elements of memory after the last one
	uses    atomic.Int32 // 1 while it is open, and 1 for each operation that runs
	closed  atomic.Bool
	cleanup runtime.Cleanup

	alias  atomic.Pointer[Tensor] // see Alias
	parent *Tensor                // of an alias
}

// newTensor takes over one reference on owner.
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

// Close gives up this handle on the memory. Idempotent; nil is allowed. It never waits: it takes
// effect when the last operation that runs returns.
func (t *Tensor) Close() {
	if t == nil || t.parent != nil || !t.closed.CompareAndSwap(false, true) {
		return
	}
	t.cleanup.Stop()
	liveTensors.Add(-1)
	t.done()
}

// use keeps the memory, and t itself, alive until done.
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

// Alias returns a handle like t whose Close does nothing: it is open as long as t is. It is always
// the same one and costs nothing, for what is handed out at every step.
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

// Data returns the address of the first element, valid until the last handle on the memory is
// closed.
func (t *Tensor) Data() unsafe.Pointer { return t.data }

// Len returns the number of elements.
func (t *Tensor) Len() int64 { return t.length }

// Bytes returns Len times the element's size.
func (t *Tensor) Bytes() int64 { return t.Len() * int64(t.dtype.Size()) }

// String describes the tensor, not its elements.
func (t *Tensor) String() string {
	return fmt.Sprintf("%s%v on %s", t.dtype, t.shape, t.Device())
}
