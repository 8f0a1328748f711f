package worker

import (
	"context"
	"errors"
	"fmt"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/worker/internal/ipc"
)

// UseRuntime has rt, this process's Python, share gradients and parameters on devices with the worker, by
// the means that its torch has (CUDA: IPC handles). It needs no process group of its own. Call it
// before NewHook and ddp.NewReducer; rt must stay open as long as the Worker. Without it gradients are
// on the CPU.
func (w *Worker) UseRuntime(rt *pyhook.Runtime) { w.runtime.Store(rt) }

// DeviceMemory: see c10d.DeviceGroup. It is this process's, by UseRuntime. Its Group's collectives are
// of tensors that torch can share with the worker, as those of the memory's New are; the host waits
// for the device before a collective is issued, and in the worker before its future is done.
func (g *Group) DeviceMemory(ctx context.Context, device tensor.Device, stream c10d.Stream) (c10d.DeviceMemory, error) {
	rt := g.worker.runtime.Load()
	if rt == nil {
		return nil, g.worker.deviceError(device, errNoRuntime)
	}
	m, err := rt.DeviceMemory(ctx, device, stream, func(m c10d.DeviceMemory) c10d.ProcessGroup {
		of := *g
		of.memory = m
		return &of
	})
	if err != nil {
		return nil, err
	}
	if err := g.worker.tryDevice(m); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// CheckDevice: see c10d.DeviceHook. The worker writes to new memory of the device, and gets the
// parameters.
func (h *Hook) CheckDevice(m c10d.DeviceMemory, params []*c10d.Parameter) error {
	if err := h.worker.tryDevice(m); err != nil {
		return h.fail(nil, c10d.ErrDeviceMemory, err)
	}
	if _, err := h.worker.parameterIDs(context.Background(), h.worker.process(), params); err != nil {
		return h.fail(nil, c10d.ErrDeviceMemory, err)
	}
	return nil
}

// tryDevice has the worker write a NaN to memory of the device, and looks for it.
func (w *Worker) tryDevice(m c10d.DeviceMemory) error {
	if m.Device().IsCPU() {
		return nil
	}
	ctx := context.Background()
	t, err := m.New(tensor.Float32, 1)
	if err != nil {
		return err
	}
	defer t.Close()
	p := w.process()
	location, err := w.share(ctx, p, t)
	if err == nil {
		err = m.Synchronize(ctx)
	}
	if err == nil {
		_, err = p.ask(ctx, "sharing the memory of "+m.Device().String(), 0, &message{Kind: kindTryDevice, Bucket: &bucketMessage{Buffer: location}}, nil)
	}
	if err != nil {
		return w.deviceError(m.Device(), err)
	}
	at, err := m.FirstNonFinite(t)
	if err == nil && at != 0 {
		err = w.deviceError(m.Device(), errors.New("what the worker's torch writes is not here"))
	}
	return err
}

// shareOnDevice returns what the worker's torch makes a tensor over t's memory of. On its way a
// handle keeps the memory.
func (w *Worker) shareOnDevice(ctx context.Context, t *tensor.Tensor) (*ipc.Location, error) {
	rt := w.runtime.Load()
	if rt == nil {
		return nil, w.deviceError(t.Device(), errNoRuntime)
	}
	whole, err := t.WithCapacity()
	if err != nil {
		return nil, err
	}
	defer whole.Close()
	sharing, err := rt.Import(ctx, sharingModule)
	if err != nil {
		return nil, err
	}
	defer sharing.Close()
	handle, err := sharing.CallValue("share", whole)
	if err != nil {
		return nil, w.deviceError(t.Device(), err)
	}
	bytes, _ := handle.([]byte)
	return &ipc.Location{Handle: bytes, DType: t.DType(), Shape: t.Shape()}, nil
}

const sharingModule = "pyhook._device.sharing"

var errNoRuntime = errors.New("the trainer's process has no torch to share it by")

func (w *Worker) deviceError(device tensor.Device, err error) error {
	var mine *Error
	var known *c10d.Error
	if errors.As(err, &mine) || errors.As(err, &known) {
		return err
	}
	hint := "run the hook in this process (pyhook.Runtime), or keep the gradients on the CPU"
	if errors.Is(err, errNoRuntime) {
		hint = "call Worker.UseRuntime with this process's pyhook.Runtime before; or " + hint
	}
	return &c10d.Error{
		Op: fmt.Sprintf("sharing memory of %s with a worker", device), Rank: w.cfg.rank, Bucket: -1, Code: c10d.ErrDeviceMemory,
		Detail: err.Error(), Hint: hint,
		Err: errors.Join(errors.ErrUnsupported, err),
	}
}

var (
	_ c10d.DeviceHook  = (*Hook)(nil)
	_ c10d.DeviceGroup = (*Group)(nil)
)
