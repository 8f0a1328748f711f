package worker

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

// region is memory that two processes share: a memfd, which has no name and goes
// with its last mapping. It is counted: each tensor over it holds it.
type region struct {
	id      uint64
	memory  []byte
	file    *os.File // to hand on; nil: this side does not
	refs    atomic.Int64
	release func() // when the last reference goes; may be nil
}

// newRegion makes memory of that many bytes, with one reference for the caller,
// and keeps its descriptor.
func newRegion(id uint64, bytes int) (*region, error) {
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
	r, err := mapRegion(id, file, bytes)
	if err != nil {
		file.Close()
		return nil, err
	}
	r.file = file
	return r, nil
}

// mapRegion maps a descriptor, which stays the caller's. It is huge pages' choice
// where the kernel allows that for shared memory. Memory that is smaller, or may
// become so, is refused: to touch what is not there ends the process.
func mapRegion(id uint64, file *os.File, bytes int) (*region, error) {
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
	r := &region{id: id, memory: memory}
	r.refs.Store(1)
	return r, nil
}

func (r *region) close() {
	if r == nil || r.refs.Add(-1) > 0 {
		return
	}
	if r.release != nil {
		r.release() // first: the address may soon be another's
	}
	_ = unix.Munmap(r.memory)
	live.Add(-1)
	if r.file != nil {
		r.file.Close()
	}
}

func (r *region) base() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(r.memory)) }

// tensor makes a tensor in the region, which it holds until it is closed. The
// caller holds the region meanwhile.
func (r *region) tensor(m *tensorMessage) (*tensor.Tensor, error) {
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
	data := unsafe.Add(r.base(), m.Offset)
	var t *tensor.Tensor
	var err error
	if len(m.Shape) == 1 {
		t, err = tensor.FromPointerWithCapacity(data, m.DType, n, capacity, r.close)
	} else {
		t, err = tensor.FromPointer(data, m.DType, m.Shape, nil, tensor.Device{}, r.close)
	}
	if err != nil {
		r.close()
	}
	return t, err
}

// find returns where t lies in the region, or nil.
func (r *region) find(t *tensor.Tensor) *tensorMessage {
	// Both are C's memory, which does not move.
	at, base := uintptr(t.Data()), uintptr(r.base())
	if at < base || at+uintptr(t.Bytes()) > base+uintptr(len(r.memory)) {
		return nil
	}
	return &tensorMessage{Region: r.id, Offset: int64(at - base), DType: t.DType(), Shape: t.Shape()}
}
