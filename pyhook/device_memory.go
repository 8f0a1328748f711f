package pyhook

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"pyhook/c10d"
	"pyhook/internal/ctxerr"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// deviceMemory is a c10d.DeviceMemory over a DeviceMemory of python/pyhook/_device/memory.py.
type deviceMemory struct {
	group  c10d.ProcessGroup // Group's
	device tensor.Device
	object *Object

	closing sync.Once
	methods [methodCount]*Object
}

// The methods of the Python object that each step calls.
const (
	methodFill = iota
	methodCopy
	methodDivide
	methodEnd
	methodSynchronize
	methodCount
)

var methodNames = [methodCount]string{"fill", "copy", "divide", "end", "synchronize"}

// DeviceMemory: see c10d.DeviceGroup. The error is a *c10d.Error.
func (g *TorchGroup) DeviceMemory(ctx context.Context, device tensor.Device, stream c10d.Stream) (c10d.DeviceMemory, error) {
	return g.rt.DeviceMemory(ctx, device, stream, func(m c10d.DeviceMemory) c10d.ProcessGroup {
		return &deviceGroup{g, m.(*deviceMemory)}
	})
}

// DeviceMemory returns the memory of a device in this process for a group whose collectives run
// elsewhere, as a worker's do: see c10d.DeviceGroup. group makes what the memory's Group returns, and
// may keep the memory, which is not ready yet. The error is a *c10d.Error.
func (rt *Runtime) DeviceMemory(ctx context.Context, device tensor.Device, stream c10d.Stream, group func(c10d.DeviceMemory) c10d.ProcessGroup) (c10d.DeviceMemory, error) {
	m := &deviceMemory{device: device}
	m.group = group(m)
	var object *Object
	err := m.until(ctx, func() (err error) {
		object, err = rt.bridge.Call("DeviceMemory", device.String(), uint64(stream))
		return err
	})
	if err != nil {
		return nil, m.fail("using the device", err)
	}
	m.object = object
	for i, name := range methodNames {
		if m.methods[i], err = m.object.Attr(name); err != nil {
			m.Close()
			return nil, m.fail("using the device", err)
		}
	}
	return m, nil
}

// until calls f, which waits for the device, and returns its error. If ctx ends first a goroutine goes
// on waiting.
func (m *deviceMemory) until(ctx context.Context, f func() error) error {
	if ctx.Done() == nil || m.device.IsCPU() {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctxerr.While(ctx, "waiting for "+m.device.String())
	}
}

func (m *deviceMemory) fail(doing string, err error) error {
	if err == nil {
		return nil
	}
	return newError(fmt.Sprintf("%s %s", doing, m.device), m.group.Rank(), -1, c10d.ErrDeviceMemory, err)
}

func (m *deviceMemory) call(method int, doing string, args ...any) error {
	none, err := m.methods[method].Invoke(args, nil)
	if err != nil {
		return m.fail(doing, err)
	}
	none.Close()
	return nil
}

// Device: see c10d.DeviceMemory.
func (m *deviceMemory) Device() tensor.Device { return m.device }

// New: see c10d.DeviceMemory.
func (m *deviceMemory) New(dtype tensor.DType, n int64) (*tensor.Tensor, error) {
	if dtype.Size() == 0 {
		return nil, &tensor.Error{Op: "new", Why: "invalid dtype"}
	}
	object, err := m.object.Call("new", dtype.String(), tensor.Capacity(n))
	if err != nil {
		return nil, m.fail(fmt.Sprintf("allocating %d elements of %s on", n, dtype), err)
	}
	defer object.Close()
	whole, err := tensorconv.FromPython(object)
	if err != nil {
		return nil, m.fail("reading the address of memory on", err)
	}
	defer whole.Close()
	return whole.Prefix(n)
}

// Fill: see c10d.DeviceMemory.
func (m *deviceMemory) Fill(dst, src, zero []*tensor.Tensor, factor float64) error {
	return m.call(methodFill, "copying gradients on", dst, src, zero, factor)
}

