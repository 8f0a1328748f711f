package transport

import (
	"context"
	"errors"
	"fmt"

	"pyhook/c10d"
	"pyhook/c10d/transport/internal/reduce"
	"pyhook/tensor"
)

// Operations that a Group has besides those of every backend.
const (
	Avg  c10d.ReduceOp = "AVG" // of floats and complex numbers: the sum, divided by Size
	BAnd c10d.ReduceOp = reduce.BAnd
	BOr  c10d.ReduceOp = reduce.BOr
	BXor c10d.ReduceOp = reduce.BXor
)

// Transport moves memory between a trainer's ranks in place of torch.distributed. It must
// also implement PointToPoint or AllGatherer: a Group derives all collectives from either.
// A transport that has a faster way implements the other interfaces below too.
//
//	derived from   collectives   send, recv   sub-groups
//	PointToPoint   all           yes          yes
//	AllGatherer    all           no           no
//
// The derived collectives are right and simple, not fast: a transport with a real
// all-reduce should implement AllReducer. They first compare the ranks' requests, so that
// ranks out of step get a *MismatchError and not each other's numbers.
//
// Every method blocks until it is done or ctx ends; after that it no longer
// touches the memory that it was given. A Group calls those of its
// collectives one at a time, in one order on all ranks; Send and Recv from many
// goroutines. Memory is the CPU's, contiguous, and never empty but for messages
// of Send and Recv.
type Transport interface {
	Rank() int
	Size() int
}

// Tag identifies a message between two ranks.
type Tag struct{ Group, Message uint64 }

// PointToPoint sends and receives. A message is for the Recv with the same tag
// and pair of ranks; there is one Send for each Recv, and no order between tags:
// one that is not yet asked for must not hold up others. Send may wait for its
// Recv. A message of another length than data is an error. Messages of length 0
// count as any.
type PointToPoint interface {
	Send(ctx context.Context, to int, tag Tag, data []byte) error
	Recv(ctx context.Context, from int, tag Tag, data []byte) error
}

// AllGatherer copies rank i's in into out[i] on every rank; all have in's length.
type AllGatherer interface {
	AllGather(ctx context.Context, out [][]byte, in []byte) error
}

// AllReducer combines t in place. If it returns errors.ErrUnsupported, on every rank alike,
// the derived all-reduce does it. Avg is asked for as c10d.Sum.
type AllReducer interface {
	AllReduce(ctx context.Context, t *tensor.Tensor, op c10d.ReduceOp) error
}

// Broadcaster copies rank root's data to the others'.
type Broadcaster interface {
	Broadcast(ctx context.Context, data []byte, root int) error
}

// Barrierer returns when all ranks have called it.
type Barrierer interface {
	Barrier(ctx context.Context) error
}

// MismatchError: the ranks call different collectives. It is an c10d.ErrGroup, and
// all ranks of the group get one.
type MismatchError struct {
	Rank         int    // another rank, which calls
	Theirs, Mine string // as "all_reduce SUM float32 x1024"
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("the ranks are out of step: rank %d calls %s where this one calls %s", e.Rank, e.Theirs, e.Mine)
}

// Unwrap returns c10d.ErrGroup.
func (e *MismatchError) Unwrap() error { return c10d.ErrGroup }

// Of makes a Transport of a c10d.ProcessGroup that a trainer wrote for Go
// hooks, so that Python's hooks can use it too: its AllReduce, Broadcast,
// AllGather and Barrier, and from them all but send, recv and sub-groups.
func Of(group c10d.ProcessGroup) Transport { return groupTransport{group} }

type groupTransport struct{ group c10d.ProcessGroup }

func (t groupTransport) Rank() int { return t.group.Rank() }
func (t groupTransport) Size() int { return t.group.Size() }

func (t groupTransport) AllReduce(ctx context.Context, tensor *tensor.Tensor, op c10d.ReduceOp) error {
	switch op {
	case c10d.Sum, c10d.Product, c10d.Min, c10d.Max:
		return waitResult(ctx)(t.group.AllReduce(ctx, tensor, op))
	}
	return errors.ErrUnsupported
}

func (t groupTransport) Broadcast(ctx context.Context, data []byte, root int) error {
	tensor, err := tensor.FromSlice(data)
	if err != nil {
		return err
	}
	defer tensor.Close()
	return waitResult(ctx)(t.group.Broadcast(ctx, tensor, root))
}

func (t groupTransport) AllGather(ctx context.Context, out [][]byte, in []byte) error {
	tensors := make([]*tensor.Tensor, len(out)+1)
	for i, data := range append(out[:len(out):len(out)], in) {
		var err error
		if tensors[i], err = tensor.FromSlice(data); err != nil {
			return err
		}
		defer tensors[i].Close()
	}
	return waitResult(ctx)(t.group.AllGather(ctx, tensors[:len(out)], tensors[len(out)]))
}

func (t groupTransport) Barrier(ctx context.Context) error { return t.group.Barrier(ctx) }

// waitResult waits for a collective's future.
func waitResult(ctx context.Context) func(*c10d.Future[*tensor.Tensor], error) error {
	return func(future *c10d.Future[*tensor.Tensor], err error) error {
		if err != nil {
			return err
		}
		defer future.Close()
		_, err = future.Wait(ctx)
		return err
	}
}
