package tensorconv

// #include "memory.h"
//
// static PyObject *type_of(const pyh_api *py, PyObject *o) { return py->PyObject_Type(o); }
// static void decref(const pyh_api *py, PyObject *o) { py->Py_DecRef(o); }
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"pyhook/cbridge"
)

// FromPython makes a Tensor over the memory of a Python tensor or array
// (torch, numpy, anything with __dlpack__) or of a DLPack capsule, without
// copying: by the C exchange API where the type has it, else a versioned
// capsule, else a legacy one. The Tensor keeps the Python memory alive until it
// is closed. A tensor that requires grad must be detached first.
func FromPython(o *cbridge.Object) (*Tensor, error) {
	dtype := Invalid
	if s, err := torch(); err == nil {
		// Dtypes that DLPack refuses come as bytes.
		viewed, d, err := s.asBytes(o)
		if err != nil {
			return nil, &Error{Op: "from Python", Why: "reading the dtype", Err: err}
		}
		if viewed != nil {
			defer viewed.Close()
			o, dtype = viewed, d
		}
	}
	var imported C.pyh_import
	if err := importDLPack(o, &imported); err != nil {
		return nil, err
	}
	d := imported.tensor
	if dtype == Invalid {
		var err error
		if dtype, err = dtypeOf(uint8(d.dtype.code), uint8(d.dtype.bits), uint16(d.dtype.lanes)); err != nil {
			C.pyh_owner_release(imported.owner)
			return nil, err
		}
	}
	shape := make([]int64, int(d.ndim))
	copy(shape, unsafe.Slice((*int64)(unsafe.Pointer(d.shape)), len(shape)))
	strides := contiguous(shape)
	if d.strides != nil { // legacy: NULL means contiguous
		copy(strides, unsafe.Slice((*int64)(unsafe.Pointer(d.strides)), len(shape)))
	}
	device := Device{Type: DeviceType(d.device._type), ID: int32(d.device.id)}
	data := unsafe.Add(d.data, int(d.byte_offset))
	return newTensor(data, dtype, device, shape, strides, imported.owner), nil
}

// asBytes returns o viewed as integers if it is a torch tensor of a dtype that
// torch's DLPack refuses, else nil.
func (s *torchSide) asBytes(o *cbridge.Object) (*cbridge.Object, DType, error) {
	refused := false
	for _, v := range s.viewed {
		refused = refused || v
	}
	if !refused {
		return nil, Invalid, nil
	}
	dtype, err := o.Attr("dtype")
	if err != nil { // a capsule, or an array of another library
		return nil, Invalid, nil
	}
	defer dtype.Close()
	for _, d := range DTypes() {
		if s.viewed[d] && dtype.Same(s.dtypes[d]) {
			viewed, err := o.Call("view", s.dtypes[carrier(d)])
			return viewed, d, err
		}
	}
	return nil, Invalid, nil
}

func importDLPack(o *cbridge.Object, out *C.pyh_import) error {
	done, err := importExchange(o, out)
	if done || err != nil {
		return err
	}
	capsule, err := capsuleOf(o)
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
		return &Error{Op: "DLPack import", Why: "reading the capsule", Err: err}
	case rc > 0 && major > 0:
		return &Error{Op: "DLPack import", Why: fmt.Sprintf("version %d is not known here", major)}
	case rc > 0:
		return &Error{Op: "DLPack import", Why: "not an unused DLPack capsule"}
	}
	return nil
}

func importExchange(o *cbridge.Object, out *C.pyh_import) (done bool, err error) {
	err = o.Pointer(func(p unsafe.Pointer) error {
		return cbridge.Check(func() bool {
			kind := C.type_of(api(), (*C.PyObject)(p))
			defer C.decref(api(), kind)
			x := C.pyh_exchange_api(api(), kind)
			if x == nil {
				return true
			}
			done = C.pyh_exchange_import(api(), x, (*C.PyObject)(p), out) == 0
			return done
		})
	})
	if err != nil {
		err = &Error{Op: "from Python", Why: "the type's DLPack exchange API refused", Err: err}
	}
	return done, err
}

// capsuleOf asks for the newest form that the producer knows.
func capsuleOf(o *cbridge.Object) (*cbridge.Object, error) {
	export, err := o.Attr("__dlpack__")
	if err != nil {
		if errors.Is(err, cbridge.Exception("AttributeError")) {
			// Perhaps a capsule itself.
			return o.Clone()
		}
		return nil, err
	}
	defer export.Close()
	capsule, err := export.Invoke(nil, map[string]any{"max_version": cbridge.Tuple{1, 0}})
	if errors.Is(err, cbridge.Exception("TypeError")) { // producers before DLPack 1.0
		capsule, err = export.Invoke(nil, nil)
	}
	if err != nil {
		return nil, &Error{Op: "from Python", Why: "__dlpack__ refused", Err: err}
	}
	return capsule, nil
}
