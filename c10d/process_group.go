package c10d

import (
	"context"
	"errors"
	"slices"

	"pyhook/tensor"
)

// ReduceOp is how AllReduce combines elements: c10d's ReduceOp.
type ReduceOp string

// The operations that every backend has.
const (
	Sum     ReduceOp = "SUM"
	Product ReduceOp = "PRODUCT"
	Min     ReduceOp = "MIN"
	Max     ReduceOp = "MAX"
)

// ProcessGroup is a set of ranks that exchange tensors: c10d::ProcessGroup. pyhook.TorchGroup is
// torch.distributed's; a trainer may bring its own. Collectives must be called by all ranks in one
// order: any goroutine may call one, and those that several call at once have none. They do not wait:
// the future is done when the tensor (which must stay until then) holds the result, and its value is
// that tensor. On the CPU (see DeviceGroup); dtypes as the backend has them.
type ProcessGroup interface {
	Rank() int
	Size() int
	Backend() string
	// AllReduce combines t of all ranks into t on every rank.
	AllReduce(ctx context.Context, t *tensor.Tensor, op ReduceOp) (*Future[*tensor.Tensor], error)
	// Broadcast copies rank root's t into t on every rank.
	Broadcast(ctx context.Context, t *tensor.Tensor, root int) (*Future[*tensor.Tensor], error)
	// AllGather copies rank i's in into out[i] on every rank: Size tensors of in's shape and dtype.
	AllGather(ctx context.Context, out []*tensor.Tensor, in *tensor.Tensor) (*Future[*tensor.Tensor], error)
	// Barrier returns when all ranks have called it, or with the context's error; this rank's call
	// counts then all the same.
	Barrier(ctx context.Context) error
}

// AllGatherBytes returns every rank's bytes; all must have one length. A collective.
func AllGatherBytes(ctx context.Context, group ProcessGroup, mine []byte) ([][]byte, error) {
	in, out, err := GatherTensors(tensor.UInt8, group.Size(), int64(len(mine)))
	if err != nil {
		return nil, err
	}
	closeAll := func() {
		for _, t := range append(out, in) {
			t.Close()
		}
	}
	bytes, err := tensor.RawBytes(in)
	if err != nil {
		closeAll()
		return nil, err
	}
	copy(bytes, mine)
	future, err := group.AllGather(ctx, out, in)
	if err != nil {
		closeAll()
		return nil, err
	}
	defer future.Close()
	// If ctx ends first the collective goes on, and needs the memory.
	defer future.OnDone(func(*tensor.Tensor, error) { closeAll() })
	if _, err := future.Wait(ctx); err != nil {
		return nil, err
	}
	lists := make([][]byte, len(out))
	for i, t := range out {
		bytes, err := tensor.RawBytes(t)
		if err != nil {
			return nil, err
		}
		lists[i] = slices.Clone(bytes)
	}
	return lists, nil
}

// GatherTensors makes the memory of an AllGather: one rank's input and all ranks' outputs, flat and
// of n elements. The caller closes them.
func GatherTensors(dtype tensor.DType, ranks int, n int64) (in *tensor.Tensor, out []*tensor.Tensor, err error) {
	all := make([]*tensor.Tensor, ranks+1)
	for i := range all {
		if all[i], err = tensor.New(dtype, n); err != nil {
			for _, t := range all[:i] {
				t.Close()
			}
			return nil, nil, err
		}
	}
	return all[ranks], all[:ranks:ranks], nil
}

// IsClosed reports whether an error says that something was used after its Close.
func IsClosed(err error) bool { return errors.Is(err, ErrClosed) || errors.Is(err, tensor.ErrClosed) }
