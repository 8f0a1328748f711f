package transport

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/tensor"
)

// Operation is a collective, a send or a receive, as Python's torch.distributed or Go asks for it.
// Coalesced ones have k times the tensors.
type Operation struct {
	Name    string // torch's: "all_reduce", "send", ...
	Reduce  c10d.ReduceOp
	Peer    int    // the root, the source or the destination
	Message uint64 // the tag of a send or receive
	Out, In []*tensor.Tensor
}

// Close closes the tensors, for whoever made them for the operation alone.
func (op *Operation) Close() {
	for _, t := range slices.Concat(op.Out, op.In) {
		t.Close()
	}
}

// validate says what can be said before the other ranks are asked.
func (op *Operation) validate(rank, size int) error {
	for _, t := range slices.Concat(op.Out, op.In) {
		if !t.Device().IsCPU() {
			return fmt.Errorf("a tensor on %s: a transport moves CPU memory", t.Device())
		}
	}
	ins, outs := len(op.In), len(op.Out)
	wrong := false
	switch op.Name {
	case "all_reduce", "reduce", "broadcast":
		return op.validatePeer(rank, size) // coalesced ones may mix dtypes
	case "all_gather":
		wrong = outs != size*ins
	case "reduce_scatter":
		wrong = ins != size*outs
	case "all_to_all":
		wrong = outs != size || ins != size
	case "gather":
		wrong = ins != 1 || rank == op.Peer && outs != size
	case "scatter":
		wrong = outs != 1 || rank == op.Peer && ins != size
	}
	if wrong {
		return fmt.Errorf("%d inputs and %d outputs for %d ranks", ins, outs, size)
	}
	if k := max(1, min(ins, outs)); k == 1 {
		all := slices.Concat(op.In, op.Out)
		for _, t := range all {
			if t.DType() != all[0].DType() {
				return fmt.Errorf("%s and %s in one call", all[0].DType(), t.DType())
			}
		}
	}
	return op.validatePeer(rank, size)
}

func (op *Operation) validatePeer(rank, size int) error {
	if op.Peer < 0 || op.Peer >= size {
		return fmt.Errorf("rank %d of a group of %d", op.Peer, size)
	}
	if op.Peer == rank && (op.Name == "send" || op.Name == "recv") {
		return fmt.Errorf("%s with rank %d itself", op.Name, rank)
	}
	return nil
}

