package tensorconv

import (
	"fmt"
	"sync/atomic"

	"pyhook/cbridge"
	"pyhook/tensor"
)

// torchAPI holds the parts of torch that this package uses, looked up once.
type torchAPI struct {
	fromDLPack *cbridge.Object // torch.utils.dlpack.from_dlpack
	toDLPack   *cbridge.Object // torch.utils.dlpack.to_dlpack
	dtypes     [tensor.NumDTypes]*cbridge.Object
	tensor     *cbridge.Object        // torch.Tensor
	exchange   *cbridge.ExchangeAPI   // torch.Tensor's; nil before torch 2.10
	viewed     [tensor.NumDTypes]bool // torch's DLPack refuses it: exported as integers and viewed
}

var foundTorchAPI atomic.Pointer[torchAPI]

// torch returns the torchAPI, whose objects live as long as the process. It does not keep a
// failure: Python may start later, or its path change. It takes no lock, since a caller may hold
// the GIL; of several lookups at once the first result is kept.
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

// importedTorch returns torch's API if Python has imported torch, else nil: objects of other
// libraries do not need it.
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
	s.exchange, err = cbridge.FindExchangeAPI(s.tensor)
	return err
}

// findViewed asks torch which dtypes its DLPack takes: bool since 2.1, the 8-bit floats since later
// versions; unsigned ones need a dtype of both torch and DLPack. It asks by capsule: see export.
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
			// Compare the tensor's own dtype: old versions read fp8 as uint8.
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

// ToPython makes a torch.Tensor over t's memory, without a copy. The Python tensor, or its storage,
// keeps the memory alive, so t may be closed. A dtype that this torch does not have is a
// *tensor.Error, and so are negative strides, and complex128 that is not aligned to 16 bytes. The
// caller closes the result.
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

// carrier returns an integer dtype of d's size that every torch's DLPack takes.
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

// describe describes t as if it had that dtype.
func describe(t *tensor.Tensor, dtype tensor.DType) *cbridge.DLTensor {
	code, bits := dtype.DLPack()
	d := &cbridge.DLTensor{Data: t.Data(), DeviceType: int32(t.Device().Type), DeviceID: t.Device().ID,
		Code: code, Bits: bits, Lanes: 1, NDim: int32(len(t.Shape()))}
	if len(t.Shape()) > 0 {
		d.Shape, d.Strides = &t.Shape()[0], &t.Strides()[0]
	}
	return d
}

func export(t *tensor.Tensor, s *torchAPI, dtype tensor.DType) (*cbridge.Object, error) {
	owner, err := t.Retain()
	if err != nil {
		return nil, err
	}
	defer owner.Release()
	// The data pointer may be into a Go slice, which FromSlice has pinned.
	d := describe(t, dtype)
	// torch's exchange API (2.15) leaks what it refuses, so it gets only what it cannot refuse; a
	// refused capsule is freed here.
	if s.exchange != nil && t.Device().Type == tensor.CPU {
		return s.exchange.Export(d, owner)
	}
	capsule, err := d.Capsule(owner)
	if err != nil {
		return nil, err
	}
	defer capsule.Close()
	return s.fromDLPack.Invoke([]any{capsule}, nil)
}

// Go code hands tensors to Python functions as arguments.
func init() { cbridge.RegisterConversion(ToPython) }
