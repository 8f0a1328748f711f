package tensorconv

// #include "dlpack.h"
//
// static PyObject *type_of(const pyh_api *py, PyObject *o) { return py->PyObject_Type(o); }
// static void decref(const pyh_api *py, PyObject *o) { py->Py_DecRef(o); }
// static int no_error(const pyh_api *py) { return py->PyErr_Occurred() == NULL; }
import "C"

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"unsafe"

	"pyhook/cbridge"
	"pyhook/internal/memory"
	"pyhook/tensor"
)

// maxDims is numpy's limit, and that of torch's iterators.
const maxDims = 64

// FromPython makes a Tensor over the memory of a Python tensor or array
// (torch, numpy, anything with __dlpack__) or of a DLPack capsule, without
// copying: by the C exchange API where the type has it, else a versioned
// capsule, else a legacy one. The Tensor keeps the Python memory alive until it
// is closed; Python lets go of it at the next call into Python.
//
// Memory that Go must not write to (a read-only array), and memory that does
// not show the tensor's values (requires_grad, or the conjugate or negative bit
// set), is an *Error: copy, detach or resolve it first. So is memory that is
// not aligned for its elements.
func FromPython(o *cbridge.Object) (*tensor.Tensor, error) {
	s, err := importedTorch()
	if err != nil {
		return nil, &tensor.Error{Op: "from Python", Why: "looking for torch", Err: err}
	}
	dtype := tensor.Invalid
	var maker *cbridge.Object // of o's capsule, if it need not be asked for
	if s != nil {
		isTensor, err := s.objection(o)
		if err != nil {
			return nil, err
		}
		if isTensor {
			maker = s.toDLPack
		}
		// Dtypes that DLPack refuses come as bytes.
		viewed, d, err := s.asBytes(o)
		if err != nil {
			return nil, &tensor.Error{Op: "from Python", Why: "viewing it as integers", Err: err}
		}
		if viewed != nil {
			defer viewed.Close()
			o, dtype = viewed, d
		}
	}
	var imported C.pyh_import
	if err := importDLPack(o, maker, &imported); err != nil {
		return nil, err
	}
	owner := memory.Of(imported.managed, unsafe.Pointer(imported.free))
	t, err := newImported(&imported, dtype, owner)
	if err != nil {
		owner.Release()
	}
	return t, err
}

// newImported takes the owner over, but not with an error. dtype is that of
// what was imported as bytes, else tensor.Invalid.
func newImported(imported *C.pyh_import, dtype tensor.DType, owner memory.Owner) (*tensor.Tensor, error) {
	refuse := func(format string, args ...any) (*tensor.Tensor, error) {
		return nil, &tensor.Error{Op: "DLPack import", Why: fmt.Sprintf(format, args...)}
	}
	d := &imported.tensor
	ndim := int(d.ndim)
	switch {
	case imported.read_only != 0:
		return refuse("the memory is read-only: copy it first")
	case d.device._type < 1: // Device's zero value would make it the CPU
		return refuse("device type %d is none of DLPack's", d.device._type)
	case ndim < 0 || ndim > maxDims:
		return refuse("%d dimensions", ndim)
	case ndim > 0 && d.shape == nil:
		return refuse("%d dimensions without sizes", ndim)
	}
	if dtype == tensor.Invalid {
		var err error
		if dtype, err = tensor.DTypeOfDLPack(uint8(d.dtype.code), uint8(d.dtype.bits), uint16(d.dtype.lanes)); err != nil {
			return nil, err
		}
	}
	shape := make([]int64, ndim)
	copy(shape, unsafe.Slice((*int64)(unsafe.Pointer(d.shape)), ndim))
	var strides []int64 // nil: contiguous
	if d.strides != nil {
		strides = make([]int64, ndim)
		copy(strides, unsafe.Slice((*int64)(unsafe.Pointer(d.strides)), ndim))
	}
	n, low, high, err := tensor.Extent(shape, strides)
	if err != nil {
		return nil, &tensor.Error{Op: "DLPack import", Why: "what the producer says", Err: err}
	}
	var data unsafe.Pointer // of no elements: nil, whatever the producer says
	if n > 0 {
		switch {
		case d.data == nil:
			return refuse("%v has no memory", shape)
		case !addressable(uintptr(d.data), uint64(d.byte_offset), low*int64(dtype.Size()), (high+1)*int64(dtype.Size())):
			return refuse("shape %v with strides %v at %p and %d bytes goes round the address space", shape, strides, d.data, uint64(d.byte_offset))
		}
		if data = unsafe.Add(d.data, int(d.byte_offset)); !dtype.Aligned(data) {
			return refuse("%p is not aligned for %s", data, dtype)
		}
	}
	device := tensor.Device{Type: tensor.DeviceType(d.device._type), ID: int32(d.device.id)}
	return tensor.FromOwner(data, dtype, shape, strides, device, owner)
}

