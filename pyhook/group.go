package pyhook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/ctxerr"
	"pyhook/tensor"
)

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
	slot    *slot // of the Python process group
	rank    int
	size    int
	backend string
	bridge  *Object // pyhook._runtime.collectives
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
	bridge, err := cbridge.Import("pyhook._runtime.collectives")
	if err != nil {
		object.Close()
		return nil, err
	}
	table := described.(map[any]any)
	g := &TorchGroup{rt: rt, slot: rt.renewal.slots.add(object), bridge: bridge}
	g.rank, g.size = int(table["rank"].(int64)), int(table["size"].(int64))
	g.backend, _ = table["backend"].(string)
	rt.backend.CompareAndSwap(nil, g.backend)
	return g, nil
}

// NewGroup makes a group of some ranks of the default group (dist.new_group).
// Every rank of the default group must call it; those outside get nil. If ctx ends before the
// other ranks have called it, the error is the context's, and torch goes on waiting for them:
// this rank's call counts all the same.
func (g *TorchGroup) NewGroup(ctx context.Context, ranks []int) (*TorchGroup, error) {
	if err := checkRanks(ranks); err != nil {
		return nil, groupError("making a sub-group", g.rank, err)
	}
	object, err := g.rt.callPeers(ctx, func() (o *Object, err error) {
		g.rt.renewal.connections.during(func() { o, err = g.bridge.Call("new_group", ranks) })
		return o, err
	})
	if err != nil {
		return nil, groupError("making a sub-group", g.rank, err)
	}
	if object.IsNone() {
		object.Close()
		return nil, nil
	}
	return g.rt.newGroup(object)
}

// checkRanks refuses what torch takes otherwise: with a rank twice it waits for one that never comes.
func checkRanks(ranks []int) error {
	if len(ranks) == 0 {
		return errors.New("no ranks: name those of the default group that are to be in it")
	}
	sorted := slices.Sorted(slices.Values(ranks))
	for i, rank := range sorted {
		if i > 0 && rank == sorted[i-1] {
			return fmt.Errorf("rank %d is twice in %v", rank, ranks)
		}
	}
	return nil
}

// callPeers calls f, which waits for other ranks in torch's C++ code, where no exception reaches
// it. If ctx ends first, callPeers returns its error; f goes on, what it returns is closed, and
// Close waits for it as for a join that was given up.
func (rt *Runtime) callPeers(ctx context.Context, f func() (*Object, error)) (*Object, error) {
	if ctx.Err() != nil {
		return nil, ctxerr.While(ctx, notCalled)
	}
	done := make(chan joined, 1)
	go func() {
		object, err := f()
		done <- joined{object, err}
	}()
	select {
	case r := <-done:
		return r.group, r.err
	case <-ctx.Done():
	}
	rt.abandonJoin(done)
	return nil, ctxerr.While(ctx, "waiting for the other ranks")
}

// Rank returns this process's rank in the group.
func (g *TorchGroup) Rank() int { return g.rank }

// Size returns the number of ranks.
func (g *TorchGroup) Size() int { return g.size }

// Backend returns torch's name of the backend: "gloo".
func (g *TorchGroup) Backend() string { return g.backend }

// Object returns the Python process group; it belongs to g, and is another one after each Retire and
// Renew.
func (g *TorchGroup) Object() *Object { return g.slot.get() }

// AllReduce: see c10d.ProcessGroup.
func (g *TorchGroup) AllReduce(ctx context.Context, t *tensor.Tensor, op c10d.ReduceOp) (*c10d.Future[*tensor.Tensor], error) {
	return g.collective(ctx, "all_reduce", t, t, string(op))
}

// Broadcast: see c10d.ProcessGroup.
func (g *TorchGroup) Broadcast(ctx context.Context, t *tensor.Tensor, root int) (*c10d.Future[*tensor.Tensor], error) {
	if err := g.checkRoot(root); err != nil {
		return nil, err
	}
	return g.collective(ctx, "broadcast", t, t, root)
}

func (g *TorchGroup) checkRoot(root int) error {
	if root < 0 || root >= g.size {
		return groupError("broadcast", g.rank, fmt.Errorf("root %d of a group of %d", root, g.size))
	}
	return nil
}

