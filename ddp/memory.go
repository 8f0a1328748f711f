package ddp

import (
	"errors"
	"fmt"
	"hash/maphash"

	"pyhook/c10d"
	"pyhook/tensor"
)

// memory is what the Reducer does with the memory of gradients on one kind of device. NewReducer
// chooses it; nothing else in this package touches elements of gradients.
type memory interface {
	// New returns a flat tensor of n zeros, which the caller closes.
	New(dtype tensor.DType, n int64) (*tensor.Tensor, error)
	// Copy copies src's elements to dst, converting the dtype.
	Copy(dst, src *tensor.Tensor) error
	// Scale writes src times factor to dst.
	Scale(dst, src *tensor.Tensor, factor float64) error
	// Divide divides t in place.
	Divide(t *tensor.Tensor, divisor float64) error
	// Zero sets all elements to zero. t is contiguous.
	Zero(t *tensor.Tensor) error
	// FirstNonFinite returns the index of the first element that is NaN or infinite, or -1.
	FirstNonFinite(t *tensor.Tensor) (int64, error)
	// Checksum returns a number that changes when an element does. t is contiguous.
	Checksum(t *tensor.Tensor) (uint64, error)
}

// memoryFor chooses the memory by the device of the parameters' values, which all must have.
func memoryFor(params []*c10d.Parameter) (memory, error) {
	for _, p := range params {
		if p.Data != nil && !p.Data.Device().IsCPU() {
			return nil, fmt.Errorf("%s is on %s: %w: gradients are reduced in the CPU's memory", p.Name, p.Data.Device(), errors.ErrUnsupported)
		}
	}
	return hostMemory{}, nil
}

// hostMemory is the CPU's.
type hostMemory struct{}

func (hostMemory) New(dtype tensor.DType, n int64) (*tensor.Tensor, error) {
	return tensor.New(dtype, n)
}

func (hostMemory) Copy(dst, src *tensor.Tensor) error { return tensor.Copy(dst, src) }

func (hostMemory) Scale(dst, src *tensor.Tensor, factor float64) error {
	return tensor.Scale(dst, src, factor)
}

func (hostMemory) Divide(t *tensor.Tensor, divisor float64) error { return tensor.Divide(t, divisor) }

func (hostMemory) Zero(t *tensor.Tensor) error {
	bytes, err := tensor.RawBytes(t)
	clear(bytes)
	return err
}

func (hostMemory) FirstNonFinite(t *tensor.Tensor) (int64, error) { return tensor.FirstNonFinite(t) }

var checksumSeed = maphash.MakeSeed()

func (hostMemory) Checksum(t *tensor.Tensor) (uint64, error) {
	bytes, err := tensor.RawBytes(t)
	return maphash.Bytes(checksumSeed, bytes), err
}
