package ipc

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"pyhook/tensor"
)

// live counts the regions that are mapped in this process.
var live atomic.Int64

// LiveRegions returns how many pieces of shared memory this process has mapped.
func LiveRegions() int64 { return live.Load() }

// Region is memory that two processes share: a memfd, which has no name and goes
// with its last mapping. It is counted: each tensor over it holds it.
type Region struct {
	ID      uint64 // that messages use; 0: none do
	memory  []byte
	File    *os.File // to hand on; nil: this side does not
	refs    atomic.Int64
	release func() // when the last reference goes; may be nil
}

// NewRegion makes memory of that many bytes, with one reference for the caller,
// and keeps its descriptor.
func NewRegion(id uint64, bytes int) (*Region, error) {
	fd, err := unix.MemfdCreate("pyhook", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	file := os.NewFile(uintptr(fd), "shared memory")
	if err := unix.Ftruncate(fd, int64(bytes)); err != nil {
		file.Close()
		return nil, fmt.Errorf("shared memory of %d bytes: %w", bytes, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK); err != nil {
		file.Close()
		return nil, fmt.Errorf("shared memory: %w", err)
	}
	r, err := MapRegion(id, file, bytes)
	if err != nil {
		file.Close()
		return nil, err
	}
	r.File = file
	return r, nil
}

// MapRegion maps a descriptor, which stays the caller's. It is huge pages' choice
// where the kernel allows that for shared memory. Memory that is smaller, or may
// become so, is refused: to touch what is not there ends the process.
func MapRegion(id uint64, file *os.File, bytes int) (*Region, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 || bytes <= 0 || int64(bytes) > info.Size() {
		return nil, fmt.Errorf("no shared memory of %d bytes: it has %d, and the seals %#x (%v)", bytes, info.Size(), seals, err)
	}
	memory, err := unix.Mmap(int(file.Fd()), 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes of shared memory: %w", bytes, err)
	}
	_ = unix.Madvise(memory, unix.MADV_HUGEPAGE)
	live.Add(1)
	r := &Region{ID: id, memory: memory}
	r.refs.Store(1)
	return r, nil
}

// Close gives up a reference.
func (r *Region) Close() {
	if r == nil || r.refs.Add(-1) > 0 {
		return
	}
	if r.release != nil {
		r.release() // first: the address may soon be another's
	}
	_ = unix.Munmap(r.memory)
	live.Add(-1)
	if r.File != nil {
		r.File.Close()
	}
}

// OnRelease has f called when the last reference goes, before the memory does. Call it at most
// once, while there is one reference.
func (r *Region) OnRelease(f func()) { r.release = f }

// Len returns the size in bytes.
func (r *Region) Len() int { return len(r.memory) }

// Base returns the address.
func (r *Region) Base() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(r.memory)) }

// Tensor makes a tensor in the region, which it holds until it is closed. The
// caller holds the region meanwhile.
func (r *Region) Tensor(m *Location) (*tensor.Tensor, error) {
	limit := (int64(len(r.memory)) - m.Offset) / int64(max(m.DType.Size(), 1))
	n := int64(1)
	for _, size := range m.Shape {
		if size < 0 || size > 0 && n > limit/size {
			limit = -1
			break
		}
		n *= size
	}
	capacity := max(n, m.Capacity)
	if m.Offset < 0 || capacity > limit {
		return nil, fmt.Errorf("a tensor of shape %v, and capacity for %d elements, of %s at %d is beyond the shared memory of %d bytes", m.Shape, m.Capacity, m.DType, m.Offset, len(r.memory))
	}
	r.refs.Add(1)
	data := unsafe.Add(r.Base(), m.Offset)
	var t *tensor.Tensor
	var err error
	if len(m.Shape) == 1 {
		t, err = tensor.FromPointerWithCapacity(data, m.DType, n, capacity, r.Close)
	} else {
		t, err = tensor.FromPointer(data, m.DType, m.Shape, nil, tensor.Device{}, r.Close)
	}
	if err != nil {
		r.Close()
	}
	return t, err
}

// Location is a contiguous tensor in a region, or one on a device.
type Location struct {
	// Handle is what the trainer's torch made of a tensor on a device, for the worker's. Region and
	// Offset mean nothing then.
	Handle   []byte
	Region   uint64
	Offset   int64 // in bytes
	DType    tensor.DType
	Shape    []int64
	Capacity int64 // elements, where Shape is flat: see tensor.WithCapacity
}

// Find returns where t lies in the region, or nil.
func (r *Region) Find(t *tensor.Tensor) *Location {
	// Both are C's memory, which does not move.
	at, base := uintptr(t.Data()), uintptr(r.Base())
	if at < base || at+uintptr(t.Bytes()) > base+uintptr(len(r.memory)) {
		return nil
	}
	return &Location{Region: r.ID, Offset: int64(at - base), DType: t.DType(), Shape: t.Shape()}
}
