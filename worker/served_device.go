package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/tensor"
	"pyhook/tensorconv"
	"pyhook/worker/internal/ipc"
)

// onDevice makes the trainer's tensor on a device, over the same memory.
func (s *server) onDevice(m *ipc.Location) (*tensor.Tensor, error) {
	if s.rt == nil {
		return nil, errors.New("a tensor on a device before the start")
	}
	sharing, err := s.rt.Import(context.Background(), sharingModule)
	if err != nil {
		return nil, err
	}
	defer sharing.Close()
	object, err := sharing.Call("shared", m.Handle)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	t, err := tensorconv.FromPython(object)
	if err != nil {
		return nil, err
	}
	if len(m.Shape) == 1 && t.Len() > m.Shape[0] { // the rest is its capacity
		whole := t
		defer whole.Close()
		if t, err = whole.Prefix(m.Shape[0]); err != nil {
			return nil, err
		}
	}
	if t.DType() != m.DType || !slices.Equal(t.Shape(), m.Shape) {
		t.Close()
		return nil, fmt.Errorf("%s came in place of %s%v", t, m.DType, m.Shape)
	}
	return t, nil
}

// memoryOf returns the memory of a tensor's device, whose communication stream hooks and collectives
// are ordered by here; nil of the CPU's.
func (s *server) memoryOf(t *tensor.Tensor) (c10d.DeviceMemory, error) {
	device := t.Device()
	if device.IsCPU() {
		return nil, nil
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	if m := s.devices[device]; m != nil {
		return m, nil
	}
	if s.group == nil {
		return nil, errors.New("a tensor on a device before the start")
	}
	m, err := s.group.DeviceMemory(context.Background(), device, 0)
	if err == nil {
		s.devices[device] = m
	}
	return m, err
}

// tryDevice writes a NaN to the trainer's memory, which is zero.
func (s *server) tryDevice(m *ipc.Location) error {
	t, err := s.tensor(m)
	if err != nil {
		return err
	}
	defer t.Close()
	memory, err := s.memoryOf(t)
	if err != nil {
		return err
	}
	if memory == nil {
		return fmt.Errorf("%s is not on a device", t)
	}
	if err := memory.Divide(t, 0); err != nil {
		return err
	}
	return memory.Synchronize(context.Background())
}

func (c *servedCall) onDevice() bool { return c.bucket.bucket.Memory() != nil }

// failed reports whether a call's future is done, and with an error.
func (c *servedCall) failed() bool {
	if !c.future.IsDone() {
		return false
	}
	_, err := c.future.Wait(context.Background())
	return err != nil
}

// begin has a call come after what the default stream has of its hook's state.
func (b *servedBucket) begin() error {
	if m := b.bucket.Memory(); m != nil {
		return m.Fill(nil, nil, nil, 1)
	}
	return nil
}

// write copies a result to the bucket's buffer on its device, and waits until it is there: the trainer
// reads it next, and the device does not know that these two processes are ordered.
func (b *servedBucket) write(m c10d.DeviceMemory, t *tensor.Tensor) error {
	if err := c10d.CheckResult(t, b.buffer); err != nil {
		return err
	}
	if t.Data() != b.buffer.Data() || t.DType() != b.buffer.DType() {
		if err := m.Copy([]*tensor.Tensor{b.buffer}, []*tensor.Tensor{t}); err != nil {
			return err
		}
	}
	if err := m.Synchronize(context.Background()); err != nil {
		return err
	}
	return m.End() // the next call tells the allocator again of what the hook holds
}

// onItsDevice makes what failed on the device an error of the hook, whose work it is.
func (c *servedCall) onItsDevice(err error) error {
	var failed *c10d.Error
	if !errors.As(err, &failed) {
		return err
	}
	return &c10d.Error{
		Op: "hook " + c.hook.Name(), Rank: failed.Rank, Bucket: c.bucket.bucket.Index(), Code: failed.Code,
		Detail: failed.Op + ": " + failed.Detail, Hint: failed.Hint, Err: err,
	}
}

// waitOut waits until the devices are done with what a call that failed has under way, or have failed:
// the bucket is the trainer's again.
func (s *server) waitOut(b *servedBucket) {
	if b.bucket.Memory() == nil {
		return
	}
	streams, err := s.rt.Import(context.Background(), "pyhook._device.streams")
	if err != nil {
		return // Python has ended, and with it the process
	}
	defer streams.Close()
	_, _ = streams.CallValue("wait_out")
}
