package transport

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"pyhook/c10d"
	"pyhook/internal/ctxerr"
	"pyhook/tensor"
)

// defaultTimeout is PyTorch's for collectives.
const defaultTimeout = 30 * time.Minute

// Config says how a Group works.
type Config struct {
	// Name is the Backend that the group shows; empty: "transport".
	Name string
	// Timeout of each collective; 0: PyTorch's 30 minutes.
	Timeout time.Duration
}

// Group is a process group over a Transport: for Go hooks by itself,
// for Python's by Runtime.InstallTransport. Both may use it at once.
//
// Collectives of a group run one at a time in the order in which they are
// called. Sends and receives run beside them, in order for each pair of ranks
// and tag. A reduction adds up in the order of the ranks, so all ranks get the
// same bits each time; half-precision floats are added in float32 and rounded
// once.
type Group struct {
	transport  Transport
	rank, size int
	cfg        Config
	id         uint64 // Tag.Group
	move       mover
	ctx        context.Context
	cancel     context.CancelCauseFunc

	mu    sync.Mutex
	calls uint64 // of collectives
	made  int    // groups, by NewGroup
	lines map[line]*queue
	idle  sync.Cond // there are no lines
	err   error
}

// line names a queue: the collectives', or one of messages.
type line struct {
	name string // "", "send", "recv"
	peer int
	tag  uint64
}

type queue struct{ jobs []func() }

// New makes the group of all ranks. transport belongs to the
// caller: Close of the group does not end it.
func New(transport Transport, cfg Config) (*Group, error) {
	return newGroup(context.Background(), transport, cfg, 0)
}

func newGroup(ctx context.Context, transport Transport, cfg Config, id uint64) (*Group, error) {
	if cfg.Name == "" {
		cfg.Name = "transport"
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	g := &Group{transport: transport, rank: transport.Rank(), size: transport.Size(), cfg: cfg, id: id,
		lines: map[line]*queue{}}
	if g.rank < 0 || g.rank >= g.size {
		return nil, fmt.Errorf("%w: the transport says rank %d of %d", c10d.ErrGroup, g.rank, g.size)
	}
	var err error
	if g.move, err = moverOf(transport, g.rank); err != nil {
		return nil, err
	}
	g.idle.L = &g.mu
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g, nil
}

// Rank returns this process's rank in the group.
func (g *Group) Rank() int { return g.rank }

// Size returns the number of ranks.
func (g *Group) Size() int { return g.size }

// Backend returns the config's Name.
func (g *Group) Backend() string { return g.cfg.Name }

// ID is the Tag.Group of the group's messages.
func (g *Group) ID() uint64 { return g.id }

// Timeout returns the limit of each collective.
func (g *Group) Timeout() time.Duration { return g.cfg.Timeout }

// Err returns the first error of a collective or message: the transport's own,
// where Python only has its text.
func (g *Group) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Close ends what runs with c10d.ErrClosed, and that of the groups made of this one.
// Idempotent.
func (g *Group) Close() { g.cancel(c10d.ErrClosed) }

// Start queues op; done gets its error on a goroutine of its own, which may
// block: the next operation does not wait for it.
func (g *Group) Start(op *Operation, done func(error)) error {
	if g.ctx.Err() != nil {
		return opError(op.Name, g.rank, context.Cause(g.ctx))
	}
	if err := op.validate(g.rank, g.size); err != nil {
		return opError(op.Name, g.rank, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	where, tag := line{}, Tag{Group: g.id}
	if op.Name == "send" || op.Name == "recv" {
		where = line{op.Name, op.Peer, op.Message}
		tag.Message = 1<<63 | op.Message
	} else {
		g.calls++
		tag.Message = g.calls << 20 // a coalesced one has many steps
	}
	job := func() {
		err := g.run(op, tag)
		go done(err)
	}
	if q := g.lines[where]; q != nil {
		q.jobs = append(q.jobs, job)
		return nil
	}
	g.lines[where] = &queue{jobs: []func(){job}}
	go g.drain(where)
	return nil
}

// WaitIdle returns when no collective or message of the group is under way: none writes to its tensors
// any more.
func (g *Group) WaitIdle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.lines) > 0 {
		g.idle.Wait()
	}
}

func (g *Group) drain(where line) {
	for {
		g.mu.Lock()
		q := g.lines[where]
		if len(q.jobs) == 0 {
			if delete(g.lines, where); len(g.lines) == 0 {
				g.idle.Broadcast()
			}
			g.mu.Unlock()
			return
		}
		job := q.jobs[0]
		q.jobs = q.jobs[1:]
		g.mu.Unlock()
		job()
	}
}

func (g *Group) run(op *Operation, tag Tag) (err error) {
	ctx, cancel := context.WithTimeoutCause(g.ctx, g.cfg.Timeout, fmt.Errorf("not done after %s: %w", g.cfg.Timeout, context.DeadlineExceeded))
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // the transport's: it must not end the process
			err = fmt.Errorf("panic: %v", p)
		}
		if err != nil {
			err = opError(op.Name, g.rank, err)
			g.mu.Lock()
			g.err = cmp.Or(g.err, err)
			g.mu.Unlock()
		}
	}()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return op.run(&call{g: g, ctx: ctx, tag: tag})
}

