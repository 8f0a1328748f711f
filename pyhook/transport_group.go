package pyhook

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"sync"
	"time"

	"pyhook/internal/ctxerr"
	"pyhook/tensor"
)

// defaultTimeout is PyTorch's for collectives.
const defaultTimeout = 30 * time.Minute

// TransportConfig says how a TransportGroup works.
type TransportConfig struct {
	// Name is the Backend that the group shows; empty: "transport".
	Name string
	// Timeout of each collective; 0: PyTorch's 30 minutes.
	Timeout time.Duration
}

// TransportGroup is a process group over a Transport: for Go hooks by itself,
// for Python's by Runtime.InstallTransport. Both may use it at once.
//
// Collectives of a group run one at a time in the order in which they are
// called. Sends and receives run beside them, in order for each pair of ranks
// and tag. A reduction adds up in the order of the ranks, so all ranks get the
// same bits each time; half-precision floats are added in float32 and rounded
// once.
type TransportGroup struct {
	transport  Transport
	rank, size int
	cfg        TransportConfig
	id         uint64 // Tag.Group
	move       mover
	join       func() error // makes transport and move at the first use; may be nil
	ctx        context.Context
	cancel     context.CancelCauseFunc

	mu    sync.Mutex
	calls uint64 // of collectives
	made  int    // groups, by NewGroup
	lines map[line]*queue
	err   error
}

// line names a queue: the collectives', or one of messages.
type line struct {
	name string // "", "send", "recv"
	peer int
	tag  uint64
}

type queue struct{ jobs []func() }

// NewTransportGroup makes the group of all ranks. transport belongs to the
// caller: Close of the group does not end it.
func NewTransportGroup(transport Transport, cfg TransportConfig) (*TransportGroup, error) {
	return newTransportGroup(context.Background(), transport, cfg, 0)
}

