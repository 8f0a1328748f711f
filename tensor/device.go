package tensor

import "fmt"

// DeviceType is DLPack's DLDeviceType.
type DeviceType int32

// The devices that tensors of DDP live on.
const (
	CPU         DeviceType = 1
	CUDA        DeviceType = 2
	CUDAHost    DeviceType = 3
	ROCM        DeviceType = 10
	Private     DeviceType = 12 // kDLExtDev: torch's PrivateUse1, a backend of others' own
	CUDAManaged DeviceType = 13
	XPU         DeviceType = 14 // kDLOneAPI
)

// Device is where a tensor's memory is. The zero value means CPU.
type Device struct {
	Type DeviceType
	ID   int32
}

func (d Device) dlpack() Device {
	if d.Type == 0 {
		d.Type = CPU
	}
	return d
}

// IsCPU reports whether the host can read the memory as it is.
func (d Device) IsCPU() bool {
	t := d.dlpack().Type
	return t == CPU || t == CUDAHost
}

// HasStreams reports whether it is of a kind on which torch computes in the order of streams.
func (d Device) HasStreams() bool {
	switch d.Type {
	case CUDA, ROCM, Private, XPU:
		return true
	}
	return false
}

// Kind is torch's name of the kind of device: "cuda".
func (d Device) Kind() string {
	switch d.dlpack().Type {
	case CPU, CUDAHost:
		return "cpu"
	case CUDA, ROCM, CUDAManaged:
		return "cuda"
	case Private:
		return "privateuseone" // torch knows it by this name too when it is renamed
	case XPU:
		return "xpu"
	}
	return fmt.Sprintf("device(%d)", d.Type)
}

// String is torch's name of the device: "cuda:1".
func (d Device) String() string {
	if d.IsCPU() {
		return "cpu"
	}
	return fmt.Sprintf("%s:%d", d.Kind(), d.ID)
}
