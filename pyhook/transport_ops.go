package pyhook

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pyhook/tensor"
)

// operation is a collective, a send or a recv, as Python or Go asks for it.
// Coalesced ones have k times the tensors.
type operation struct {
	name    string
	reduce  ReduceOp
	peer    int    // the root, the source or the destination
	message uint64 // send's and recv's tag
	out, in tensors
}

// close is for an operation of Python's, which owns its tensors.
func (op *operation) close() {
	for _, t := range slices.Concat(op.out, op.in) {
		t.Close()
	}
}

// validate says what can be said before the other ranks are asked.
func (op *operation) validate(rank, size int) error {
	for _, t := range slices.Concat(op.out, op.in) {
		if !t.Device().IsCPU() {
			return fmt.Errorf("a tensor on %s: a transport moves CPU memory", t.Device())
		}
	}
	ins, outs := len(op.in), len(op.out)
	wrong := false
	switch op.name {
	case "all_reduce", "reduce", "broadcast":
		return op.validatePeer(rank, size) // coalesced ones may mix dtypes
	case "all_gather":
		wrong = outs != size*ins
	case "reduce_scatter":
		wrong = ins != size*outs
	case "all_to_all":
		wrong = outs != size || ins != size
	case "gather":
		wrong = ins != 1 || rank == op.peer && outs != size
	case "scatter":
		wrong = outs != 1 || rank == op.peer && ins != size
	}
	if wrong {
		return fmt.Errorf("%d inputs and %d outputs for %d ranks", ins, outs, size)
	}
	if k := max(1, min(ins, outs)); k == 1 {
		all := slices.Concat(op.in, op.out)
		for _, t := range all {
			if t.DType() != all[0].DType() {
				return fmt.Errorf("%s and %s in one call", all[0].DType(), t.DType())
			}
		}
	}
	return op.validatePeer(rank, size)
}

func (op *operation) validatePeer(rank, size int) error {
	if op.peer < 0 || op.peer >= size {
		return fmt.Errorf("rank %d of a group of %d", op.peer, size)
	}
	if op.peer == rank && (op.name == "send" || op.name == "recv") {
		return fmt.Errorf("%s with rank %d itself", op.name, rank)
	}
	return nil
}

// run does op on contiguous copies of what is not.
func (op *operation) run(c *call) error {
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
	if plain.in, err = staged(op.in, true, false); err != nil {
		return err
	}
	// What is received into a copy with gaps in it keeps the old values there.
	if plain.out, err = staged(op.out, true, true); err != nil {
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

func (op *operation) dispatch(c *call) error {
	switch op.name {
	case "all_reduce":
		return each(op.out, func(t *tensor.Tensor) error { return c.allReduce(t, op.reduce) })
	case "reduce":
		return each(op.out, func(t *tensor.Tensor) error { return c.reduce(t, op.reduce, op.peer) })
	case "broadcast":
		return each(op.out, func(t *tensor.Tensor) error { return c.broadcast(t, op.peer) })
	case "all_gather":
		for i, in := range op.in {
			if err := c.allGather(op.out[i*c.g.size:(i+1)*c.g.size], in); err != nil {
				return err
			}
		}
		return nil
	case "reduce_scatter":
		for i, out := range op.out {
			if err := c.reduceScatter(out, op.in[i*c.g.size:(i+1)*c.g.size], op.reduce); err != nil {
				return err
			}
		}
		return nil
	case "all_to_all":
		return c.allToAll(op.out, op.in)
	case "gather":
		return c.gather(op.out, op.in[0], op.peer)
	case "scatter":
		return c.scatter(op.out[0], op.in, op.peer)
	case "barrier":
		return c.barrier()
	case "send", "recv":
		return c.message(op)
	}
	return fmt.Errorf("%s: %w", op.name, errors.ErrUnsupported)
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
	if own, ok := c.g.transport.(AllToAller); ok {
		to, err := raw(out)
		if err != nil {
			return err
		}
		from, err := raw(in)
		if err != nil {
			return err
		}
		return own.AllToAll(c.ctx, to, from)
	}
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

func (c *call) message(op *operation) error {
	p, ok := c.g.transport.(PointToPoint)
	if !ok {
		return fmt.Errorf("the transport has no Send and Recv: %w", errors.ErrUnsupported)
	}
	move, list := func(ctx context.Context, data []byte) error { return p.Recv(ctx, op.peer, c.tag, data) }, op.out
	if op.name == "send" {
		move, list = func(ctx context.Context, data []byte) error { return p.Send(ctx, op.peer, c.tag, data) }, op.in
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
