package tensor

// #cgo CFLAGS: -std=gnu11 -O3 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare
// #include "copy.h"
import "C"

import (
	"fmt"
	"slices"
	"unsafe"
)

// Copy copies src's elements to dst and converts the dtype by torch's rules (tensor.copy_), bit for
// bit except for the payload of NaN, in which torch's own kernels differ. Numbers that an integer
// dtype cannot hold become what the processor makes of them, as in torch. The shapes must be equal
// and the memory on the CPU; it may overlap. Copying a tensor onto itself is free.
func Copy(dst, src *Tensor) error {
	if err := dst.use(); err != nil {
		return err
	}
	defer dst.done()
	if err := src.use(); err != nil {
		return err
	}
	defer src.done()
	switch {
	case !slices.Equal(dst.shape, src.shape):
		return &Error{Op: "copy", Why: fmt.Sprintf("shape %v into %v", src.shape, dst.shape)}
	case !dst.Device().IsCPU() || !src.Device().IsCPU():
		return &Error{Op: "copy", Why: fmt.Sprintf("from %s to %s: only CPU memory is copied here", src.Device(), dst.Device())}
	case dst.Len() == 0, dst.data == src.data && dst.dtype == src.dtype && slices.Equal(dst.strides, src.strides):
		return nil
	}
	plainMove := dst.dtype == src.dtype && dst.IsContiguous() && src.IsContiguous()
	if Overlap(dst, src) && !plainMove {
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
	if rc != 0 {
		return &Error{Op: "copy", Why: fmt.Sprintf("no conversion from %s to %s", src.dtype, dst.dtype)}
	}
	return nil
}

// Divide divides a contiguous CPU tensor of floats or complex numbers by divisor, in place. The
// result is torch's div_ bit for bit; for finite complex numbers that of newer torch 2 (1.13 and
// 2.6 round them differently, by at most 2 units in the last place).
func Divide(t *Tensor, divisor float64) error {
	if err := t.use(); err != nil {
		return err
	}
	defer t.done()
	if !t.Device().IsCPU() || !t.IsContiguous() {
		return &Error{Op: "divide", Why: "not contiguous CPU memory"}
	}
	if C.pyh_divide(t.data, C.int(t.dtype), C.int64_t(t.Len()), C.double(divisor)) != 0 {
		return &Error{Op: "divide", Why: t.dtype.String() + " is not divided"}
	}
	return nil
}

// Scale writes src times factor to dst, a contiguous CPU tensor of floats or complex numbers, after
// converting src to dst's dtype. The result is that of torch.mul(src, factor, out=dst) bit for bit,
// for tensors of one dtype and torch 2 (1.13 rounds the factor of half-precision tensors to half
// precision first).
func Scale(dst, src *Tensor, factor float64) error {
	if dst.dtype != src.dtype || !src.IsContiguous() || dst.data != src.data && Overlap(dst, src) {
		if err := Copy(dst, src); err != nil {
			return err
		}
		src = dst
	}
	if err := dst.use(); err != nil {
		return err
	}
	defer dst.done()
	if err := src.use(); err != nil {
		return err
	}
	defer src.done()
	switch {
	case !slices.Equal(dst.shape, src.shape):
		return &Error{Op: "scale", Why: fmt.Sprintf("shape %v into %v", src.shape, dst.shape)}
	case !dst.Device().IsCPU() || !src.Device().IsCPU() || !dst.IsContiguous():
		return &Error{Op: "scale", Why: "not contiguous CPU memory"}
	}
	if C.pyh_scale(dst.data, src.data, C.int(dst.dtype), C.int64_t(dst.Len()), C.double(factor)) != 0 {
		return &Error{Op: "scale", Why: dst.dtype.String() + " is not scaled"}
	}
	return nil
}

// dims returns C's form of a shape or strides: NULL for an empty slice, which may point into
// unpinned Go memory.
func dims(s []int64) *C.int64_t {
	if len(s) == 0 {
		return nil
	}
	return (*C.int64_t)(unsafe.Pointer(unsafe.SliceData(s)))
}

// Overlap reports whether the spans of memory from the first to the last element of two open tensors
// on one device have a byte in common.
func Overlap(a, b *Tensor) bool {
	alow, ahigh := extent(a)
	blow, bhigh := extent(b)
	return alow < bhigh && blow < ahigh
}

// extent returns where the memory of t's elements begins and ends.
func extent(t *Tensor) (low, high uintptr) {
	size := int64(t.dtype.Size())
	first, last, _ := span(t.shape, t.strides)
	return uintptr(t.data) + uintptr(first*size), uintptr(t.data) + uintptr((last+1)*size)
}
