package memgroup

import (
	"context"
	"fmt"
	"sync"

	"pyhook/c10d"
	"pyhook/c10d/transport"
	"pyhook/tensor"
)

// renewal is a rank's c10d.Renewal. The first generation's group is the rank's own; each later one
// is a sub-group of it, of all ranks.
type renewal struct {
	base *transport.Group
	mail *mailbox

	mu         sync.Mutex
	generation int
	id         uint64 // Tag.Group of this generation's messages
	group      *transport.Group
	retired    bool
}

func newRenewal(base *transport.Group, mail *mailbox) *renewal {
	return &renewal{base: base, mail: mail, group: base}
}

// Renewal: see c10d.RenewableGroup.
func (g *Group) Renewal() c10d.Renewal { return g.renewal }

// Ranks: see c10d.Renewal.
func (r *renewal) Ranks() int { return r.base.Size() }

// Generation: see c10d.Renewal.
func (r *renewal) Generation() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation
}

// Retire: see c10d.Renewal.
func (r *renewal) Retire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.retired {
		r.retired = true
		r.mail.retire(r.base.Rank(), r.id)
	}
}

// Retired: see c10d.Renewal.
func (r *renewal) Retired() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.retired
}

// Renew: see c10d.Renewal. It needs not wait for the other ranks, and so heeds no context: all ranks
// are in the same generation after it. What this rank has under way ends at once, and is waited for: a
// collective that nobody holds the future of would write to a bucket of the next step.
func (r *renewal) Renew(context.Context) error {
	r.Retire()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.group.WaitIdle()
	ranks := make([]int, r.base.Size())
	for i := range ranks {
		ranks[i] = i
	}
	group, err := r.base.Subgroup(fmt.Sprintf("generation %d", r.generation+1), ranks, r.base.Timeout())
	if err != nil {
		return err
	}
	r.generation++
	r.group, r.id, r.retired = group, group.ID(), false
	return nil
}

// now returns this generation's group. The error is c10d.ErrOutOfStep.
func (r *renewal) now(op string) (*transport.Group, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.retired {
		return nil, &c10d.Error{Op: op, Rank: r.base.Rank(), Bucket: -1, Code: c10d.ErrOutOfStep}
	}
	return r.group, nil
}

// AllReduce: see c10d.ProcessGroup.
func (g *Group) AllReduce(ctx context.Context, t *tensor.Tensor, op c10d.ReduceOp) (*c10d.Future[*tensor.Tensor], error) {
	now, err := g.renewal.now("all_reduce")
	if err != nil {
		return nil, err
	}
	return now.AllReduce(ctx, t, op)
}

// Broadcast: see c10d.ProcessGroup.
func (g *Group) Broadcast(ctx context.Context, t *tensor.Tensor, root int) (*c10d.Future[*tensor.Tensor], error) {
	now, err := g.renewal.now("broadcast")
	if err != nil {
		return nil, err
	}
	return now.Broadcast(ctx, t, root)
}

// AllGather: see c10d.ProcessGroup.
func (g *Group) AllGather(ctx context.Context, out []*tensor.Tensor, in *tensor.Tensor) (*c10d.Future[*tensor.Tensor], error) {
	now, err := g.renewal.now("all_gather")
	if err != nil {
		return nil, err
	}
	return now.AllGather(ctx, out, in)
}

// Barrier: see c10d.ProcessGroup.
func (g *Group) Barrier(ctx context.Context) error {
	now, err := g.renewal.now("barrier")
	if err != nil {
		return err
	}
	return now.Barrier(ctx)
}

// Err returns the first error of this generation's collectives.
func (g *Group) Err() error {
	g.renewal.mu.Lock()
	defer g.renewal.mu.Unlock()
	return g.renewal.group.Err()
}