func (g *TorchGroup) checkOutputs(n int) error {
	if n != g.size {
		return groupError("all_gather", g.rank, fmt.Errorf("%d outputs for %d ranks", n, g.size))
	}
	return nil
}

// AllGather: see c10d.ProcessGroup.
func (g *TorchGroup) AllGather(ctx context.Context, out []*tensor.Tensor, in *tensor.Tensor) (*c10d.Future[*tensor.Tensor], error) {
	if err := g.checkOutputs(len(out)); err != nil {
		return nil, err
	}
	return g.collective(ctx, "all_gather", in, out, in)
}

// collective calls a function of _runtime/collectives.py, which returns the work's
// future; result is the tensor that the Go future completes with.
func (g *TorchGroup) collective(ctx context.Context, name string, result *tensor.Tensor, args ...any) (*c10d.Future[*tensor.Tensor], error) {
	if result == nil {
		return nil, groupError(name, g.rank, errors.New("the tensor is nil"))
	}
	if d := result.Device(); !d.IsCPU() { // on which stream?
		return nil, groupError(name, g.rank, fmt.Errorf("a tensor on %s: %w: this group's collectives are of the CPU's memory\nhint: use the group of a DeviceMemory (c10d.GroupOf in a hook), which has a stream", d, errors.ErrUnsupported))
	}
	return g.collectiveBy(ctx, nil, name, result, args...)
}

// collectiveBy issues a collective from the communication stream of m; nil: there is none.
func (g *TorchGroup) collectiveBy(ctx context.Context, m *deviceMemory, name string, result *tensor.Tensor, args ...any) (*c10d.Future[*tensor.Tensor], error) {
	if ctx.Err() != nil {
		return nil, groupError(name, g.rank, ctxerr.While(ctx, "not issued"))
	}
	if err := g.rt.renewal.check(); err != nil {
		return nil, groupError(name, g.rank, err)
	}
	call := func() (*Object, error) { return g.bridge.Call(name, append(args, g.Object())...) }
	if m != nil {
		call = func() (*Object, error) {
			return m.object.Call("collective", append(append([]any{name}, args...), g.Object())...)
		}
	}
	future, err := call()
	if err != nil {
		return nil, groupError(name, g.rank, err)
	}
	wrapErr := func(err error) error { return groupError(name, g.rank, err) }
	done, err := g.rt.newFuture(future, func(err error) error { return err })
	if err != nil {
		return nil, wrapErr(err)
	}
	return c10d.Map(done, wrapErr, func(c10d.Result) (*tensor.Tensor, error) { return result, nil }), nil
}

// newFuture makes a Go future of any torch future; it takes future over.
func (rt *Runtime) newFuture(future *Object, wrapErr func(error) error) (*c10d.Future[c10d.Result], error) {
	var result cbridge.Result
	err := rt.torchAPI.api.Ask(future, &result)
	future.Close()
	if err != nil {
		return nil, wrapErr(err)
	}
	if result.Outcome == cbridge.Waiting {
		return rt.newPendingFuture(result.Pending(), nil, nil, wrapErr), nil
	}
	return c10d.CompletedFuture(resultOf(&result, nil, nil, wrapErr)), nil
}

// Barrier: see c10d.ProcessGroup.
func (g *TorchGroup) Barrier(ctx context.Context) error {
	if ctx.Err() != nil {
		return groupError("barrier", g.rank, ctxerr.While(ctx, "not issued"))
	}
	if err := g.rt.renewal.check(); err != nil {
		return groupError("barrier", g.rank, err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := g.bridge.CallValue("barrier", g.Object())
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
// backend refuses, "" for those that work. A collective: every rank calls it. If ctx ends
// first, the error is the context's, and the collectives go on.
func (g *TorchGroup) DTypes(ctx context.Context) (map[string]string, error) {
	probed, err := g.rt.callPeers(ctx, func() (*Object, error) { return g.rt.bridge.Call("probe_allreduce_dtypes", g.Object()) })
	if err != nil {
		return nil, groupError("probing dtypes", g.rank, err)
	}
	defer probed.Close()
	value, err := cbridge.As[any](probed)
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
	done, err := g.bridge.CallValue("abort", g.Object())
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
	g.slot.close()
	g.bridge.Close()
}

var _ c10d.ProcessGroup = (*TorchGroup)(nil)
