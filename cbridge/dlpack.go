package cbridge

// #include "dlpack.h"
// #include "shim.h"
//
// static void set_memory(void *retain, void *release) {
//   pyh_set_memory((void (*)(void *))retain, (void (*)(void *))release);
// }
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	"pyhook/internal/memory"
)

// DLTensor describes a tensor as DLPack does (DLTensor of dlpack.h 1.3).
type DLTensor struct {
	Data                 unsafe.Pointer
	DeviceType, DeviceID int32
	Code, Bits           uint8
	Lanes                uint16
	NDim                 int32
	Shape, Strides       *int64 // NDim of each, in elements; what is imported may have no Strides: contiguous
	ByteOffset           uint64
}

// ImportedDLTensor is a tensor imported from Python. Owner, the caller's, keeps its memory, Shape
// and Strides alive; Python frees them at its next call after the last Release.
type ImportedDLTensor struct {
	DLTensor
	ReadOnly bool
	Owner    memory.Owner
}

// DLPackError: an object is not a DLPack capsule that can be imported.
type DLPackError struct {
	Major uint32 // the unknown version of DLPack; 0: it is not an unused capsule
}

func (e *DLPackError) Error() string {
	if e.Major == 0 {
		return "neither an object with __dlpack__ nor an unused DLPack capsule"
	}
	return fmt.Sprintf("version %d is not known here", e.Major)
}

// ExchangeAPI is a Python type's DLPack exchange API in C, which needs no capsules. torch.Tensor
// has it since torch 2.10.
type ExchangeAPI struct{ c *C.DLPackExchangeAPI }

func init() { C.set_memory(memory.Functions()) }

// FindExchangeAPI returns a type's exchange API, or nil.
func FindExchangeAPI(class *Object) (*ExchangeAPI, error) {
	var c *C.DLPackExchangeAPI
	err := using(func() error {
		return Attached(func() { c = C.pyh_exchange_api(class.ptr) })
	}, class)
	if err != nil || c == nil {
		return nil, err
	}
	return &ExchangeAPI{c}, nil
}

// Export makes an object of the type's library over t's memory, with its own reference on owner.
// The caller closes it. The library must accept t: not every library frees what it refuses.
func (x *ExchangeAPI) Export(t *DLTensor, owner memory.Owner) (*Object, error) {
	return t.export(func(c *C.DLTensor) *C.PyObject { return C.pyh_exchange_export(x.c, c, owner.Pointer()) })
}

// Capsule makes a DLPack capsule ("dltensor") over t's memory, which takes a reference of its own
// on owner. The caller closes it; a capsule that nobody consumes releases the memory when Python
// frees it.
func (t *DLTensor) Capsule(owner memory.Owner) (*Object, error) {
	return t.export(func(c *C.DLTensor) *C.PyObject { return C.pyh_dlpack_capsule(c, owner.Pointer()) })
}

func (t *DLTensor) export(f func(*C.DLTensor) *C.PyObject) (*Object, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	c := C.DLTensor{data: t.Data, device: C.DLDevice{_type: C.int32_t(t.DeviceType), id: C.int32_t(t.DeviceID)}, ndim: C.int32_t(t.NDim),
		dtype: C.DLDataType{code: C.uint8_t(t.Code), bits: C.uint8_t(t.Bits), lanes: C.uint16_t(t.Lanes)}, byte_offset: C.uint64_t(t.ByteOffset)}
	if t.NDim > 0 { // else they may point into memory of Go's that nobody pins
		pin.Pin(t.Shape)
		pin.Pin(t.Strides)
		c.shape, c.strides = (*C.int64_t)(t.Shape), (*C.int64_t)(t.Strides)
	}
	return build(func() unsafe.Pointer { return unsafe.Pointer(f(&c)) })
}

// ImportCapsule consumes a DLPack capsule. The error is a *DLPackError or a *PythonError.
func ImportCapsule(capsule *Object) (*ImportedDLTensor, error) {
	return importBy(capsule, func(in *C.pyh_import, major *C.uint32_t) C.int {
		return C.pyh_dlpack_import(capsule.ptr, in, major)
	})
}

// ImportExchange imports an object by its type's exchange API; it returns nil if the type has none.
// The error is a *DLPackError or a *PythonError.
func ImportExchange(o *Object) (*ImportedDLTensor, error) {
	return importBy(o, func(in *C.pyh_import, major *C.uint32_t) C.int {
		x := C.pyh_exchange_api_of(o.ptr)
		if x == nil {
			return 0
		}
		return C.pyh_exchange_import(x, o.ptr, in, major)
	})
}

func importBy(o *Object, f func(*C.pyh_import, *C.uint32_t) C.int) (*ImportedDLTensor, error) {
	var in C.pyh_import
	var major C.uint32_t
	var rc C.int
	err := using(func() error {
		return check(func() bool {
			rc = f(&in, &major)
			return rc >= 0
		})
	}, o)
	switch {
	case err != nil:
		return nil, err
	case rc > 0:
		return nil, &DLPackError{Major: uint32(major)}
	case in.managed == nil:
		return nil, nil
	}
	d := &in.tensor
	return &ImportedDLTensor{
		DLTensor: DLTensor{Data: d.data, DeviceType: int32(d.device._type), DeviceID: int32(d.device.id), NDim: int32(d.ndim),
			Code: uint8(d.dtype.code), Bits: uint8(d.dtype.bits), Lanes: uint16(d.dtype.lanes),
			Shape: (*int64)(d.shape), Strides: (*int64)(d.strides), ByteOffset: uint64(d.byte_offset)},
		ReadOnly: bool(in.read_only),
		Owner:    memory.Of(in.managed, unsafe.Pointer(in.free)),
	}, nil
}

// TorchObjection reports whether o is an instance of tensor, torch.Tensor, and why its memory does
// not show its values ("": it does).
func TorchObjection(tensor, o *Object) (isTensor bool, why string, err error) {
	var is C.bool
	var text *C.char
	err = using(func() error {
		return check(func() bool {
			text = C.pyh_torch_objection(tensor.ptr, o.ptr, &is)
			return !bool(C.pyhOccurred())
		})
	}, tensor, o)
	if text != nil {
		why = C.GoString(text)
	}
	return bool(is), why, err
}
