package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/internal/ctxerr"
	"pyhook/tensor"
)

// Group is the workers' process group, as a trainer's c10d.ProcessGroup: its
// collectives run in the worker, in the order of their calls. Tensors of NewBuffer
// are used where they are, others are copied there and back. It goes on after a
// Restart. Those of tensors on a device go by the Group of a DeviceMemory.
type Group struct {
	worker     *Worker
	rank, size int
	backend    string
	memory     c10d.DeviceMemory // that collectives are ordered by; nil: of the CPU's tensors only
}

// Rank returns this worker's rank.
func (g *Group) Rank() int { return g.rank }

// Size returns the number of ranks.
func (g *Group) Size() int { return g.size }

// Renewal returns the Worker: see c10d.RenewableGroup.
func (g *Group) Renewal() c10d.Renewal { return g.worker }

// Backend returns torch's name of the backend: "gloo".
func (g *Group) Backend() string { return g.backend }

// NewBuffer: see Worker.NewBuffer.
func (g *Group) NewBuffer(dtype tensor.DType, n int64) (*tensor.Tensor, error) {
	return g.worker.NewBuffer(dtype, n)
}

// AllReduce: see c10d.ProcessGroup.
func (g *Group) AllReduce(ctx context.Context, t *tensor.Tensor, op c10d.ReduceOp) (*c10d.Future[*tensor.Tensor], error) {
	return g.collective(ctx, &groupMessage{Op: "all_reduce", Reduce: op}, []*tensor.Tensor{t}, 0, 1)
}

// Broadcast: see c10d.ProcessGroup.
func (g *Group) Broadcast(ctx context.Context, t *tensor.Tensor, root int) (*c10d.Future[*tensor.Tensor], error) {
	return g.collective(ctx, &groupMessage{Op: "broadcast", Root: root}, []*tensor.Tensor{t}, 0, 1)
}

// AllGather: see c10d.ProcessGroup.
func (g *Group) AllGather(ctx context.Context, out []*tensor.Tensor, in *tensor.Tensor) (*c10d.Future[*tensor.Tensor], error) {
	if len(out) != g.size {
		return nil, g.fail("all_gather", fmt.Errorf("%w: %d outputs for %d ranks", c10d.ErrGroup, len(out), g.size))
	}
	tensors := append(append([]*tensor.Tensor{}, out...), in)
	return g.collective(ctx, &groupMessage{Op: "all_gather"}, tensors, len(out), len(out))
}

// Barrier: see c10d.ProcessGroup.
func (g *Group) Barrier(ctx context.Context) error {
	future, err := g.collective(ctx, &groupMessage{Op: "barrier"}, nil, 0, 0)
	if err != nil {
		return err
	}
	defer future.Close()
	_, err = future.Wait(ctx)
	return err
}

func (g *Group) fail(op string, err error) error {
	var mine *Error
	if errors.As(err, &mine) {
		return mine.at(op, -1)
	}
	return fmt.Errorf("worker of rank %d: %s: %w", g.rank, op, err)
}

// groupCall is a collective on its way.
type groupCall struct {
	call
	g       *Group
	tensors []*tensor.Tensor // the trainer's
	shared  []*tensor.Tensor // what the worker has of each; staged ones are our own
	outputs int              // that many of the first ones are written
	value   *tensor.Tensor
	promise c10d.Promise[*tensor.Tensor]
}

// collective issues one. Of the tensors the first outputs are written; the one at
// result is the future's value.
func (g *Group) collective(ctx context.Context, m *groupMessage, tensors []*tensor.Tensor, result, outputs int) (*c10d.Future[*tensor.Tensor], error) {
	if ctx.Err() != nil {
		return nil, g.fail(m.Op, ctxerr.While(ctx, "not issued"))
	}
	if slices.Contains(tensors, nil) {
		return nil, g.fail(m.Op, fmt.Errorf("%w: a tensor is nil", c10d.ErrGroup))
	}
	p := g.worker.process()
	c := &groupCall{call: call{hook: m.Op, bucket: -1}, g: g, tensors: tensors, outputs: outputs}
	if result < len(tensors) {
		c.value = tensors[result]
	}
	if err := c.stage(ctx, p, m); err != nil {
		c.free()
		return nil, g.fail(m.Op, err)
	}
	c.promise.Init(nil, func(err error) error { return g.fail(m.Op, err) })
	c.done = c.finished
	if err := p.open(&c.call); err != nil {
		c.free()
		return nil, err
	}
	err := p.post(&message{Kind: kindCollective, ID: c.id, Group: m}, nil)
	if err == nil {
		// It is issued when this returns: the next one, or a hook, comes after it.
		a := <-c.answered
		err = a.err
	}
	if err != nil {
		if p.drop(&c.call) {
			c.free()
		}
		return nil, g.fail(m.Op, err)
	}
	return c.promise.Future(), nil
}

// stage makes sure that all tensors are in shared memory, and there.
func (c *groupCall) stage(ctx context.Context, p *process, m *groupMessage) error {
	w := c.g.worker
	onDevice := false
	if c.g.memory != nil {
		if err := c10d.CheckOrdered(c.g.memory, c.tensors...); err != nil {
			return err
		}
	}
	for _, t := range c.tensors {
		if onDevice = onDevice || !t.Device().IsCPU(); onDevice && c.g.memory == nil {
			return fmt.Errorf("%w: %s: use the group of a DeviceMemory (c10d.GroupOf in a hook)", errors.ErrUnsupported, t)
		}
		location, stage, err := w.shareOrStage(ctx, p, t, nil)
		if stage == nil {
			c.shared = append(c.shared, t)
		} else {
			c.shared = append(c.shared, stage)
		}
		if err == nil && stage != nil {
			err = tensor.Copy(stage, t)
		}
		if err != nil {
			return err
		}
		m.Tensors = append(m.Tensors, *location)
	}
	if onDevice {
		return c.g.memory.Synchronize(ctx)
	}
	return nil
}

// finished copies results back, and completes the future.
func (c *groupCall) finished(a answer) {
	err := a.err
	for i := range c.outputs {
		if err == nil && c.shared[i] != c.tensors[i] {
			err = tensor.Copy(c.tensors[i], c.shared[i])
		}
	}
	c.free()
	if err != nil {
		c.promise.Complete(nil, c.g.fail(c.hook, err))
		return
	}
	c.promise.Complete(c.value, nil)
}

func (c *groupCall) free() {
	for i, t := range c.shared {
		if t != c.tensors[i] {
			t.Close()
		}
	}
}

var (
	_ c10d.RenewableGroup  = (*Group)(nil)
	_ c10d.BufferAllocator = (*Group)(nil)
)
