package ddp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"pyhook/pyhook"
	"pyhook/tensorconv"
)

// Order says how the hooks of several buckets may be under way at once.
type Order int

const (
	// Auto is Overlapped where that is safe: on nccl, whose callbacks run in one
	// order on every rank, and for hooks that issue collectives only when they
	// are called. Else it is Ordered for hooks that can be (Python's), and
	// Serial for the others. On gloo, stock DDP hangs or aborts with hooks such
	// as PowerSGD, which issue collectives in callbacks.
	Auto Order = iota
	// Serial waits for a bucket's future before the next hook call. The
	// backward pass goes on meanwhile.
	Serial
	// Overlapped never waits, and callbacks run when they will.
	Overlapped
	// Ordered overlaps buckets and runs their callbacks in an order fixed by
	// level and bucket, the same on every rank: see pyhook.ChainedHook.
	Ordered
)

// String names the order as flags and reports do.
func (o Order) String() string {
	switch o {
	case Auto:
		return "auto"
	case Serial:
		return "serial"
	case Overlapped:
		return "overlapped"
	case Ordered:
		return "ordered"
	}
	return fmt.Sprintf("Order(%d)", int(o))
}

// PyTorch's defaults (kDefaultBucketBytesCap, kDefaultFirstBucketBytes), MiB.
const (
	DefaultBucketCapMB   = 25.0
	DefaultFirstBucketMB = 1.0
)

// Options of a Reducer. Group is needed; the rest has defaults.
type Options struct {
	Group pyhook.ProcessGroup
	// Hook reduces the buckets; it averages (the reducer never divides). nil:
	// pyhook.AllReduceCommHook.
	Hook pyhook.CommHook
	// BucketCapMB is the size in MiB at which a bucket is full; 0: 25. +Inf makes
	// one bucket of each dtype, but for its first one.
	BucketCapMB float64
	// FirstBucketMB is that of the first bucket of each dtype, small so that
	// communication starts early; 0: 1, or BucketCapMB if that is smaller.
	FirstBucketMB float64
	Order         Order
	// SkipVerify leaves out the comparison of the ranks' parameter lists.
	SkipVerify bool
}

// Reducer reduces the gradients of a model over the ranks, bucket by bucket.
// Ready, ReadyFrom and Gradient may be called from any goroutine; one step at a
// time; Wait when all parameters of the step were marked.
type Reducer struct {
	opts   Options
	order  Order // what Options.Order came to
	params []*pyhook.Parameter
	places []place // by parameter

	mu      sync.Mutex
	wake    *sync.Cond // something below has changed, or a step
	buckets []*bucket
	step    *step
	waiting bool      // a Wait is inside
	closed  bool      // by Close
	broken  error     // out of memory: no further step
	retired []*bucket // busy ones, until Close: the trainer may have their addresses

	ended     chan struct{} // the launcher has returned
	closeOnce sync.Once
}

// NewReducer assigns params to buckets, allocates them and (unless told not to)
// checks that all ranks have the same parameters: a collective. The parameters
// and the hook stay the caller's, who closes them after the Reducer.
func NewReducer(ctx context.Context, params []*pyhook.Parameter, opts Options) (*Reducer, error) {
	if opts.Group == nil {
		return nil, errors.New("ddp: Options.Group is nil")
	}
	rank := opts.Group.Rank()
	// First of all: a rank that left before it would keep the others waiting.
	if !opts.SkipVerify {
		if err := VerifyParameters(ctx, opts.Group, params); err != nil {
			return nil, err
		}
	}
	if len(params) == 0 {
		return nil, fmt.Errorf("ddp, rank %d: no parameters", rank)
	}
	if i := slices.Index(params, nil); i >= 0 {
		return nil, fmt.Errorf("ddp, rank %d: parameter %d is nil", rank, i)
	}
	if opts.Hook == nil {
		opts.Hook = &pyhook.AllReduceCommHook{Group: opts.Group}
	}
	r := &Reducer{opts: opts, params: slices.Clone(params), places: make([]place, len(params)), ended: make(chan struct{})}
	r.wake = sync.NewCond(&r.mu)
	if r.order = opts.Order; r.order == Auto {
		r.order = chooseOrder(opts)
	}
	if _, ok := opts.Hook.(pyhook.ChainedHook); r.order == Ordered && !ok {
		return nil, fmt.Errorf("ddp, rank %d: Options.Order is Ordered and the hook is no pyhook.ChainedHook: use Auto or Serial", opts.Group.Rank())
	}
	if err := r.makeBuckets(); err != nil {
		for _, b := range r.buckets {
			b.close()
		}
		return nil, fmt.Errorf("ddp, rank %d: %w", rank, err)
	}
	r.step = newStep(r)
	go r.launch()
	return r, nil
}

// chooseOrder is Auto's rule. A hook may say that it issues collectives only
// when it is called. A backend of several ("cpu:gloo,cuda:nccl") reduces our
// CPU memory by another one than nccl.
func chooseOrder(opts Options) Order {
	if opts.Group.Backend() == "nccl" {
		return Overlapped
	}
	if h, ok := opts.Hook.(interface{ CollectivesOnlyInCall() bool }); ok && h.CollectivesOnlyInCall() {
		return Overlapped
	}
	if _, ok := opts.Hook.(pyhook.ChainedHook); ok {
		return Ordered
	}
	return Serial
}

// Gradient returns parameter i's gradient: a view of its bucket, of the
// parameter's shape. Write the local gradient there before Ready; after Wait it
// holds the reduced one. It belongs to the reducer. It stays at one address,
// with one exception: a Wait that gave up because its context ended may leave a
// reduction at work on the memory, and moves the gradients away from there. So
// ask again after a failed Wait, unless its context was never to end.
func (r *Reducer) Gradient(i int) *tensorconv.Tensor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.view(i)
}

func (r *Reducer) view(i int) *tensorconv.Tensor {
	return r.buckets[r.places[i].bucket].views[r.places[i].at]
}

// Buckets returns the parameters' indices by bucket, in the order of reduction.
func (r *Reducer) Buckets() [][]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([][]int, len(r.buckets))
	for i, b := range r.buckets {
		list[i] = slices.Clone(b.params)
	}
	return list
}

// Order returns what Options.Order came to: never Auto.
func (r *Reducer) Order() Order { return r.order }

// Close ends the step, if one is under way, and frees the buckets; a Wait that
// is inside returns ErrClosed. It waits for that and for a hook call that is
// inside, but not for the hooks' futures: memory that a reduction still works
// on is freed when its future is done. Gradients must not be used after.
// Idempotent. Not to be called by a hook.
func (r *Reducer) Close() { r.closeOnce.Do(r.close) }

func (r *Reducer) close() {
	r.mu.Lock()
	r.closed = true
	r.stop(r.step, ErrClosed)
	r.mu.Unlock()
	<-r.ended

	r.mu.Lock()
	for r.waiting {
		r.wake.Wait()
	}
	r.mu.Unlock()
	r.settle(r.step)
	for _, b := range slices.Concat(r.buckets, r.retired) {
		b.free()
	}
}
