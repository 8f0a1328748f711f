package pyhook

import (
	"context"
	"fmt"
	"sync"
	"time"

	"pyhook/c10d"
	"pyhook/c10d/transport"
	"pyhook/cbridge"
	"pyhook/tensorconv"
)

// InstallTransport makes g torch.distributed's default group, so that unmodified
// hooks use the trainer's transport: all collectives of dist, object
// collectives, dist.new_group, send and recv. It waits for all ranks. g stays
// the caller's, to use from Go and to close after the Runtime.
//
// Tensors on other devices go through copies on the CPU. store (may be nil) is
// what groups of other backends meet in: without one, dist.new_group works on
// the transport only.
//
// In Python errors are pyhook's GroupError, a RuntimeError, with the text; g.Err
// has the first of the errors themselves.
func (rt *Runtime) InstallTransport(ctx context.Context, g *transport.Group, store *Store) (*TorchGroup, error) {
	if err := g.Barrier(ctx); err != nil {
		return nil, err
	}
	fail := func(err error) (*TorchGroup, error) {
		return nil, groupError("installing the transport", g.Rank(), err)
	}
	link := &transportLink{groups: []*transport.Group{g}}
	open, err := cbridge.NewFunc("pyhook_transport_open", link.open)
	if err != nil {
		return fail(err)
	}
	defer open.Close()
	issue, err := cbridge.NewFunc("pyhook_transport_issue", link.issue)
	if err != nil {
		return fail(err)
	}
	defer issue.Close()
	var shared any
	if store != nil {
		shared = store.object
	}
	object, err := callModule("pyhook._transport.process_group", "install", open, issue, g.Rank(), g.Size(), g.Timeout().Seconds(), shared)
	if err != nil {
		return fail(err)
	}
	group, err := rt.newGroup(object)
	if err != nil {
		return nil, err
	}
	rt.rank.Store(int64(group.rank))
	rt.size.Store(int64(group.size))
	return group, nil
}

// transportLink is what Python's groups call. Its methods run attached: they
// must not block.
type transportLink struct {
	mu     sync.Mutex
	groups []*transport.Group // by number; the first is the default one
	linger lingering
}

// open makes the group of some ranks: open(name, ranks, timeout) -> number.
func (l *transportLink) open(args []*Object) (any, error) {
	name, err := cbridge.As[string](args[0])
	if err != nil {
		return nil, err
	}
	members, err := cbridge.As[[]any](args[1])
	if err != nil {
		return nil, err
	}
	timeout, err := cbridge.As[float64](args[2])
	if err != nil {
		return nil, err
	}
	if len(members) == 0 {
		return 0, nil
	}
	ranks := make([]int, len(members))
	for i, member := range members {
		rank, _ := member.(int64)
		ranks[i] = int(rank)
	}
	group, err := l.groups[0].Subgroup("torch/"+name, ranks, time.Duration(timeout*float64(time.Second)))
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.groups = append(l.groups, group)
	return len(l.groups) - 1, nil
}

// issue starts an operation: issue(number, work, name, op, peer, tag, outputs,
// *tensors).
func (l *transportLink) issue(args []*Object) (any, error) {
	const fixed = 7
	if len(args) < fixed {
		return nil, fmt.Errorf("%d arguments", len(args))
	}
	var numbers [4]int64 // group, peer, tag, outputs
	for i, at := range []int{0, 4, 5, 6} {
		n, err := cbridge.As[int64](args[at])
		if err != nil {
			return nil, err
		}
		numbers[i] = n
	}
	name, err := args[2].Str()
	if err != nil {
		return nil, err
	}
	reduce, err := args[3].Str()
	if err != nil {
		return nil, err
	}
	op := &transport.Operation{Name: name, Reduce: c10d.ReduceOp(reduce), Peer: int(numbers[1]), Message: uint64(numbers[2])}
	for i, arg := range args[fixed:] {
		t, err := tensorconv.FromPython(arg)
		if err != nil {
			op.Close()
			return nil, err
		}
		if i < int(numbers[3]) {
			op.Out = append(op.Out, t)
		} else {
			op.In = append(op.In, t)
		}
	}
	work, err := args[1].Clone()
	if err != nil {
		op.Close()
		return nil, err
	}
	l.mu.Lock()
	group := l.groups[numbers[0]]
	l.mu.Unlock()
	err = group.Start(op, func(err error) {
		op.Close()
		l.finish(work, err)
	})
	if err != nil {
		op.Close()
		work.Close()
	}
	return nil, err
}

// finish completes the work; Python's callbacks run in here.
func (l *transportLink) finish(work *Object, err error) {
	var text any
	if err != nil {
		text = err.Error()
	}
	none, err := work.Call("_finish", text)
	none.Close() // an error is Python's end: nobody waits any more
	if err == nil {
		l.linger.add(work)
	} else {
		work.Close()
	}
}

// lingering keeps the works that were done last for a moment: on torch < 2.14,
// where C++ holds a work it does not hold the Python half, which has its wait.
type lingering struct {
	mu    sync.Mutex
	works []*Object
}

const (
	lingerCount = 8
	lingerTime  = time.Second
)

func (l *lingering) add(work *Object) {
	l.mu.Lock()
	l.works = append(l.works, work)
	var old *Object
	if len(l.works) > lingerCount {
		old, l.works = l.works[0], l.works[1:]
	}
	l.mu.Unlock()
	old.Close() // not under the lock: it takes the GIL
	time.AfterFunc(lingerTime, work.Close)
}
