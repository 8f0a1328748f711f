package pyhook

// #include "hookcall.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"pyhook/cbridge"
	"pyhook/internal/ctxerr"
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

// ProcessGroup is a set of ranks that exchange tensors. TorchGroup is
// torch.distributed's; a trainer may bring its own. Collectives must be called
// by all ranks in one order. They do not wait: the future is done when the
// tensor (which must stay until then) holds the result, and its value is that
// tensor. On the CPU; dtypes as the backend has them.
type ProcessGroup interface {
	Rank() int
	Size() int
	Backend() string
	// AllReduce combines t of all ranks into t on every rank.
	AllReduce(ctx context.Context, t *tensor.Tensor, op ReduceOp) (*Future, error)
	// Broadcast copies rank root's t into t on every rank.
	Broadcast(ctx context.Context, t *tensor.Tensor, root int) (*Future, error)
	// AllGather copies rank i's in into out[i] on every rank: Size tensors of
	// in's shape and dtype.
	AllGather(ctx context.Context, out []*tensor.Tensor, in *tensor.Tensor) (*Future, error)
	// Barrier returns when all ranks have called it, or with the context's
	// error; this rank's call counts then all the same.
	Barrier(ctx context.Context) error
}

// GroupConfig is how the ranks find each other. The zero value reads RANK,
// WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them.
type GroupConfig struct {
	Backend string // gloo, nccl, mpi, ucc; empty: nccl where CUDA is there, else gloo
	// InitMethod is "env://" (the default), "tcp://host:port" or "file://path". A "?" at its end
	// asks for torch's own protocol; at a file plain Python ranks are met only so.
	InitMethod string
	Store      *Store // an explicit store, and no InitMethod
	Rank, Size int    // Size 0: from RANK and WORLD_SIZE
	// Timeout of each collective; 0: PyTorch's 30 minutes.
	Timeout time.Duration
	// JoinTimeout is how long the ranks wait for each other to come; 0: Timeout, and 5
	// minutes where that is 0 too. After 10 s they say on stderr who is missing.
	JoinTimeout time.Duration
}

// TorchGroup is a torch.distributed process group.
type TorchGroup struct {
	rt      *Runtime
	object  *Object
	rank    int
	size    int
	backend string
	bridge  *Object // pyhook._collectives
}

// Rank returns this process's rank in the default group, or RANK before there
// is one, or -1.
func (rt *Runtime) Rank() int { return int(rt.rank.Load()) }

// newGroup takes object over.
func (rt *Runtime) newGroup(object *Object) (*TorchGroup, error) {
	described, err := rt.bridge.CallValue("describe_group", object)
	if err != nil {
		object.Close()
		return nil, groupError("describing", rt.Rank(), err)
	}
	bridge, err := cbridge.Import("pyhook._collectives")
	if err != nil {
		object.Close()
		return nil, err
	}
	table := described.(map[any]any)
	g := &TorchGroup{rt: rt, object: object, bridge: bridge}
	g.rank, g.size = int(table["rank"].(int64)), int(table["size"].(int64))
	g.backend, _ = table["backend"].(string)
	rt.backend.CompareAndSwap(nil, g.backend)
	return g, nil
}

// NewGroup makes a group of some ranks of the default group (dist.new_group).
// Every rank of the default group must call it; those outside get nil.
func (g *TorchGroup) NewGroup(ranks []int) (*TorchGroup, error) {
	object, err := g.bridge.Call("new_group", ranks)
	if err != nil {
		return nil, groupError("making a sub-group", g.rank, err)
	}
	if object.IsNone() {
		object.Close()
		return nil, nil
	}
	return g.rt.newGroup(object)
}

// Rank returns this process's rank in the group.
func (g *TorchGroup) Rank() int { return g.rank }

// Size returns the number of ranks.
func (g *TorchGroup) Size() int { return g.size }

// Backend returns torch's name of the backend: "gloo".
func (g *TorchGroup) Backend() string { return g.backend }

// Object returns the Python process group; it belongs to g.
func (g *TorchGroup) Object() *Object { return g.object }

// AllReduce: see ProcessGroup.
func (g *TorchGroup) AllReduce(ctx context.Context, t *tensor.Tensor, op ReduceOp) (*Future, error) {
	return g.collective(ctx, "all_reduce", t, t, string(op), g.object)
}

// Broadcast: see ProcessGroup.
func (g *TorchGroup) Broadcast(ctx context.Context, t *tensor.Tensor, root int) (*Future, error) {
	if root < 0 || root >= g.size {
		return nil, groupError("broadcast", g.rank, fmt.Errorf("root %d of a group of %d", root, g.size))
	}
	return g.collective(ctx, "broadcast", t, t, root, g.object)
}

// AllGather: see ProcessGroup.
func (g *TorchGroup) AllGather(ctx context.Context, out []*tensor.Tensor, in *tensor.Tensor) (*Future, error) {
	if len(out) != g.size {
		return nil, groupError("all_gather", g.rank, fmt.Errorf("%d outputs for %d ranks", len(out), g.size))
	}
	return g.collective(ctx, "all_gather", in, out, in, g.object)
}