// addressable reports whether the bytes from low to high, counted from offset bytes
// after base, are in a process's half of the address space. Neither is beyond 2^63.
func addressable(base uintptr, offset uint64, low, high int64) bool {
	first, over := bits.Add64(uint64(base), offset, 0)
	return over == 0 && first <= math.MaxInt64 && int64(first)+low > 0 && high <= math.MaxInt64-int64(first)
}

// objection says whether o is a torch tensor and why its memory is not its
// values.
func (s *torchAPI) objection(o *cbridge.Object) (bool, error) {
	var why *C.char
	var isTensor C.int
	err := s.tensor.Pointer(func(kind unsafe.Pointer) error {
		return o.Pointer(func(p unsafe.Pointer) error {
			return cbridge.Check(func() bool {
				why = C.pyh_torch_objection(api(), (*C.PyObject)(kind), (*C.PyObject)(p), &isTensor)
				return C.no_error(api()) != 0
			})
		})
	})
	switch {
	case err != nil:
		return false, &tensor.Error{Op: "from Python", Why: "asking what it is", Err: err}
	case why != nil:
		return false, &tensor.Error{Op: "from Python", Why: C.GoString(why)}
	}
	return isTensor != 0, nil
}

// asBytes returns o viewed as integers if it is a torch tensor of a dtype that
// torch's DLPack refuses, else nil.
func (s *torchAPI) asBytes(o *cbridge.Object) (*cbridge.Object, tensor.DType, error) {
	refused := false
	for _, v := range s.viewed {
		refused = refused || v
	}
	if !refused {
		return nil, tensor.Invalid, nil
	}
	dtype, err := o.Attr("dtype")
	if err != nil { // a capsule, or an array of another library
		return nil, tensor.Invalid, nil
	}
	defer dtype.Close()
	for _, d := range tensor.DTypes() {
		if s.viewed[d] && dtype.Same(s.dtypes[d]) {
			viewed, err := o.Call("view", s.dtypes[carrier(d)])
			return viewed, d, err
		}
	}
	return nil, tensor.Invalid, nil
}

func importDLPack(o, maker *cbridge.Object, out *C.pyh_import) error {
	done, err := importExchange(o, out)
	if done || err != nil {
		return err
	}
	capsule, err := capsuleOf(o, maker)
	if err != nil {
		return err
	}
	defer capsule.Close()
	var rc C.int
	var major C.uint32_t
	err = capsule.Pointer(func(p unsafe.Pointer) error {
		return cbridge.Check(func() bool {
			rc = C.pyh_dlpack_import(api(), (*C.PyObject)(p), out, &major)
			return rc >= 0
		})
	})
	switch {
	case err != nil:
		return &tensor.Error{Op: "DLPack import", Why: "reading the capsule", Err: err}
	case rc > 0 && major > 0:
		return unknownVersion(major)
	case rc > 0:
		return &tensor.Error{Op: "DLPack import", Why: "neither an object with __dlpack__ nor an unused DLPack capsule"}
	}
	return nil
}

func unknownVersion(major C.uint32_t) error {
	return &tensor.Error{Op: "DLPack import", Why: fmt.Sprintf("version %d is not known here", major)}
}

// importExchange is not done where the type has no exchange API.
func importExchange(o *cbridge.Object, out *C.pyh_import) (done bool, err error) {
	var rc C.int
	var major C.uint32_t
	err = o.Pointer(func(p unsafe.Pointer) error {
		return cbridge.Check(func() bool {
			kind := C.type_of(api(), (*C.PyObject)(p))
			defer C.decref(api(), kind)
			x := C.pyh_exchange_api(api(), kind)
			if x == nil {
				return true
			}
			done = true
			rc = C.pyh_exchange_import(api(), x, (*C.PyObject)(p), out, &major)
			return rc >= 0
		})
	})
	switch {
	case err != nil:
		return done, &tensor.Error{Op: "from Python", Why: "the type's DLPack exchange API refused", Err: err}
	case rc > 0:
		return done, unknownVersion(major)
	}
	return done, nil
}

// capsuleOf has maker (nil: o itself) make a capsule. It asks for the newest form
// that the producer knows.
func capsuleOf(o, maker *cbridge.Object) (*cbridge.Object, error) {
	if maker != nil {
		capsule, err := maker.Invoke([]any{o}, nil)
		if err != nil {
			return nil, &tensor.Error{Op: "from Python", Why: "torch's to_dlpack refused", Err: err}
		}
		return capsule, nil
	}
	export, err := o.Attr("__dlpack__")
	if errors.Is(err, cbridge.Exception("AttributeError")) {
		return o.Clone() // perhaps a capsule itself
	}
	if err != nil {
		return nil, &tensor.Error{Op: "from Python", Why: "reading __dlpack__", Err: err}
	}
	defer export.Close()
	capsule, err := export.Invoke(nil, map[string]any{"max_version": cbridge.Tuple{1, 0}})
	if errors.Is(err, cbridge.Exception("TypeError")) { // producers before DLPack 1.0
		capsule, err = export.Invoke(nil, nil)
	}
	if err != nil {
		return nil, &tensor.Error{Op: "from Python", Why: "__dlpack__ refused", Err: err}
	}
	return capsule, nil
}
