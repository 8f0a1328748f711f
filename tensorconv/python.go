package tensorconv

// #include <stdlib.h>
// #cgo CFLAGS: -std=gnu11 -O3 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -DPYHOOK_PYAPI=0xb781325bde93
// #include "dlpack.h"
// static void set_memory(pyh_memory *m, void *retain, void *release) {
//   m->retain = (void (*)(void *))retain;
//   m->release = (void (*)(void *))release;
// }
import "C"

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"pyhook/cbridge"
	"pyhook/internal/memory"
	"pyhook/tensor"
)

func api() *C.pyh_api { return (*C.pyh_api)(cbridge.API()) }

// torchAPI is what this package uses of torch, looked up once.
type torchAPI struct {
	fromDLPack *cbridge.Object // torch.utils.dlpack.from_dlpack
	toDLPack   *cbridge.Object // torch.utils.dlpack.to_dlpack
	dtypes     [tensor.NumDTypes]*cbridge.Object
	tensor     *cbridge.Object        // torch.Tensor
	exchange   *C.DLPackExchangeAPI   // torch.Tensor's; nil before torch 2.10
	viewed     [tensor.NumDTypes]bool // DLPack refuses it: goes as uint8, viewed
}

var foundTorchAPI atomic.Pointer[torchAPI]

// torch returns it, for a process whose interpreter runs: the objects
// stay for the life of the process, and so does the interpreter. A failure is
// not kept: Python may start later, or its path change. There is no lock, as a
// caller may hold the GIL; of several that look at once, the first one's stay.
func torch() (*torchAPI, error) {
	if s := foundTorchAPI.Load(); s != nil {
		return s, nil
	}
	s := &torchAPI{}
	if err := s.find(); err != nil {
		s.close()
		return nil, err
	}
	if !foundTorchAPI.CompareAndSwap(nil, s) {
		s.close()
	}
	return foundTorchAPI.Load(), nil
}

// importedTorch is torch for a process whose Python has imported it, and else
// nil: the objects of other libraries do not need it.
func importedTorch() (*torchAPI, error) {
	if s := foundTorchAPI.Load(); s != nil {
		return s, nil
	}
	sys, err := cbridge.Import("sys")
	if err != nil {
		return nil, err
	}
	defer sys.Close()
	modules, err := sys.Attr("modules")
	if err != nil {
		return nil, err
	}
	defer modules.Close()
	module, err := modules.Call("get", "torch")
	if err != nil {
		return nil, err
	}
	defer module.Close()
	if module.IsNone() {
		return nil, nil
	}
	return torch()
}

func (s *torchAPI) close() {
	s.fromDLPack.Close()
	s.toDLPack.Close()
	s.tensor.Close()
	for _, dtype := range s.dtypes {
		dtype.Close()
	}
}

func (s *torchAPI) find() error {
	module, err := cbridge.Import("torch.utils.dlpack")
	if err != nil {
		return err
	}
	defer module.Close()
	if s.fromDLPack, err = module.Attr("from_dlpack"); err != nil {
		return err
	}
	if s.toDLPack, err = module.Attr("to_dlpack"); err != nil {
		return err
	}
	root, err := cbridge.Import("torch")
	if err != nil {
		return err
	}
	defer root.Close()
	if s.tensor, err = root.Attr("Tensor"); err != nil {
		return err
	}
	for _, d := range tensor.DTypes() {
		// Absent ones (fp8 before 2.1, unsigned before 2.3) stay nil.
		s.dtypes[d], _ = root.Attr(d.String())
	}
	if err := s.findViewed(); err != nil {
		return err
	}
	return s.tensor.Pointer(func(p unsafe.Pointer) error {
		return cbridge.Attached(func() { s.exchange = C.pyh_exchange_api(api(), (*C.PyObject)(p)) })
	})
}

// TorchDescriber returns the C function, int (*)(void *, DLTensor *), that fills
// in a DLTensor of a torch.Tensor without keeping it (DLPack 1.3's exchange
// API); nil before torch 2.10. It is called attached.
func TorchDescriber() (unsafe.Pointer, error) {
	s, err := torch()
	if err != nil || s.exchange == nil {
		return nil, err
	}
	return unsafe.Pointer(s.exchange.dltensor_from_py_object), nil
}

// findViewed asks torch which dtypes its DLPack takes: bool came with 2.1, the
// 8-bit floats later, and unsigned ones need both torch's dtype and DLPack's.
// It asks by capsule: see export.
func (s *torchAPI) findViewed() error {
	for _, d := range tensor.DTypes() {
		if s.dtypes[d] == nil {
			continue
		}
		t, err := tensor.New(d, 1)
		if err != nil {
			return err
		}
		o, err := toTorch(t, s, false)
		if err == nil {
			// The tensor says its own dtype: old versions read fp8 as uint8.
			dtype, attrErr := o.Attr("dtype")
			s.viewed[d] = attrErr != nil || !dtype.Same(s.dtypes[d])
			dtype.Close()
			o.Close()
		} else {
			s.viewed[d] = true
		}
		t.Close()
	}
	return nil
}

