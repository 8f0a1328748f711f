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
	CUDAManaged DeviceType = 13
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

// String is torch's name of the device.
func (d Device) String() string {
	switch d.dlpack().Type {
	case CPU, CUDAHost:
		return "cpu"
	case CUDA, ROCM, CUDAManaged:
		return fmt.Sprintf("cuda:%d", d.ID)
	}
	return fmt.Sprintf("device(%d):%d", d.Type, d.ID)
}
