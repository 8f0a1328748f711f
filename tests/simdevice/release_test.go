package simdevice_test

import (
	"context"
	"errors"
	"time"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// letGo trains with gradients on which the trainer keeps no handle. What takes their memory next, on
// the trainer's stream, is not overwritten by the results, which a step enqueues on another.
func (t *trainer) letGo(ctx context.Context) error {
	if t.CPU || t.CUDA || t.worker != nil {
		return nil
	}
	if _, err := t.call("late", "others"); err != nil { // the trainer's stream is prompt
		return err
	}
	group := &releasingGroup{TorchGroup: t.world, t: t, released: make(chan struct{}, len(shapes))}
	r, err := ddp.NewReducer(ctx, scenario{}.parameters(), ddp.Options{Group: group})
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := t.call("synchronize"); err != nil { // the trainer's stream waits for the new buckets
		return err
	}
	for i, shape := range shapes {
		if err := group.markNew(r, i, shape); err != nil {
			return err
		}
	}
	if _, err := r.WaitStream(ctx); err != nil {
		return err
	}
	for range shapes {
		select {
		case <-group.released:
		case <-ctx.Done():
			return errors.New("a gradient is not released after the step")
		}
	}
	if group.taken == nil {
		if group.taken, err = t.helper.Call("taken", shapes); err != nil {
			return err
		}
	}
	defer group.taken.Close()
	untouched, err := t.call("untouched", group.taken)
	if err == nil && untouched != true {
		err = errors.New("a result is in memory that is another tensor's")
	}
	_, failed := t.call("late", "all")
	return errors.Join(err, failed)
}

// releasingGroup has a thread of the trainer's take memory while a step ends.
type releasingGroup struct {
	*pyhook.TorchGroup
	t        *trainer
	released chan struct{}
	taken    *pyhook.Object // memory of the gradients', if they were released before the step's end
}

// markNew marks a gradient, and closes the trainer's handles on it.
func (g *releasingGroup) markNew(r *ddp.Reducer, i int, shape []int64) error {
	object, err := g.t.helper.Call("zeros", shape, "float32", sim.String())
	if err != nil {
		return err
	}
	defer object.Close()
	whole, err := tensorconv.FromPython(object)
	if err != nil {
		return err
	}
	own, err := tensor.FromPointer(whole.Data(), tensor.Float32, shape, nil, sim, func() {
		whole.Close()
		g.released <- struct{}{}
	})
	if err != nil {
		return err
	}
	defer own.Close()
	return r.ReadyFrom(i, own)
}

func (g *releasingGroup) DeviceMemory(ctx context.Context, device tensor.Device, stream c10d.Stream) (c10d.DeviceMemory, error) {
	m, err := g.TorchGroup.DeviceMemory(ctx, device, stream)
	return &releasingMemory{m, g}, err
}

type releasingMemory struct {
	c10d.DeviceMemory
	group *releasingGroup
}

func (m *releasingMemory) End() (err error) {
	select {
	case <-m.group.released:
		for range len(shapes) - 1 {
			<-m.group.released
		}
		m.group.taken, err = m.group.t.helper.Call("taken", shapes)
		for range shapes {
			m.group.released <- struct{}{}
		}
	case <-time.After(200 * time.Millisecond):
	}
	return errors.Join(err, m.DeviceMemory.End())
}