// ToPython makes a torch.Tensor over t's memory: same bytes, no copy. The Python
// tensor keeps the memory alive for as long as it (or its storage) lives, so t
// may be closed. Dtypes that torch's DLPack refuses go as uint8 and are viewed;
// a dtype that this torch does not have is an *Error, and so are negative
// strides, and complex128 that is not aligned to 16 bytes. The caller closes the
// result.
func ToPython(t *tensor.Tensor) (*cbridge.Object, error) {
	s, err := torch()
	if err != nil {
		return nil, err
	}
	owner, err := t.Retain()
	if err != nil {
		return nil, err
	}
	defer owner.Release()
	if s.dtypes[t.DType()] == nil {
		return nil, &tensor.Error{Op: "to torch", Why: "this torch has no dtype " + t.DType().String()}
	}
	for _, step := range t.Strides() {
		if step < 0 {
			return nil, &tensor.Error{Op: "to torch", Why: fmt.Sprintf("torch has no negative strides: %v", t.Strides())}
		}
	}
	// c10/util/complex.h: alignas(2 * sizeof(T)). Its vectorised loops crash on less.
	if t.DType() == tensor.Complex128 && uintptr(t.Data())%16 != 0 {
		return nil, &tensor.Error{Op: "to torch", Why: fmt.Sprintf("torch needs complex128 at multiples of 16 bytes, and this is at %p: copy it", t.Data())}
	}
	return toTorch(t, s, s.viewed[t.DType()])
}

// carrier is an integer dtype of d's size that every torch's DLPack takes.
func carrier(d tensor.DType) tensor.DType {
	return map[int]tensor.DType{1: tensor.UInt8, 2: tensor.Int16, 4: tensor.Int32, 8: tensor.Int64}[d.Size()]
}

func toTorch(t *tensor.Tensor, s *torchAPI, viewed bool) (*cbridge.Object, error) {
	dtype := t.DType()
	if viewed {
		dtype = carrier(dtype)
	}
	o, err := export(t, s, dtype)
	if err != nil || !viewed {
		return o, err
	}
	defer o.Close()
	return o.Call("view", s.dtypes[t.DType()])
}

// memoryFunctions is how exported tensors hold their memory.
var memoryFunctions = func() *C.pyh_memory {
	m := (*C.pyh_memory)(C.calloc(1, C.sizeof_pyh_memory))
	retain, release := memory.Functions()
	C.set_memory(m, retain, release)
	return m
}()

// describe fills in C's view of t; the slices are pinned by the caller.
func describe(t *tensor.Tensor, owner memory.Owner, dtype tensor.DType, pin *runtime.Pinner) C.pyh_tensor {
	code, bits := dtype.DLPack()
	c := C.pyh_tensor{data: t.Data(), memory: memoryFunctions, owner: owner.Pointer(), device_type: C.int32_t(t.Device().Type), device_id: C.int32_t(t.Device().ID),
		code: C.uint8_t(code), bits: C.uint8_t(bits), ndim: C.int32_t(len(t.Shape()))}
	if len(t.Shape()) > 0 { // else they may point into memory of Go's that nobody pins
		pin.Pin(&t.Shape()[0])
		pin.Pin(&t.Strides()[0])
		c.shape, c.strides = (*C.int64_t)(&t.Shape()[0]), (*C.int64_t)(&t.Strides()[0])
	}
	return c
}

func export(t *tensor.Tensor, s *torchAPI, dtype tensor.DType) (*cbridge.Object, error) {
	owner, err := t.Retain()
	if err != nil {
		return nil, err
	}
	defer owner.Release()
	var pin runtime.Pinner
	defer pin.Unpin()
	// The data pointer may be into a Go slice, which FromSlice has pinned.
	c := describe(t, owner, dtype, &pin)
	// torch's exchange API (2.15) never deletes what it refuses, so it gets
	// what it cannot refuse; a refused capsule is still ours.
	if s.exchange != nil && t.Device().Type == tensor.CPU {
		return cbridge.Build(func() unsafe.Pointer { return unsafe.Pointer(C.pyh_exchange_export(s.exchange, &c)) })
	}
	capsule, err := cbridge.Build(func() unsafe.Pointer { return unsafe.Pointer(C.pyh_dlpack_capsule(api(), &c, 0)) })
	if err != nil {
		return nil, err
	}
	defer capsule.Close()
	return s.fromDLPack.Invoke([]any{capsule}, nil)
}

// Capsule makes a DLPack capsule over t's memory: "dltensor_versioned" (DLPack
// 1.0) or "dltensor", for consumers other than torch. The caller closes the
// result; one that nobody consumes lets go of the memory when it is collected.
func Capsule(t *tensor.Tensor, versioned bool) (*cbridge.Object, error) {
	owner, err := t.Retain()
	if err != nil {
		return nil, err
	}
	defer owner.Release()
	var pin runtime.Pinner
	defer pin.Unpin()
	c := describe(t, owner, t.DType(), &pin)
	flag := C.int(0)
	if versioned {
		flag = 1
	}
	return cbridge.Build(func() unsafe.Pointer { return unsafe.Pointer(C.pyh_dlpack_capsule(api(), &c, flag)) })
}

// Go code hands tensors to Python functions as arguments.
func init() { cbridge.RegisterConversion(ToPython) }