// run does op on contiguous copies of what is not.
func (op *Operation) run(c *call) error {
	defer c.close()
	plain := *op
	var back []func() error
	staged := func(list tensors, read, write bool) (tensors, error) {
		out := slices.Clone(list)
		for i, t := range list {
			if t.IsContiguous() {
				continue
			}
			dense, err := tensor.New(t.DType(), t.Shape()...)
			if err != nil {
				return nil, err
			}
			c.temps = append(c.temps, dense)
			if out[i] = dense; read {
				if err := tensor.Copy(dense, t); err != nil {
					return nil, err
				}
			}
			if write {
				back = append(back, func() error { return tensor.Copy(t, dense) })
			}
		}
		return out, nil
	}
	var err error
	if plain.In, err = staged(op.In, true, false); err != nil {
		return err
	}
	// What is received into a copy with gaps in it keeps the old values there.
	if plain.Out, err = staged(op.Out, true, true); err != nil {
		return err
	}
	if err := plain.dispatch(c); err != nil {
		return err
	}
	for _, f := range back {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func (op *Operation) dispatch(c *call) error {
	switch op.Name {
	case "all_reduce":
		return each(op.Out, func(t *tensor.Tensor) error { return c.allReduce(t, op.Reduce) })
	case "reduce":
		return each(op.Out, func(t *tensor.Tensor) error { return c.reduce(t, op.Reduce, op.Peer) })
	case "broadcast":
		return each(op.Out, func(t *tensor.Tensor) error { return c.broadcast(t, op.Peer) })
	case "all_gather":
		for i, in := range op.In {
			if err := c.allGather(op.Out[i*c.g.size:(i+1)*c.g.size], in); err != nil {
				return err
			}
		}
		return nil
	case "reduce_scatter":
		for i, out := range op.Out {
			if err := c.reduceScatter(out, op.In[i*c.g.size:(i+1)*c.g.size], op.Reduce); err != nil {
				return err
			}
		}
		return nil
	case "all_to_all":
		return c.allToAll(op.Out, op.In)
	case "gather":
		return c.gather(op.Out, op.In[0], op.Peer)
	case "scatter":
		return c.scatter(op.Out[0], op.In, op.Peer)
	case "barrier":
		return c.barrier()
	case "send", "recv":
		return c.message(op)
	}
	return fmt.Errorf("%s: %w", op.Name, errors.ErrUnsupported)
}

func each(list tensors, f func(*tensor.Tensor) error) error {
	for _, t := range list {
		if err := f(t); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) broadcast(t *tensor.Tensor, root int) error {
	data, err := raw(tensors{t})
	if err != nil {
		return err
	}
	if own, ok := c.g.transport.(Broadcaster); ok {
		if t.Len() == 0 {
			return nil
		}
		return own.Broadcast(c.ctx, data[0], root)
	}
	if err := c.agree("broadcast %s x%d of rank %d", t.DType(), t.Len(), root); err != nil {
		return err
	}
	return c.g.move.broadcast(c.ctx, c.next(), data[0], root)
}

func (c *call) allGather(out tensors, in *tensor.Tensor) error {
	for rank, t := range out {
		if t.Len() != in.Len() {
			return fmt.Errorf("output %d has %d elements and the input %d", rank, t.Len(), in.Len())
		}
	}
	to, err := raw(out)
	if err != nil {
		return err
	}
	from, err := raw(tensors{in})
	if err != nil {
		return err
	}
	if own, ok := c.g.transport.(AllGatherer); ok {
		if in.Len() == 0 {
			return nil
		}
		return own.AllGather(c.ctx, to, from[0])
	}
	if err := c.agree("all_gather %s x%d", in.DType(), in.Len()); err != nil {
		return err
	}
	return c.g.move.gather(c.ctx, c.next(), to, from[0])
}

func (c *call) allToAll(out, in tensors) error {
	if err := c.agree("all_to_all %s", in[0].DType()); err != nil {
		return err
	}
	return c.exchange(in, out)
}

func (c *call) gather(out tensors, in *tensor.Tensor, root int) error {
	if err := c.agree("gather %s x%d to rank %d", in.DType(), in.Len(), root); err != nil {
		return err
	}
	send := make(tensors, c.g.size)
	send[root] = in
	if c.g.rank != root {
		out = make(tensors, c.g.size)
	}
	return c.exchange(send, out)
}

func (c *call) scatter(out *tensor.Tensor, in tensors, root int) error {
	if err := c.agree("scatter %s x%d of rank %d", out.DType(), out.Len(), root); err != nil {
		return err
	}
	recv := make(tensors, c.g.size)
	recv[root] = out
	if c.g.rank != root {
		in = make(tensors, c.g.size)
	}
	return c.exchange(in, recv)
}

func (c *call) barrier() error {
	if own, ok := c.g.transport.(Barrierer); ok {
		return own.Barrier(c.ctx)
	}
	return c.agree("barrier")
}

func (c *call) message(op *Operation) error {
	p, ok := c.g.transport.(PointToPoint)
	if !ok {
		return fmt.Errorf("the transport has no Send and Recv: %w", errors.ErrUnsupported)
	}
	move, list := func(ctx context.Context, data []byte) error { return p.Recv(ctx, op.Peer, c.tag, data) }, op.Out
	if op.Name == "send" {
		move, list = func(ctx context.Context, data []byte) error { return p.Send(ctx, op.Peer, c.tag, data) }, op.In
	}
	data, err := raw(list)
	if err != nil {
		return err
	}
	for _, part := range data {
		if err := move(c.ctx, part); err != nil {
			return err
		}
	}
	return nil
}
