package hooks

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"pyhook/c10d"
	"pyhook/tensor"
)

// AverageSparse averages a sparse gradient over the ranks, by the all-gathers
// that every c10d.ProcessGroup has: each rank's values are divided by the number of
// ranks, coalesced and added up rank by rank, bitwise as gloo's sparse
// all-reduce does (ProcessGroupGloo.cpp, AsyncSparseAllreduceWork). float32 and
// float64. g is not changed. Every rank must call it, also one whose gradient
// has no rows.
//
// Unlike a dense collective it waits for the other ranks, or the end of ctx:
// how many rows there are decides how much memory is gathered, which is the most
// rows that a rank has, for each rank. The future's value is sorted, has each index once, and is
// closed with the future.
func AverageSparse(ctx context.Context, group c10d.ProcessGroup, p *c10d.Parameter, g *c10d.SparseGradient) (*c10d.Future[*c10d.SparseGradient], error) {
	switch p.DType {
	case tensor.Float32:
		return averageSparse[float32](ctx, group, p, g)
	case tensor.Float64:
		return averageSparse[float64](ctx, group, p, g)
	}
	return nil, fmt.Errorf("%w: summing sparse gradients of %s: only float32 and float64 are summed (torch's gloo has no half precision here either): "+
		"give float32 gradients, or make the parameter dense", c10d.ErrSparseGradient, p.DType)
}

func averageSparse[T float32 | float64](ctx context.Context, group c10d.ProcessGroup, p *c10d.Parameter, g *c10d.SparseGradient) (*c10d.Future[*c10d.SparseGradient], error) {
	mine, err := divided[T](g, p, group.Size())
	if err != nil {
		return nil, err
	}
	c, err := exchangeCounts(ctx, group, g.Indices.Shape()[0], int64(len(mine.keys)))
	if err != nil {
		return nil, err
	}
	s := &sparseSum[T]{parameter: p, counts: c, width: mine.width, result: &c10d.Promise[*c10d.SparseGradient]{}}
	if c.most == 0 {
		s.finish(nil)
		return s.result.Future(), nil
	}
	if err := s.gather(ctx, group, mine); err != nil {
		return nil, err
	}
	return s.result.Future(), nil
}

// divided returns a coalesced copy of g divided by the number of ranks.
func divided[T float32 | float64](g *c10d.SparseGradient, p *c10d.Parameter, ranks int) (mine cooRows[T], err error) {
	keys, err := g.Keys(p.Shape)
	if err != nil {
		return mine, err
	}
	values, err := tensor.New(p.DType, g.Values.Shape()...)
	if err != nil {
		return mine, err
	}
	defer values.Close()
	if err := tensor.Copy(values, g.Values); err != nil {
		return mine, err
	}
	if err := tensor.Divide(values, float64(ranks)); err != nil {
		return mine, err
	}
	elements, err := tensor.Slice[T](values)
	if err != nil {
		return mine, err
	}
	width := 1
	for _, n := range p.Shape[g.Indices.Shape()[0]:] {
		width *= int(n)
	}
	return coalesce(keys, elements, width), nil
}

// counts is what the ranks have to sum.
type counts struct {
	rows []int64 // by rank
	most int64
	dims int64 // sparse ones
}

// exchangeCounts asks the other ranks.
func exchangeCounts(ctx context.Context, group c10d.ProcessGroup, dims, n int64) (c counts, err error) {
	first := 0
	mine := binary.LittleEndian.AppendUint64(nil, uint64(n))
	heads, err := c10d.AllGatherBytes(ctx, group, binary.LittleEndian.AppendUint64(mine, uint64(dims)))
	if err != nil {
		return c, err
	}
	// By all heads, so that every rank comes to the same end.
	for rank, head := range heads {
		rows, theirs := int64(binary.LittleEndian.Uint64(head)), int64(binary.LittleEndian.Uint64(head[8:]))
		switch {
		case rows == 0:
		case c.dims == 0:
			c.dims, first = theirs, rank
		case c.dims != theirs:
			return c, fmt.Errorf("%w: it has %d sparse dimensions on rank %d and %d on rank %d: they must be alike", c10d.ErrSparseGradient, c.dims, first, theirs, rank)
		}
		c.rows, c.most = append(c.rows, rows), max(c.most, rows)
	}
	if c.dims == 0 {
		c.dims = dims
	}
	return c, nil
}

