package tensorconv

// #include "memory.h"
import "C"

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"pyhook/cbridge"
)

func api() *C.pyh_api { return (*C.pyh_api)(cbridge.API()) }

// torchSide is what is needed of torch, looked up once.
type torchSide struct {
	fromDLPack *cbridge.Object // torch.utils.dlpack.from_dlpack
	toDLPack   *cbridge.Object // torch.utils.dlpack.to_dlpack
	dtypes     [numDTypes]*cbridge.Object
	tensor     *cbridge.Object      // torch.Tensor
	exchange   *C.DLPackExchangeAPI // torch.Tensor's; nil before torch 2.10
	viewed     [numDTypes]bool      // DLPack refuses it: goes as uint8, viewed
}

var foundTorch atomic.Pointer[torchSide]

// torch returns the tools, for a process whose interpreter runs: the objects
// stay for the life of the process, and so does the interpreter. A failure is
// not kept: Python may start later, or its path change. There is no lock, as a
// caller may hold the GIL; of several that look at once, the first one's stay.
func torch() (*torchSide, error) {
	if s := foundTorch.Load(); s != nil {
		return s, nil
	}
	s := &torchSide{}
	if err := s.find(); err != nil {
		s.close()
		return nil, err
	}
	if !foundTorch.CompareAndSwap(nil, s) {
		s.close()
	}
	return foundTorch.Load(), nil
}

// importedTorch is torch for a process whose Python has imported it, and else
// nil: the objects of other libraries do not need it.
func importedTorch() (*torchSide, error) {
	if s := foundTorch.Load(); s != nil {
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

func (s *torchSide) close() {
	s.fromDLPack.Close()
	s.toDLPack.Close()
	s.tensor.Close()
	for _, dtype := range s.dtypes {
		dtype.Close()
	}
}

func (s *torchSide) find() error {
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
	for _, d := range DTypes() {
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
func (s *torchSide) findViewed() error {
	for _, d := range DTypes() {
		if s.dtypes[d] == nil {
			continue
		}
		t, err := New(d, 1)
		if err != nil {
			return err
		}
		o, err := t.toTorch(s, false)
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

// Python makes a torch.Tensor over t's memory: same bytes, no copy. The Python
// tensor keeps the memory alive for as long as it (or its storage) lives, so t
// may be closed. Dtypes that torch's DLPack refuses go as uint8 and are viewed;
// a dtype that this torch does not have is an *Error, and so are negative
// strides, and complex128 that is not aligned to 16 bytes. The caller closes the
// result.
func (t *Tensor) Python() (*cbridge.Object, error) {
	s, err := torch()
	if err != nil {
		return nil, err
	}
	if err := t.use(); err != nil {
		return nil, err
	}
	defer t.done()
	if s.dtypes[t.dtype] == nil {
		return nil, &Error{Op: "to torch", Why: "this torch has no dtype " + t.dtype.String()}
	}
	for _, step := range t.strides {
		if step < 0 {
			return nil, &Error{Op: "to torch", Why: fmt.Sprintf("torch has no negative strides: %v", t.strides)}
		}
	}
	// c10/util/complex.h: alignas(2 * sizeof(T)). Its vectorised loops crash on less.
	if t.dtype == Complex128 && uintptr(t.data)%16 != 0 {
		return nil, &Error{Op: "to torch", Why: fmt.Sprintf("torch needs complex128 at multiples of 16 bytes, and this is at %p: copy it", t.data)}
	}
	return t.toTorch(s, s.viewed[t.dtype])
}

// carrier is an integer dtype of d's size that every torch's DLPack takes.
func carrier(d DType) DType {
	return map[int]DType{1: UInt8, 2: Int16, 4: Int32, 8: Int64}[d.Size()]
}

func (t *Tensor) toTorch(s *torchSide, viewed bool) (*cbridge.Object, error) {
	code, bits := dtypes[t.dtype].code, dtypes[t.dtype].bits
	if viewed {
		code, bits = dtypes[carrier(t.dtype)].code, dtypes[carrier(t.dtype)].bits
	}
	o, err := t.export(s, code, bits)
	if err != nil || !viewed {
		return o, err
	}
	defer o.Close()
	return o.Call("view", s.dtypes[t.dtype])
}

// describe fills C's view of t; the slices are pinned by the caller.
func (t *Tensor) describe(code, bits uint8, pin *runtime.Pinner) C.pyh_tensor {
	for _, s := range [][]int64{t.shape, t.strides} {
		if len(s) > 0 {
			pin.Pin(&s[0])
		}
	}
	return C.pyh_tensor{data: t.data, owner: t.owner, device_type: C.int32_t(t.Device().Type), device_id: C.int32_t(t.device.ID),
		code: C.uint8_t(code), bits: C.uint8_t(bits), ndim: C.int32_t(len(t.shape)), shape: dims(t.shape), strides: dims(t.strides)}
}

func (t *Tensor) export(s *torchSide, code, bits uint8) (*cbridge.Object, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	// The data pointer may be into a Go slice, which FromSlice has pinned.
	c := t.describe(code, bits, &pin)
	// torch's exchange API (2.15) never deletes what it refuses, so it gets
	// what it cannot refuse; a refused capsule is still ours.
	if s.exchange != nil && t.Device().Type == CPU {
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
func (t *Tensor) Capsule(versioned bool) (*cbridge.Object, error) {
	if err := t.use(); err != nil {
		return nil, err
	}
	defer t.done()
	var pin runtime.Pinner
	defer pin.Unpin()
	c := t.describe(dtypes[t.dtype].code, dtypes[t.dtype].bits, &pin)
	flag := C.int(0)
	if versioned {
		flag = 1
	}
	return cbridge.Build(func() unsafe.Pointer { return unsafe.Pointer(C.pyh_dlpack_capsule(api(), &c, flag)) })
}