// collective calls a function of _collectives.py, which returns the work's
// future; result is the tensor that the Go future completes with.
func (g *TorchGroup) collective(ctx context.Context, name string, result *tensor.Tensor, args ...any) (*Future, error) {
	if ctx.Err() != nil {
		return nil, groupError(name, g.rank, ctxerr.While(ctx, "not issued"))
	}
	if d := result.Device(); !d.IsCPU() { // on which stream?
		return nil, groupError(name, g.rank, fmt.Errorf("a tensor on %s: %w: Go's collectives are of the CPU's memory\nhint: copy it there, or give a Python hook (\"allreduce\") a bucket with BucketConfig.Stream", d, errors.ErrUnsupported))
	}
	future, err := g.bridge.Call(name, args...)
	if err != nil {
		return nil, groupError(name, g.rank, err)
	}
	watched, err := g.rt.watch(future, func(err error) error { return groupError(name, g.rank, err) })
	if err != nil {
		return nil, err
	}
	return watched.Then(func(v Value) (Value, error) {
		watched.Close()
		return TensorValue(result), nil
	}), nil
}

// watch makes a Go future of any torch future; it takes future over.
func (rt *Runtime) watch(future *Object, place func(error) error) (*Future, error) {
	var result C.pyh_result
	err := future.Pointer(func(p unsafe.Pointer) error {
		C.pyh_watch(rt.tools.c, (*C.PyObject)(p), &result)
		return nil
	})
	future.Close()
	if err != nil {
		return nil, place(err)
	}
	if result.outcome == C.PYH_PENDING {
		return rt.await(result.pending, nil, nil, place), nil
	}
	return CompletedFuture(valueOf(result, nil, nil, place)), nil
}

// Barrier: see ProcessGroup.
func (g *TorchGroup) Barrier(ctx context.Context) error {
	if ctx.Err() != nil {
		return groupError("barrier", g.rank, ctxerr.While(ctx, "not issued"))
	}
	done := make(chan error, 1)
	go func() {
		_, err := g.bridge.CallValue("barrier", g.object)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return groupError("barrier", g.rank, err)
		}
		return nil
	case <-ctx.Done():
		return groupError("barrier", g.rank, ctxerr.While(ctx, "waiting for the other ranks"))
	}
}

// DTypes all-reduces each dtype for real and returns the error of each that the
// backend refuses, "" for those that work. A collective: every rank calls it.
func (g *TorchGroup) DTypes() (map[string]string, error) {
	value, err := g.rt.bridge.CallValue("probe_allreduce_dtypes", g.object)
	if err != nil {
		return nil, groupError("probing dtypes", g.rank, err)
	}
	out := map[string]string{}
	table, _ := value.(map[any]any)
	for name, refusal := range table {
		text, _ := refusal.(string)
		out[fmt.Sprint(name)] = text
	}
	return out, nil
}

// Abort ends what the group's backend does, on this rank, where torch can: with nccl
// on torch 2.6 and later, whose collectives then fail and whose threads go. The group
// is of no use after it. The gloo of every torch so far (tried: 1.13, 2.14, 2.15) has
// no such thing, and ends its collectives by the group's timeout: the error then says
// so (ErrUnsupported), and nothing was done. For any goroutine.
//
// A context that ends does not call it: the collectives of other buckets are the
// group's too, and a future whose Wait was given up may be waited for again.
func (g *TorchGroup) Abort() error {
	done, err := g.bridge.CallValue("abort", g.object)
	if err != nil {
		return groupError("aborting", g.rank, err)
	}
	if done != true {
		return groupError("aborting", g.rank, fmt.Errorf("%w: %s of this torch ends its collectives by the timeout only", errors.ErrUnsupported, g.backend))
	}
	return nil
}

// Close drops the handle. The default group is destroyed by Runtime.Close.
// Idempotent.
func (g *TorchGroup) Close() {
	g.object.Close()
	g.bridge.Close()
}

// Store is a torch.distributed store, where ranks find each other.
type Store struct{ object *Object }

// NewTCPStore makes or joins a TCP store at host:port; the master serves it.
func (rt *Runtime) NewTCPStore(host string, port, worldSize int, master bool, timeout time.Duration) (*Store, error) {
	return rt.newStore("tcp_store", host, port, worldSize, master, timeout.Seconds())
}

// NewFileStore makes or joins a store in a file that all ranks reach.
func (rt *Runtime) NewFileStore(path string, worldSize int) (*Store, error) {
	return rt.newStore("file_store", path, worldSize)
}

func (rt *Runtime) newStore(kind string, args ...any) (*Store, error) {
	bridge, err := cbridge.Import("pyhook._collectives")
	if err != nil {
		return nil, err
	}
	defer bridge.Close()
	object, err := bridge.Call(kind, args...)
	if err != nil {
		return nil, groupError("making a store", rt.Rank(), err)
	}
	return &Store{object}, nil
}

// Close drops the handle on the store. Idempotent.
func (s *Store) Close() { s.object.Close() }

var _ ProcessGroup = (*TorchGroup)(nil)