// Copy: see c10d.DeviceMemory.
func (m *deviceMemory) Copy(dst, src []*tensor.Tensor) error {
	overlapping := []int{} // tensors that cannot be read while they are written
	for i, to := range dst {
		from := src[i]
		same := to.Data() == from.Data() && to.DType() == from.DType() && slices.Equal(to.Strides(), from.Strides())
		if !same && to.Device() == from.Device() && tensor.Overlap(to, from) {
			overlapping = append(overlapping, i)
		}
	}
	return m.call(methodCopy, "copying on", dst, src, overlapping)
}

// Divide: see c10d.DeviceMemory.
func (m *deviceMemory) Divide(t *tensor.Tensor, divisor float64) error {
	return m.call(methodDivide, "dividing on", t, divisor)
}

// FirstNonFinite: see c10d.DeviceMemory.
func (m *deviceMemory) FirstNonFinite(t *tensor.Tensor) (int64, error) {
	at, err := m.number("first_nonfinite", t)
	n, _ := at.(int64)
	return n, m.fail("looking for NaN on", err)
}

// Checksum: see c10d.DeviceMemory.
func (m *deviceMemory) Checksum(t *tensor.Tensor) (uint64, error) {
	sum, err := m.number("checksum", t)
	if err != nil {
		return 0, m.fail("summing up the bits on", err)
	}
	if n, ok := sum.(int64); ok {
		return uint64(n), nil
	}
	n, _ := sum.(uint64)
	return n, nil
}

func (m *deviceMemory) number(method string, t *tensor.Tensor) (any, error) {
	return m.object.CallValue(method, t)
}

// End: see c10d.DeviceMemory.
func (m *deviceMemory) End() error { return m.call(methodEnd, "ending a step on") }

// Synchronize: see c10d.DeviceMemory.
func (m *deviceMemory) Synchronize(ctx context.Context) error {
	if m.device.IsCPU() {
		return nil
	}
	return m.until(ctx, func() error { return m.call(methodSynchronize, "waiting for") })
}

// Group: see c10d.DeviceMemory.
func (m *deviceMemory) Group() c10d.ProcessGroup { return m.group }

// Close: see c10d.DeviceMemory.
func (m *deviceMemory) Close() {
	m.closing.Do(func() {
		for _, method := range m.methods {
			method.Close()
		}
		m.object.Close()
	})
}

// deviceGroup is a TorchGroup whose collectives are issued from a memory's communication stream.
type deviceGroup struct {
	*TorchGroup
	memory *deviceMemory
}

// AllReduce: see c10d.ProcessGroup.
func (g *deviceGroup) AllReduce(ctx context.Context, t *tensor.Tensor, op c10d.ReduceOp) (*c10d.Future[*tensor.Tensor], error) {
	if err := c10d.CheckOrdered(g.memory, t); err != nil {
		return nil, groupError("all_reduce", g.rank, err)
	}
	return g.collectiveBy(ctx, g.memory, "all_reduce", t, t, string(op))
}

// Broadcast: see c10d.ProcessGroup.
func (g *deviceGroup) Broadcast(ctx context.Context, t *tensor.Tensor, root int) (*c10d.Future[*tensor.Tensor], error) {
	if err := g.checkRoot(root); err != nil {
		return nil, err
	}
	if err := c10d.CheckOrdered(g.memory, t); err != nil {
		return nil, groupError("broadcast", g.rank, err)
	}
	return g.collectiveBy(ctx, g.memory, "broadcast", t, t, root)
}

// AllGather: see c10d.ProcessGroup.
func (g *deviceGroup) AllGather(ctx context.Context, out []*tensor.Tensor, in *tensor.Tensor) (*c10d.Future[*tensor.Tensor], error) {
	if err := g.checkOutputs(len(out)); err != nil {
		return nil, err
	}
	if err := c10d.CheckOrdered(g.memory, append(slices.Clone(out), in)...); err != nil {
		return nil, groupError("all_gather", g.rank, err)
	}
	return g.collectiveBy(ctx, g.memory, "all_gather", in, out, in)
}

var _ c10d.DeviceGroup = (*TorchGroup)(nil)