// future starts op and returns the future of result.
func (g *Group) future(ctx context.Context, op *Operation, result *tensor.Tensor) (*c10d.Future[*tensor.Tensor], error) {
	if ctx.Err() != nil {
		return nil, opError(op.Name, g.rank, ctxerr.While(ctx, "not issued"))
	}
	future, complete := c10d.NewFuture[*tensor.Tensor]()
	err := g.Start(op, func(err error) {
		if err != nil {
			complete(nil, err)
			return
		}
		complete(result, nil)
	})
	if err != nil {
		return nil, err
	}
	return future, nil
}

// AllReduce: see c10d.ProcessGroup.
func (g *Group) AllReduce(ctx context.Context, t *tensor.Tensor, op c10d.ReduceOp) (*c10d.Future[*tensor.Tensor], error) {
	return g.future(ctx, &Operation{Name: "all_reduce", Reduce: op, Out: tensors{t}}, t)
}

// Broadcast: see c10d.ProcessGroup.
func (g *Group) Broadcast(ctx context.Context, t *tensor.Tensor, root int) (*c10d.Future[*tensor.Tensor], error) {
	return g.future(ctx, &Operation{Name: "broadcast", Peer: root, Out: tensors{t}}, t)
}

// AllGather: see c10d.ProcessGroup.
func (g *Group) AllGather(ctx context.Context, out []*tensor.Tensor, in *tensor.Tensor) (*c10d.Future[*tensor.Tensor], error) {
	return g.future(ctx, &Operation{Name: "all_gather", Out: slices.Clone(out), In: tensors{in}}, in)
}

// Barrier: see c10d.ProcessGroup.
func (g *Group) Barrier(ctx context.Context) error {
	future, err := g.future(ctx, &Operation{Name: "barrier"}, nil)
	if err != nil {
		return err
	}
	if _, err = future.Wait(ctx); err != nil && ctx.Err() != nil {
		return opError("barrier", g.rank, err)
	}
	return err
}

// NewGroup makes a group of some ranks, in this order. Every rank of g must
// call it, in one order with other NewGroups; those outside get nil.
func (g *Group) NewGroup(ranks []int) (*Group, error) {
	g.mu.Lock()
	g.made++
	name := fmt.Sprintf("go/%d", g.made)
	g.mu.Unlock()
	if !slices.Contains(ranks, g.rank) {
		return nil, nil
	}
	return g.Subgroup(name, ranks, g.cfg.Timeout)
}

// Subgroup is NewGroup for the members alone; name is unique in g.
func (g *Group) Subgroup(name string, ranks []int, timeout time.Duration) (*Group, error) {
	fail := func(err error) (*Group, error) { return nil, opError("making a sub-group", g.rank, err) }
	own := slices.Index(ranks, g.rank)
	for i, rank := range ranks {
		if rank < 0 || rank >= g.size || slices.Contains(ranks[:i], rank) {
			return fail(fmt.Errorf("ranks %v of %d", ranks, g.size))
		}
	}
	hash := fnv.New64a()
	_, _ = fmt.Fprintf(hash, "%d %s %v", g.id, name, ranks)
	cfg := Config{Name: g.cfg.Name, Timeout: timeout}
	p, ok := g.transport.(PointToPoint)
	if !ok {
		return fail(fmt.Errorf("the transport %T has no Send and Recv, which sub-groups need", g.transport))
	}
	return newGroup(g.ctx, &subTransport{p, ranks, own}, cfg, hash.Sum64())
}

// subTransport is a PointToPoint among some ranks of another; tags separate their messages.
type subTransport struct {
	p     PointToPoint
	ranks []int
	own   int
}

func (s *subTransport) Rank() int { return s.own }
func (s *subTransport) Size() int { return len(s.ranks) }

func (s *subTransport) Send(ctx context.Context, to int, tag Tag, data []byte) error {
	return s.p.Send(ctx, s.ranks[to], tag, data)
}

func (s *subTransport) Recv(ctx context.Context, from int, tag Tag, data []byte) error {
	return s.p.Recv(ctx, s.ranks[from], tag, data)
}

var _ c10d.ProcessGroup = (*Group)(nil)
