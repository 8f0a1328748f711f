package tensorconv

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"unsafe"

	"pyhook/cbridge"
	"pyhook/tensor"
)

// maxDims is numpy's limit, and that of torch's iterators.
const maxDims = 64

// FromPython makes a Tensor over the memory of a Python tensor or array (torch, numpy, anything
// with __dlpack__) or of a DLPack capsule, without copying: by the type's C exchange API, else by a
// versioned capsule, else by a legacy one. The Tensor keeps the memory alive until it is closed;
// Python frees it at its next call.
//
// It returns a *tensor.Error for read-only memory, for memory that does not show the tensor's
// values (requires_grad, or the conjugate or negative bit set), which the caller must copy, detach
// or resolve first, and for memory that is not aligned for its elements.
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
	imported, err := importDLPack(o, maker)
	if err != nil {
		return nil, err
	}
	t, err := newImported(imported, dtype)
	if err != nil {
		imported.Owner.Release()
	}
	return t, err
}

// newImported takes the owner over, except with an error. dtype is the true one of what was
// imported as integers, else tensor.Invalid.
func newImported(d *cbridge.ImportedDLTensor, dtype tensor.DType) (*tensor.Tensor, error) {
	refuse := func(format string, args ...any) (*tensor.Tensor, error) {
		return nil, &tensor.Error{Op: "DLPack import", Why: fmt.Sprintf(format, args...)}
	}
	ndim := int(d.NDim)
	switch {
	case d.ReadOnly:
		return refuse("the memory is read-only: copy it first")
	case d.DeviceType < 1: // Device's zero value would make it the CPU
		return refuse("device type %d is none of DLPack's", d.DeviceType)
	case ndim < 0 || ndim > maxDims:
		return refuse("%d dimensions", ndim)
	case ndim > 0 && d.Shape == nil:
		return refuse("%d dimensions without sizes", ndim)
	}
	if dtype == tensor.Invalid {
		var err error
		if dtype, err = tensor.DTypeOfDLPack(d.Code, d.Bits, d.Lanes); err != nil {
			return nil, err
		}
	}
	shape := make([]int64, ndim)
	copy(shape, unsafe.Slice(d.Shape, ndim))
	var strides []int64 // nil: contiguous
	if d.Strides != nil {
		strides = make([]int64, ndim)
		copy(strides, unsafe.Slice(d.Strides, ndim))
	}
	n, low, high, err := tensor.Extent(shape, strides)
	if err != nil {
		return nil, &tensor.Error{Op: "DLPack import", Why: "what the producer says", Err: err}
	}
	var data unsafe.Pointer // nil without elements, whatever the producer says
	if n > 0 {
		switch {
		case d.Data == nil:
			return refuse("%v has no memory", shape)
		case !addressable(uintptr(d.Data), d.ByteOffset, low*int64(dtype.Size()), (high+1)*int64(dtype.Size())):
			return refuse("shape %v with strides %v at %p and %d bytes goes round the address space", shape, strides, d.Data, d.ByteOffset)
		}
		if data = unsafe.Add(d.Data, int(d.ByteOffset)); !dtype.Aligned(data) {
			return refuse("%p is not aligned for %s", data, dtype)
		}
	}
	device := tensor.Device{Type: tensor.DeviceType(d.DeviceType), ID: d.DeviceID}
	return tensor.FromOwner(data, dtype, shape, strides, device, d.Owner)
}

// addressable reports whether the bytes from low to high, counted from offset bytes
// after base, are in a process's half of the address space. Neither is beyond 2^63.
func addressable(base uintptr, offset uint64, low, high int64) bool {
	first, over := bits.Add64(uint64(base), offset, 0)
	return over == 0 && first <= math.MaxInt64 && int64(first)+low > 0 && high <= math.MaxInt64-int64(first)
}

// objection reports whether o is a torch tensor; the error says why its memory does not show its
// values.
func (s *torchAPI) objection(o *cbridge.Object) (bool, error) {
	isTensor, why, err := cbridge.TorchObjection(s.tensor, o)
	switch {
	case err != nil:
		return false, &tensor.Error{Op: "from Python", Why: "asking what it is", Err: err}
	case why != "":
		return false, &tensor.Error{Op: "from Python", Why: why}
	}
	return isTensor, nil
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

func importDLPack(o, maker *cbridge.Object) (*cbridge.ImportedDLTensor, error) {
	imported, err := cbridge.ImportExchange(o)
	if imported != nil || err != nil {
		return imported, importError(err, "from Python", "the type's DLPack exchange API refused")
	}
	capsule, err := capsuleOf(o, maker)
	if err != nil {
		return nil, err
	}
	defer capsule.Close()
	imported, err = cbridge.ImportCapsule(capsule)
	return imported, importError(err, "DLPack import", "reading the capsule")
}

// importError wraps a Python error with what failed; a *cbridge.DLPackError says it itself.
func importError(err error, op, why string) error {
	var unknown *cbridge.DLPackError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unknown):
		return &tensor.Error{Op: "DLPack import", Why: unknown.Error()}
	}
	return &tensor.Error{Op: op, Why: why, Err: err}
}

// capsuleOf makes a capsule of o by maker, or by o's own method if maker is nil. It asks for the
// newest form that the producer knows.
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
