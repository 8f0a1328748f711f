package ddp

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"pyhook/c10d"
	"pyhook/ddp/internal/commit"
	"pyhook/tensor"
)

// Reducer reduces the gradients of a model over the ranks, bucket by bucket.
// Ready, ReadyFrom and Gradient may be called from any goroutine; one step at a
// time; Wait when all parameters of the step were marked.
type Reducer struct {
	memories memories
	values   memories // of the parameters' values; none without DigestEvery
	opts     Options
	order    Order // what Options.Order came to
	trace    *trace
	sum      bool // no hook: gradients are divided before they are summed
	params   []*c10d.Parameter
	locators []locator // by parameter
	// findUnused is UnusedFind, and no StaticGraph (dynamic_graph_find_unused).
	findUnused bool

	mu      sync.Mutex
	wake    *sync.Cond // something below has changed, or a step
	buckets []*bucket
	step    *step
	waiting bool      // a Wait is inside
	closed  bool      // by Close
	noSync  bool      // inside NoSync
	carried []carry   // by parameter, from NoSync
	used    []int32   // by parameter, of the last step: how many ranks used it; nil: not asked
	counts  []int     // by parameter: marks of StaticGraph's first step; nil: before that
	last    int       // see Join
	broken  error     // no further step: out of memory, or the ranks may have other buckets
	retired []*bucket // busy ones, until Close: the trainer may have their addresses
	fixed   bool      // the buckets are not made anew (any more)
	moved   []*bucket // those of before they were, until the next step ends

	sparse  bool                   // some parameter is
	reduced []*c10d.SparseGradient // by parameter: the last results of the sparse ones
	log     log

	thread c10d.BoundThread // the launcher's

	agreement  *agreement // nil: the ranks do not vote
	committed  uint64     // steps that counted
	lastJoined bool       // the last step was Join's
	lastFailed error      // why the last step did; nil: it counts
	waits      uint64     // that have ended a step
	out        error      // *OutOfStepError: a step of this Reducer's failed, and its Recover has not succeeded since
	kept       bool       // the hook has kept its state of after the last step that counts
	unsaved    error      // why it has not

	ended     chan struct{} // the launcher has returned
	closeOnce sync.Once
}

// NewReducer assigns params to buckets, allocates them and (unless told not to)
// checks that all ranks have the same parameters: a collective. They are of floating-point or complex
// numbers of 16 bits or more, each once in the list; else the error is a *ParameterError that is
// ErrParameter. The parameters and the hook stay the caller's, who closes them after the Reducer.
func NewReducer(ctx context.Context, params []*c10d.Parameter, opts Options) (_ *Reducer, err error) {
	if err := checkGroup(opts.Group); err != nil {
		return nil, err
	}
	rank := opts.Group.Rank()
	gradients, failed := memoriesFor(ctx, opts.Group, params, opts.Stream, opts.GroupMemory)
	if wrong := opts.check(); wrong != nil {
		failed, opts.Hook = wrong, nil // the other ranks hear of it
	}
	var values memories
	if opts.DigestEvery > 0 && failed == nil {
		values, failed = memoriesOfValues(ctx, opts.Group, params, opts.Stream)
	}
	defer func() {
		if err != nil {
			gradients.close()
			values.close()
		}
	}()
	// First of all: a rank that left before it would keep the others waiting.
	if !opts.SkipVerify {
		if err := verify(ctx, opts.Group, params, opts.votes()); err != nil {
			return nil, err
		}
	}
	var r *Reducer
	made := make(chan struct{})
	a, err := joinAgreement(ctx, params, opts, func(step uint64, f *commit.Failure) {
		if <-made; r != nil {
			r.notify(step, f)
		}
	})
	if err != nil {
		return nil, err
	}
	if err = failed; err != nil {
		err = fmt.Errorf("ddp, rank %d: %w", rank, err)
	} else {
		r, err = newReducer(params, gradients, values, opts)
	}
	if err == nil {
		r.agreement = a
	}
	close(made)
	if err = a.together(ctx, rank, "NewReducer", err); err != nil {
		a.close()
		if r != nil {
			r.releaseStep(r.step)
			r.freeBuckets()
		}
		return nil, err
	}
	r.snapshotHook(ctx)
	r.thread = bindThread(opts.Hook)
	go r.launchOnThread()
	open.Store(r, nil)
	return r, nil
}