func newTransportGroup(ctx context.Context, transport Transport, cfg TransportConfig, id uint64) (*TransportGroup, error) {
	if cfg.Name == "" {
		cfg.Name = "transport"
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	g := &TransportGroup{transport: transport, rank: transport.Rank(), size: transport.Size(), cfg: cfg, id: id,
		lines: map[line]*queue{}}
	if g.rank < 0 || g.rank >= g.size {
		return nil, fmt.Errorf("%w: the transport says rank %d of %d", ErrGroup, g.rank, g.size)
	}
	var err error
	if g.move, err = moverOf(transport, g.rank); err != nil {
		return nil, err
	}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g, nil
}

// Rank returns this process's rank in the group.
func (g *TransportGroup) Rank() int { return g.rank }

// Size returns the number of ranks.
func (g *TransportGroup) Size() int { return g.size }

// Backend returns the config's Name.
func (g *TransportGroup) Backend() string { return g.cfg.Name }

// Err returns the first error of a collective or message: the transport's own,
// where Python only has its text.
func (g *TransportGroup) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Close ends what runs with ErrClosed, and that of the groups made of this one.
// Idempotent.
func (g *TransportGroup) Close() { g.cancel(ErrClosed) }

// start queues op; done gets its error on a goroutine of its own, which may
// block: the next operation does not wait for it.
func (g *TransportGroup) start(op *operation, done func(error)) error {
	if g.ctx.Err() != nil {
		return groupError(op.name, g.rank, context.Cause(g.ctx))
	}
	if err := op.validate(g.rank, g.size); err != nil {
		return groupError(op.name, g.rank, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	where, tag := line{}, Tag{Group: g.id}
	if op.name == "send" || op.name == "recv" {
		where = line{op.name, op.peer, op.message}
		tag.Message = 1<<63 | op.message
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

func (g *TransportGroup) drain(where line) {
	for {
		g.mu.Lock()
		q := g.lines[where]
		if len(q.jobs) == 0 {
			delete(g.lines, where)
			g.mu.Unlock()
			return
		}
		job := q.jobs[0]
		q.jobs = q.jobs[1:]
		g.mu.Unlock()
		job()
	}
}

func (g *TransportGroup) run(op *operation, tag Tag) (err error) {
	ctx, cancel := context.WithTimeoutCause(g.ctx, g.cfg.Timeout, fmt.Errorf("not done after %s: %w", g.cfg.Timeout, context.DeadlineExceeded))
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // the transport's: it must not end the process
			err = fmt.Errorf("panic: %v", p)
		}
		if err != nil {
			err = groupError(op.name, g.rank, err)
			g.mu.Lock()
			g.err = firstError(g.err, err)
			g.mu.Unlock()
		}
	}()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if g.join != nil {
		if err := g.join(); err != nil {
			return err
		}
	}
	return op.run(&call{g: g, ctx: ctx, tag: tag})
}

// future starts op and returns the future of result.
func (g *TransportGroup) future(ctx context.Context, op *operation, result *tensor.Tensor) (*Future, error) {
	if ctx.Err() != nil {
		return nil, groupError(op.name, g.rank, ctxerr.While(ctx, "not issued"))
	}
	future, complete := NewFuture()
	err := g.start(op, func(err error) {
		if err != nil {
			complete(Value{}, err)
			return
		}
		complete(TensorValue(result), nil)
	})
	if err != nil {
		return nil, err
	}
	return future, nil
}

// AllReduce: see ProcessGroup.
func (g *TransportGroup) AllReduce(ctx context.Context, t *tensor.Tensor, op ReduceOp) (*Future, error) {
	return g.future(ctx, &operation{name: "all_reduce", reduce: op, out: tensors{t}}, t)
}

// Broadcast: see ProcessGroup.
func (g *TransportGroup) Broadcast(ctx context.Context, t *tensor.Tensor, root int) (*Future, error) {
	return g.future(ctx, &operation{name: "broadcast", peer: root, out: tensors{t}}, t)
}

// AllGather: see ProcessGroup.
func (g *TransportGroup) AllGather(ctx context.Context, out []*tensor.Tensor, in *tensor.Tensor) (*Future, error) {
	return g.future(ctx, &operation{name: "all_gather", out: slices.Clone(out), in: tensors{in}}, in)
}

// Barrier: see ProcessGroup.
func (g *TransportGroup) Barrier(ctx context.Context) error {
	future, err := g.future(ctx, &operation{name: "barrier"}, nil)
	if err != nil {
		return err
	}
	if _, err = future.Wait(ctx); err != nil && ctx.Err() != nil {
		return groupError("barrier", g.rank, err)
	}
	return err
}

// NewGroup makes a group of some ranks, in this order. Every rank of g must
// call it, in one order with other NewGroups; those outside get nil.
func (g *TransportGroup) NewGroup(ranks []int) (*TransportGroup, error) {
	g.mu.Lock()
	g.made++
	name := fmt.Sprintf("go/%d", g.made)
	g.mu.Unlock()
	if !slices.Contains(ranks, g.rank) {
		return nil, nil
	}
	return g.sub(name, ranks, g.cfg.Timeout)
}

// sub is for the members; name is unique in g.
func (g *TransportGroup) sub(name string, ranks []int, timeout time.Duration) (*TransportGroup, error) {
	fail := func(err error) (*TransportGroup, error) { return nil, groupError("making a sub-group", g.rank, err) }
	own := slices.Index(ranks, g.rank)
	for i, rank := range ranks {
		if rank < 0 || rank >= g.size || slices.Contains(ranks[:i], rank) {
			return fail(fmt.Errorf("ranks %v of %d", ranks, g.size))
		}
	}
	hash := fnv.New64a()
	_, _ = fmt.Fprintf(hash, "%d %s %v", g.id, name, ranks)
	cfg := TransportConfig{Name: g.cfg.Name, Timeout: timeout}
	if s, ok := g.transport.(Subgrouper); ok {
		return g.subLater(s, ranks, name, own, cfg), nil
	}
	p, ok := g.transport.(PointToPoint)
	if !ok {
		return fail(fmt.Errorf("the transport %T has neither Sub nor Send and Recv", g.transport))
	}
	return newTransportGroup(g.ctx, &subTransport{p, ranks, own}, cfg, hash.Sum64())
}

// subLater asks for the transport when the group is first used: Python's threads
// wait for a new group's making, and Sub may wait for other ranks.
func (g *TransportGroup) subLater(s Subgrouper, ranks []int, name string, own int, cfg TransportConfig) *TransportGroup {
	sub := &TransportGroup{rank: own, size: len(ranks), cfg: cfg, lines: map[line]*queue{}}
	sub.ctx, sub.cancel = context.WithCancelCause(g.ctx)
	sub.join = sync.OnceValue(func() error {
		ctx, cancel := context.WithTimeout(sub.ctx, cfg.Timeout)
		defer cancel()
		transport, err := s.Sub(ctx, ranks, name)
		if err != nil {
			return fmt.Errorf("making a sub-group: %w", err)
		}
		context.AfterFunc(sub.ctx, func() { closeTransport(transport) })
		sub.transport = transport
		sub.move, err = moverOf(transport, own)
		return err
	})
	return sub
}

func closeTransport(t Transport) {
	if c, ok := t.(io.Closer); ok {
		_ = c.Close()
	}
}

// subTransport is some ranks of a transport. Tags keep its messages apart.
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

var _ ProcessGroup = (*TransportGroup)(nil)
