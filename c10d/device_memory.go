package c10d

import (
	"context"
	"fmt"

	"pyhook/tensor"
)

// DeviceGroup is a ProcessGroup that can keep gradients on other devices than the CPU, for package
// ddp: pyhook.TorchGroup is one, and worker.Group.
type DeviceGroup interface {
	ProcessGroup
	// DeviceMemory returns the memory of a device, with a communication stream of its own. stream is
	// the trainer's: what is enqueued there before Fill comes before the reduction, and what is
	// enqueued there after End comes after it. What any stream of the device has before DeviceMemory is
	// called is done when it returns: the host waits for it, or for the end of ctx. The caller closes
	// the memory. On the CPU nothing has a stream. The error says that torch has no such device, or the
	// device no such stream; or it is ctx's.
	DeviceMemory(ctx context.Context, device tensor.Device, stream Stream) (DeviceMemory, error)
}

// DeviceMemory is what package ddp does with gradients in the memory of one device, enqueued on its
// communication stream and not waited for. No element comes to the host, but for what
// FirstNonFinite and Checksum return. Lists have one tensor of dst for each of src, of equal shapes.
// Any goroutine may use it, one at a time for one tensor.
type DeviceMemory interface {
	Device() tensor.Device
	// New returns a flat tensor of n zeros, with the capacity of tensor.New. The caller closes it.
	New(dtype tensor.DType, n int64) (*tensor.Tensor, error)
	// Fill has the communication stream wait for the trainer's, copies src to dst and multiplies dst
	// by factor, and sets the tensors of zero to zero.
	Fill(dst, src, zero []*tensor.Tensor, factor float64) error
	// Copy copies, and converts dtypes. A tensor copied onto itself, or onto memory that it
	// overlaps, comes right.
	Copy(dst, src []*tensor.Tensor) error
	// Divide divides in place.
	Divide(t *tensor.Tensor, divisor float64) error
	// FirstNonFinite returns the index of the first element that is NaN or infinite, or -1. It waits
	// for the device.
	FirstNonFinite(t *tensor.Tensor) (int64, error)
	// Checksum returns a number that changes when an element does, the same for the same elements in
	// every process. It waits for the device.
	Checksum(t *tensor.Tensor) (uint64, error)
	// End has the trainer's stream wait for the communication stream.
	End() error
	// Synchronize waits, on the host, for the communication stream, or for the end of ctx, whose
	// error it then returns.
	Synchronize(ctx context.Context) error
	// Group returns the group, whose collectives of tensors on the device are issued from the
	// communication stream: they come after what is enqueued there. When their futures are done, what
	// is enqueued there comes after them; the host may be earlier. A tensor on another device is
	// ErrDevice.
	Group() ProcessGroup
	// Close lets go of the streams. Tensors stay. Idempotent.
	Close()
}

// CheckOrdered says which of a collective's tensors the Group of m cannot order: one on a device that
// is not m's. The error is ErrDevice.
func CheckOrdered(m DeviceMemory, tensors ...*tensor.Tensor) error {
	for _, t := range tensors {
		if d := t.Device(); !d.IsCPU() && d != m.Device() {
			return fmt.Errorf("%w: %s for a group whose collectives are in the order of %s: use the group of that device's memory", ErrDevice, t, m.Device())
		}
	}
	return nil
}

// GroupOf returns the group whose collectives take b's buffer, and other tensors on its device: that
// of the bucket's memory, or else group. For hooks in Go.
func GroupOf(b *GradBucket, group ProcessGroup) ProcessGroup {
	if m := b.Memory(); m != nil {
		return m.Group()
	}
	return group
}
