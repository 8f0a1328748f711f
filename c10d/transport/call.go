package transport

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"pyhook/c10d"
	"pyhook/c10d/transport/internal/reduce"
	"pyhook/tensor"
)

type tensors = []*tensor.Tensor

// call is one collective that runs. Its tensors are contiguous CPU memory.
type call struct {
	g     *Group
	ctx   context.Context
	tag   Tag
	temps tensors
}

// signature is how many bytes of what it asks for a rank shows to the others.
const signature = 96

// smallReduce is up to how many bytes an all-reduce is one gather and not two
// exchanges of parts.
const smallReduce = 16 << 10

func (c *call) next() Tag {
	c.tag.Message++
	return c.tag
}

// agree compares what the ranks ask for; it is a barrier too.
func (c *call) agree(format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	mine := make([]byte, signature)
	copy(mine, what)
	all := rows(c.g.size, signature)
	if err := c.g.move.gather(c.ctx, c.next(), all, mine); err != nil {
		return err
	}
	for rank, theirs := range all {
		if !bytes.Equal(theirs, mine) {
			return &MismatchError{Rank: rank, Theirs: string(bytes.TrimRight(theirs, "\x00")), Mine: what}
		}
	}
	return nil
}

// temp makes n tensors like t, released with the call.
func (c *call) temp(t *tensor.Tensor, n int, length int64) (tensors, error) {
	out := make(tensors, n)
	for i := range out {
		var err error
		if out[i], err = tensor.New(t.DType(), length); err != nil {
			return nil, err
		}
		c.temps = append(c.temps, out[i])
	}
	return out, nil
}

func (c *call) close() {
	for _, t := range c.temps {
		t.Close()
	}
}

// raw returns the tensors' bytes, not nil for those without elements.
func raw(list tensors) ([][]byte, error) {
	out := make([][]byte, len(list))
	for i, t := range list {
		if t == nil {
			continue
		}
		data, err := tensor.RawBytes(t)
		if err != nil {
			return nil, err
		}
		if out[i] = data; data == nil {
			out[i] = []byte{}
		}
	}
	return out, nil
}

func (c *call) exchange(send, recv tensors) error {
	in, err := raw(send)
	if err != nil {
		return err
	}
	out, err := raw(recv)
	if err != nil {
		return err
	}
	return c.g.move.exchange(c.ctx, c.next(), in, out)
}

// plain is the operation without Avg, which is c10d.Sum and then averaged.
func (c *call) plain(op c10d.ReduceOp, d tensor.DType) (string, error) {
	plain := op
	if op == Avg {
		plain = c10d.Sum
	}
	if !reduce.Supported(string(plain), d) || op == Avg && !averages(d) {
		return "", fmt.Errorf("no %s of %s", op, d)
	}
	return string(plain), nil
}

func averages(d tensor.DType) bool {
	switch d {
	case tensor.Float64, tensor.Float32, tensor.Float16, tensor.BFloat16:
		return true
	}
	return d.IsComplex()
}

func (c *call) average(op c10d.ReduceOp, t *tensor.Tensor) error {
	if op != Avg {
		return nil
	}
	return tensor.Divide(t, float64(c.g.size))
}

func (c *call) allReduce(t *tensor.Tensor, op c10d.ReduceOp) error {
	plain, err := c.plain(op, t.DType())
	if err != nil {
		return err
	}
	if own, ok := c.g.transport.(AllReducer); ok && t.Len() > 0 {
		err := own.AllReduce(c.ctx, t, c10d.ReduceOp(plain))
		if !errors.Is(err, errors.ErrUnsupported) {
			return cmp.Or(err, c.average(op, t))
		}
	}
	if err := c.agree("all_reduce %s %s x%d", op, t.DType(), t.Len()); err != nil {
		return err
	}
	if t.Bytes() <= smallReduce {
		return c.reduceSmall(t, plain, op)
	}
	parts := make(tensors, c.g.size)
	for i := range parts {
		from, to := t.Len()*int64(i)/int64(c.g.size), t.Len()*int64(i+1)/int64(c.g.size)
		if parts[i], err = t.View(from, []int64{to - from}, nil); err != nil {
			return err
		}
		c.temps = append(c.temps, parts[i])
	}
	own := parts[c.g.rank]
	if err := c.scatterSum(own, parts, plain); err != nil {
		return err
	}
	if err := c.average(op, own); err != nil {
		return err
	}
	same := make(tensors, c.g.size)
	for i := range same {
		same[i] = own
	}
	return c.exchange(same, parts)
}

func (c *call) reduceSmall(t *tensor.Tensor, plain string, op c10d.ReduceOp) error {
	parts, err := c.temp(t, c.g.size, t.Len())
	if err != nil {
		return err
	}
	same := make(tensors, c.g.size)
	for i := range same {
		same[i] = t
	}
	if err := c.exchange(same, parts); err != nil {
		return err
	}
	return cmp.Or(reduce.Into(plain, flat(t, c), parts), c.average(op, t))
}

// flat is t in one dimension: reduce wants one length.
func flat(t *tensor.Tensor, c *call) *tensor.Tensor {
	view, err := t.View(0, []int64{t.Len()}, nil)
	if err != nil {
		return t
	}
	c.temps = append(c.temps, view)
	return view
}

// scatterSum combines in[own rank] of all ranks, in their order, into out.
func (c *call) scatterSum(out *tensor.Tensor, in tensors, plain string) error {
	parts, err := c.temp(out, c.g.size, out.Len())
	if err != nil {
		return err
	}
	if err := c.exchange(in, parts); err != nil {
		return err
	}
	return reduce.Into(plain, flat(out, c), parts)
}

func (c *call) reduceScatter(out *tensor.Tensor, in tensors, op c10d.ReduceOp) error {
	plain, err := c.plain(op, out.DType())
	if err != nil {
		return err
	}
	if err := c.agree("reduce_scatter %s %s", op, out.DType()); err != nil {
		return err
	}
	return cmp.Or(c.scatterSum(out, in, plain), c.average(op, out))
}

// reduce is an all-reduce that changes the root's tensor only.
func (c *call) reduce(t *tensor.Tensor, op c10d.ReduceOp, root int) error {
	plain, err := c.plain(op, t.DType())
	if err != nil {
		return err
	}
	if err := c.agree("reduce %s %s x%d to rank %d", op, t.DType(), t.Len(), root); err != nil {
		return err
	}
	send, recv := make(tensors, c.g.size), make(tensors, c.g.size)
	send[root] = t
	if c.g.rank == root {
		if recv, err = c.temp(t, c.g.size, t.Len()); err != nil {
			return err
		}
	}
	if err := c.exchange(send, recv); err != nil || c.g.rank != root {
		return err
	}
	return cmp.Or(reduce.Into(plain, flat(t, c), recv), c.average(op, t))
}
