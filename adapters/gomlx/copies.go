package gomlxddp

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/tensor"
)

// copies are variables' values in pyhook's memory, where hooks and collectives find them: GoMLX's
// own memory is another after each step.
type copies struct {
	vars []variable
	list []*c10d.Parameter
}

// form is how the values look to torch.
type form int

const (
	asTorch form = iota
	asBytes
)

// newCopies makes the memory, without the values.
func newCopies(vars []variable, as form) (*copies, error) {
	c := &copies{vars: vars}
	for _, v := range vars {
		dtype, err := v.dtype()
		dims := v.dims()
		if err == nil && as == asBytes {
			n := int64(dtype.Size())
			for _, size := range dims {
				n *= size
			}
			dtype, dims = tensor.UInt8, []int64{n}
		}
		p := &c10d.Parameter{Name: v.name(), Shape: dims, DType: dtype}
		if err == nil {
			p.Data, err = tensor.New(dtype, dims...)
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("gomlxddp: %s: %w", v.name(), err)
		}
		c.list = append(c.list, p)
	}
	return c, nil
}

// read copies the variables' values.
func (c *copies) read() error {
	for i, v := range c.vars {
		to, err := tensor.RawBytes(c.list[i].Data)
		if err == nil {
			err = v.read(to)
		}
		if err != nil {
			return fmt.Errorf("gomlxddp: the value of %s: %w", v.name(), err)
		}
	}
	return nil
}

// write gives the variables the values, where they differ.
func (c *copies) write() error {
	var now []byte
	for i, v := range c.vars {
		from, err := tensor.RawBytes(c.list[i].Data)
		if err == nil {
			now = slices.Grow(now[:0], len(from))[:len(from)]
			err = v.read(now)
		}
		if err == nil && !bytes.Equal(now, from) {
			err = v.write(from)
		}
		if err != nil {
			return fmt.Errorf("gomlxddp: the value of %s: %w", v.name(), err)
		}
	}
	return nil
}

// Close frees the memory. c may be nil.
func (c *copies) Close() {
	if c == nil {
		return
	}
	for _, p := range c.list {
		p.Close()
		p.Data.Close()
	}
}

// sortByName gives variables an order that does not depend on when each was made: what a checkpoint
// loads comes in the order of a map.
func sortByName(vars []variable) {
	slices.SortFunc(vars, func(a, b variable) int { return cmp.Compare(a.name(), b.name()) })
}

// together does, on all ranks or on none, something with copies of variables' values, sorted by name.
func together(ctx context.Context, group c10d.ProcessGroup, vars []variable, as form, do func(*copies) error) error {
	vars = slices.Clone(vars)
	sortByName(vars)
	c, err := newCopies(vars, as)
	if err == nil {
		defer c.Close()
		err = c.read()
	}
	if err := ddp.ShareError(ctx, group, err); err != nil {
		return err
	}
	return do(c)
}

// broadcast gives every rank the values of rank root: a collective.
func broadcast(ctx context.Context, group c10d.ProcessGroup, root int, vars []variable, as form) error {
	return together(ctx, group, vars, as, func(c *copies) error {
		if err := ddp.VerifyParameters(ctx, group, c.list); err != nil {
			return err
		}
		if err := ddp.BroadcastParametersFrom(ctx, group, root, c.list); err != nil {
			return err
		}
		return c.write()
	})
}
