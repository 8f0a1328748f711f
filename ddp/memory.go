package ddp

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	"pyhook/c10d"
	"pyhook/tensor"
)

// memory is what the Reducer does with the memory of gradients on one device. NewReducer chooses it
// for each; nothing else in this package touches elements of gradients.
type memory interface {
	// New returns a flat tensor of n zeros, which the caller closes.
	New(dtype tensor.DType, n int64) (*tensor.Tensor, error)
	// Copy copies src's elements to dst, converting the dtype.
	Copy(dst, src *tensor.Tensor) error
	// CopyAll copies each tensor of src to the one of dst.
	CopyAll(dst, src []*tensor.Tensor) error
	// Divide divides t in place.
	Divide(t *tensor.Tensor, divisor float64) error
	// FirstNonFinite returns the index of the first element that is NaN or infinite, or -1.
	FirstNonFinite(t *tensor.Tensor) (int64, error)
	// Checksum returns a number that changes when an element does. t is contiguous.
	Checksum(t *tensor.Tensor) (uint64, error)
	// device returns what gradients are given to when their bucket is complete, all at once (Fill);
	// nil on the CPU, where each is when it is marked.
	device() c10d.DeviceMemory
}

// memoryOfAll, if a test sets it, makes the memory of gradients on the CPU for every group.
var memoryOfAll func(c10d.ProcessGroup) (c10d.DeviceMemory, error)

// memories are those of the parameters' devices.
type memories struct {
	of      []memory // by parameter
	devices []c10d.DeviceMemory
}

// memoriesFor chooses the memories by the devices of the parameters' gradients. byGroup asks the
// group for the CPU's too. The caller closes them.
func memoriesFor(ctx context.Context, group c10d.ProcessGroup, params []*c10d.Parameter, stream c10d.Stream, byGroup bool) (m memories, err error) {
	known := map[tensor.Device]memory{}
	for _, p := range params {
		if p == nil {
			continue // NewReducer's own error
		}
		device := p.GradientDevice()
		if known[device] == nil {
			if known[device], err = m.add(ctx, group, device, stream, byGroup); err != nil {
				m.close()
				return memories{}, fmt.Errorf("%s is on %s: %w", p.Name, device, err)
			}
		}
		m.of = append(m.of, known[device])
	}
	return m, nil
}

func (m *memories) add(ctx context.Context, group c10d.ProcessGroup, device tensor.Device, stream c10d.Stream, byGroup bool) (memory, error) {
	switch {
	case device.IsCPU() && memoryOfAll != nil:
		return m.keep(memoryOfAll(group))
	case device.IsCPU() && !byGroup:
		return hostMemory{}, nil
	case device.IsCPU():
		stream = 0
	}
	g, ok := group.(c10d.DeviceGroup)
	if !ok {
		return nil, fmt.Errorf("%w: a %T reduces gradients in the CPU's memory only, as it is no c10d.DeviceGroup", errors.ErrUnsupported, group)
	}
	return m.keep(g.DeviceMemory(ctx, device, stream))
}

func (m *memories) keep(made c10d.DeviceMemory, err error) (memory, error) {
	if err != nil {
		return nil, err
	}
	m.devices = append(m.devices, made)
	return deviceMemory{made}, nil
}

// at returns the memory of parameter i; the CPU's if none was chosen.
func (m memories) at(i int) memory {
	if i < len(m.of) {
		return m.of[i]
	}
	return hostMemory{}
}

// begin has the communication streams wait for the trainer's.
func (m memories) begin() error {
	for _, device := range m.devices {
		if err := device.Fill(nil, nil, nil, 1); err != nil {
			return err
		}
	}
	return nil
}

// synchronize waits, on the host, for all devices.
func (m memories) synchronize(ctx context.Context) error {
	for _, device := range m.devices {
		if err := device.Synchronize(ctx); err != nil {
			return err
		}
	}
	return nil
}

// end has the trainer's streams wait for what was enqueued.
func (m memories) end() error {
	var errs []error
	for _, device := range m.devices {
		errs = append(errs, device.End())
	}
	return errors.Join(errs...)
}

func (m memories) close() {
	for _, device := range m.devices {
		device.Close()
	}
}

// hostMemory is the CPU's.
type hostMemory struct{}

func (hostMemory) device() c10d.DeviceMemory { return nil }

func (hostMemory) New(dtype tensor.DType, n int64) (*tensor.Tensor, error) {
	return tensor.New(dtype, n)
}

func (hostMemory) Copy(dst, src *tensor.Tensor) error { return tensor.Copy(dst, src) }

func (hostMemory) CopyAll(dst, src []*tensor.Tensor) error {
	for i, t := range dst {
		if err := tensor.Copy(t, src[i]); err != nil {
			return err
		}
	}
	return nil
}

func (hostMemory) Divide(t *tensor.Tensor, divisor float64) error { return tensor.Divide(t, divisor) }

// Zero sets all elements of a contiguous tensor to zero.
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

// deviceMemory is a device's, by the group.
type deviceMemory struct{ c10d.DeviceMemory }

func (m deviceMemory) device() c10d.DeviceMemory { return m.DeviceMemory }

func (m deviceMemory) Copy(dst, src *tensor.Tensor) error {
	if dst.Data() == src.Data() && dst.DType() == src.DType() && dst.IsContiguous() && src.IsContiguous() {
		return nil
	}
	return m.DeviceMemory.Copy([]*tensor.Tensor{dst}, []*tensor.Tensor{src})
}

func (m deviceMemory) CopyAll(dst, src []*tensor.Tensor) error {
	if len(dst) == 0 {
		return nil
	}
	return m.DeviceMemory.Copy(dst, src)
}
