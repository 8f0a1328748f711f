package tensorconv

// #include "memory.h"
import "C"

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"
)

// Copy copies src's elements to dst, converting the dtype by torch's rules
// (tensor.copy_). The shapes must be equal, the memory on the CPU; overlapping
// memory is right. Copying a tensor onto itself is free.
func Copy(dst, src *Tensor) error {
	switch {
	case dst.closed.Load() || src.closed.Load():
		return ErrClosed
	case !slices.Equal(dst.shape, src.shape):
		return &Error{Op: "copy", Why: fmt.Sprintf("shape %v into %v", src.shape, dst.shape)}
	case !dst.Device().IsCPU() || !src.Device().IsCPU():
		return &Error{Op: "copy", Why: fmt.Sprintf("from %s to %s: only CPU memory is copied here", src.Device(), dst.Device())}
	case dst.Len() == 0, dst.data == src.data && dst.dtype == src.dtype && slices.Equal(dst.strides, src.strides):
		return nil
	}
	plainMove := dst.dtype == src.dtype && dst.IsContiguous() && src.IsContiguous()
	if overlap(dst, src) && !plainMove {
		clone, err := New(src.dtype, src.shape...)
		if err != nil {
			return err
		}
		defer clone.Close()
		if err := Copy(clone, src); err != nil {
			return err
		}
		src = clone
	}
	shape, ds, ss := dst.shape, dst.strides, src.strides
	if dst.IsContiguous() && src.IsContiguous() { // one long row
		shape, ds, ss = []int64{dst.Len()}, []int64{1}, []int64{1}
	}
	rc := C.pyh_copy(dst.data, C.int(dst.dtype), dims(ds), src.data, C.int(src.dtype), dims(ss), C.int(len(shape)), dims(shape))
	runtime.KeepAlive(dst)
	runtime.KeepAlive(src)
	if rc != 0 {
		return &Error{Op: "copy", Why: fmt.Sprintf("no conversion from %s to %s", src.dtype, dst.dtype)}
	}
	return nil
}

// Divide divides a contiguous CPU tensor of floats or complex numbers by
// divisor, in place: bitwise what torch's div_ gives.
func Divide(t *Tensor, divisor float64) error {
	if t.closed.Load() {
		return ErrClosed
	}
	if !t.Device().IsCPU() || !t.IsContiguous() {
		return &Error{Op: "divide", Why: "not contiguous CPU memory"}
	}
	if C.pyh_divide(t.data, C.int(t.dtype), C.int64_t(t.Len()), C.double(divisor)) != 0 {
		return &Error{Op: "divide", Why: t.dtype.String() + " is not divided"}
	}
	runtime.KeepAlive(t)
	return nil
}

func dims(s []int64) *C.int64_t { return (*C.int64_t)(unsafe.Pointer(unsafe.SliceData(s))) }

func overlap(a, b *Tensor) bool {
	alow, ahigh := extent(a)
	blow, bhigh := extent(b)
	return alow < bhigh && blow < ahigh
}

// extent returns the addresses that t's elements lie between.
func extent(t *Tensor) (low, high uintptr) {
	size := int64(t.dtype.Size())
	low, high = uintptr(t.data), uintptr(t.data)+uintptr(size)
	for i, n := range t.shape {
		step := (n - 1) * t.strides[i] * size
		if step < 0 {
			low -= uintptr(-step)
		} else {
			high += uintptr(step)
		}
	}
	return low, high
}