// sparseSum is the sum of the ranks' rows, while they come in.
type sparseSum[T float32 | float64] struct {
	parameter *c10d.Parameter
	width     int
	counts    counts
	keys      []*tensor.Tensor
	values    []*tensor.Tensor
	memory    []*tensor.Tensor // all that is closed at the end
	left      atomic.Int32     // gathers under way
	failed    atomic.Pointer[error]
	result    *c10d.Promise[*c10d.SparseGradient]
}

// gather starts the two all-gathers, each rank's of the most rows that one has.
func (s *sparseSum[T]) gather(ctx context.Context, group c10d.ProcessGroup, mine cooRows[T]) error {
	most := s.counts.most
	inKeys, keys, err := c10d.GatherTensors(tensor.Int64, group.Size(), most)
	if err != nil {
		return err
	}
	s.keys, s.memory = keys, append(keys, inKeys)
	inValues, values, err := c10d.GatherTensors(s.parameter.DType, group.Size(), most*int64(s.width))
	if err != nil {
		closeAll(s.memory)
		return err
	}
	s.values, s.memory = values, append(s.memory, append(values, inValues)...)
	to, err := tensor.Slice[int64](inKeys)
	if err == nil {
		copy(to, mine.keys)
		var elements []T
		elements, err = tensor.Slice[T](inValues)
		copy(elements, mine.values)
	}
	if err != nil {
		closeAll(s.memory)
		return err
	}
	s.left.Store(2)
	first, err := group.AllGather(ctx, keys, inKeys)
	if err != nil {
		closeAll(s.memory)
		return err
	}
	s.closeWhenDone(first)
	second, err := group.AllGather(ctx, values, inValues)
	if err != nil {
		s.done(err) // the first one still needs the memory
		return err
	}
	s.closeWhenDone(second)
	return nil
}

func (s *sparseSum[T]) closeWhenDone(gather *c10d.Future[*tensor.Tensor]) {
	gather.OnDone(func(_ *tensor.Tensor, err error) {
		s.done(err)
		gather.Close()
	})
}

func (s *sparseSum[T]) done(err error) {
	if err != nil {
		s.failed.CompareAndSwap(nil, &err)
	}
	if s.left.Add(-1) > 0 {
		return
	}
	if failed := s.failed.Load(); failed != nil {
		err = *failed
	}
	s.finish(err)
	closeAll(s.memory)
}

// finish adds up what came and completes the result.
func (s *sparseSum[T]) finish(err error) {
	var sum *c10d.SparseGradient
	if err == nil {
		sum, err = s.sum()
	}
	s.result.Complete(sum, err)
}

func (s *sparseSum[T]) sum() (*c10d.SparseGradient, error) {
	total := cooRows[T]{width: s.width}
	for rank := range s.keys {
		keys, err := tensor.Slice[int64](s.keys[rank])
		if err != nil {
			return nil, err
		}
		values, err := tensor.Slice[T](s.values[rank])
		if err != nil {
			return nil, err
		}
		n := s.counts.rows[rank]
		total = total.plus(cooRows[T]{keys[:n], values[:n*int64(s.width)], s.width})
	}
	out, err := c10d.NewSparseGradient(s.parameter, int(s.counts.dims), int64(len(total.keys)))
	if err != nil {
		return nil, err
	}
	values, err := tensor.Slice[T](out.Values)
	if err == nil {
		copy(values, total.values)
		err = out.SetKeys(total.keys, s.parameter.Shape)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

func closeAll(list []*tensor.Tensor) {
	for _, t := range list {
		t.Close()
	}
}