// newReducer makes this rank's Reducer, without its first step.
func newReducer(params []*c10d.Parameter, memories, values memories, opts Options) (*Reducer, error) {
	rank := opts.Group.Rank()
	if len(params) == 0 {
		return nil, fmt.Errorf("ddp, rank %d: no parameters", rank)
	}
	if err := checkParameters(rank, params); err != nil {
		return nil, err
	}
	if err := checkGiven(params, opts.Buckets); err != nil {
		return nil, fmt.Errorf("ddp, rank %d: %w", rank, err)
	}
	if err := checkDigests(params, values, opts); err != nil {
		return nil, fmt.Errorf("ddp, rank %d: %w", rank, err)
	}
	sum := opts.Hook == nil
	if sum {
		opts.Hook = sumHook{opts.Group}
	}
	if opts.Join && opts.StaticGraph {
		return nil, fmt.Errorf("ddp, rank %d: Options.Join with StaticGraph: a rank that has joined cannot count", rank)
	}
	find := opts.Unused == UnusedFind && !opts.StaticGraph
	r := &Reducer{opts: opts, memories: memories, values: values, sum: sum, findUnused: find, fixed: opts.Layout == LayoutFixed || find, last: -1, carried: make([]carry, len(params)), reduced: make([]*c10d.SparseGradient, len(params)), params: slices.Clone(params), ended: make(chan struct{})}
	r.wake = sync.NewCond(&r.mu)
	if err := r.setOrder(); err != nil {
		return nil, err
	}
	if err := r.checkSparse(); err != nil {
		return nil, err
	}
	if err := r.checkComplex(); err != nil {
		return nil, err
	}
	if err := r.checkDevices(); err != nil {
		return nil, err
	}
	var err error
	if r.trace, err = newTrace(opts); err != nil {
		return nil, err
	}
	if r.buckets, r.locators, err = r.makeBuckets(r.firstLayout()); err != nil {
		return nil, fmt.Errorf("ddp, rank %d: %w", rank, err)
	}
	r.log.sizes = r.bucketSizes()
	r.step = newStep(r)
	return r, nil
}

// Gradient returns parameter i's gradient: a view of its bucket, of the
// parameter's shape; i is an index of NewReducer's params. Write the local
// gradient there before Ready; after Wait it holds the reduced one, and still
// does when the next step begins: a trainer that adds to it sets it to zero
// first. It belongs to the reducer. It stays at one address, with two
// exceptions. A Wait that gave up because its context ended may leave a
// reduction at work on the memory, and moves the gradients away from there. So
// ask again after a failed Wait, unless its context was never to end. And with
// LayoutRebuilt the first Wait that succeeds (StaticGraph: the second) moves
// them, with the reduced values: ask again after it. The memory of before stays
// readable until the next Wait is done, and is gone then. nil for a sparse
// parameter: see ReadySparse.
func (r *Reducer) Gradient(i int) *tensor.Tensor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.viewLocked(i)
}

func (r *Reducer) viewLocked(i int) *tensor.Tensor {
	return r.buckets[r.locators[i].bucket].views[r.locators[i].at]
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

// Order returns what Options.Order came to: never OrderAuto.
func (r *Reducer) Order() Order { return r.order }

// Close ends the step, if one is under way, and frees the buckets; a Wait that
// is inside returns ErrClosed. It waits for that and for a hook call that is
// inside, but not for the hooks' futures: memory that a reduction still works
// on is freed when its future is done. Gradients must not be used after.
// Idempotent. Not to be called by a hook.
func (r *Reducer) Close() { r.closeOnce.Do(r.close) }

// CloseAll closes all Reducers of this process, for a main that ends: also those that it does not have,
// as adapters made them. A rank that still trains, with more steps than this one, hears it at once.
func CloseAll() {
	open.Range(func(r, _ any) bool {
		r.(*Reducer).Close()
		return true
	})
}

// open are the Reducers that are not closed.
var open sync.Map

func (r *Reducer) close() {
	open.Delete(r)
	r.mu.Lock()
	r.closed = true
	r.stopLocked(r.step, ErrClosed)
	r.mu.Unlock()
	<-r.ended
	r.agreement.close() // a Wait may be in the vote

	r.mu.Lock()
	r.dropCarriedLocked()
	for r.waiting {
		r.wake.Wait()
	}
	if !r.step.over && len(r.step.results) > 0 { // no Wait has left it
		r.leaveStepLocked(r.step, ErrClosed)
	}
	r.mu.Unlock()
	r.releaseStep(r.step)
	if r.step.begun { // and no Wait has ended it
		_ = r.memories.end() // fails where Python has ended
	}
	r.releaseGradients(r.step)
	r.leaveTurn()
	r.freeBuckets()
}

func (r *Reducer) freeBuckets() {
	r.trace.close()
	closeGradients(r.reduced)
	for _, b := range slices.Concat(r.buckets, r.retired, r.moved) {
		b.free()
	}
	r.memories.close()
	r.values.close()
}
