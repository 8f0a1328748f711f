package ddp

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"pyhook/pyhook"
	"pyhook/tensorconv"
)

// Order says whether one bucket's hook may start before the last one's future
// is done.
type Order int

const (
	// Auto is Serial where callbacks of torch's futures run in an order that
	// differs between ranks (any backend but nccl) and the hook may issue
	// collectives in one, as PowerSGD does; else Overlapped. On gloo, stock
	// DDP hangs or aborts with such hooks.
	Auto Order = iota
	// Serial waits for a bucket's future before the next hook call. The
	// backward pass goes on meanwhile.
	Serial
	// Overlapped never waits: for hooks that issue collectives only when they
	// are called.
	Overlapped
)

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
	// BucketCapMB is the size in MiB at which a bucket is full; 0: 25.
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
	opts    Options
	serial  bool
	params  []*pyhook.Parameter
	buckets []*bucket
	place   []slot // by parameter

	mu     sync.Mutex
	wake   *sync.Cond // the launcher waits: a bucket is ready, a step ends, Close
	step   *step
	closed bool
	ended  chan struct{} // the launcher has returned
}

// bucket is gradients that are reduced together.
type bucket struct {
	grad   *pyhook.GradBucket
	buffer *tensorconv.Tensor
	params []int
	names  []string
}

// slot is where a parameter's gradient lives.
type slot struct {
	bucket int
	view   *tensorconv.Tensor
}

// NewReducer assigns params to buckets, allocates them and (unless told not to)
// checks that all ranks have the same parameters: a collective. The parameters
// stay the caller's, who closes them after the Reducer.
func NewReducer(ctx context.Context, params []*pyhook.Parameter, opts Options) (*Reducer, error) {
	if opts.Group == nil {
		return nil, fmt.Errorf("ddp: Options.Group is nil")
	}
	if len(params) == 0 {
		return nil, fmt.Errorf("ddp, rank %d: no parameters", opts.Group.Rank())
	}
	if !opts.SkipVerify {
		if err := VerifyParameters(ctx, opts.Group, params); err != nil {
			return nil, err
		}
	}
	if opts.Hook == nil {
		opts.Hook = &pyhook.AllReduceCommHook{Group: opts.Group}
	}
	r := &Reducer{opts: opts, params: params, place: make([]slot, len(params)), ended: make(chan struct{})}
	r.wake = sync.NewCond(&r.mu)
	r.serial = opts.Order == Serial || opts.Order == Auto && needsSerial(opts)
	if err := r.makeBuckets(); err != nil {
		r.release()
		return nil, fmt.Errorf("ddp, rank %d: %w", opts.Group.Rank(), err)
	}
	r.step = newStep(r)
	go r.launch()
	return r, nil
}

// needsSerial is Auto's rule. A hook may say that it issues collectives only
// when it is called.
func needsSerial(opts Options) bool {
	if strings.Contains(opts.Group.Backend(), "nccl") {
		return false
	}
	h, ok := opts.Hook.(interface{ CollectivesOnlyInCall() bool })
	return !ok || !h.CollectivesOnlyInCall()
}

func (r *Reducer) makeBuckets() error {
	capBytes := mebibytes(r.opts.BucketCapMB, DefaultBucketCapMB)
	firstBytes := min(mebibytes(r.opts.FirstBucketMB, DefaultFirstBucketMB), capBytes)
	// Gradients become ready from the last parameter to the first.
	items := make([]Item, len(r.params))
	for i := range items {
		p := r.params[len(items)-1-i]
		n := int64(1)
		for _, size := range p.Shape {
			n *= size
		}
		items[i] = Item{Len: n, DType: p.DType}
	}
	assigned, _ := AssignBuckets(items, []int64{firstBytes, capBytes})
	for index, reversed := range assigned {
		indices := make([]int, len(reversed))
		for i, at := range reversed {
			indices[i] = len(items) - 1 - at
		}
		b, err := r.makeBucket(index, len(assigned), indices)
		if err != nil {
			return err
		}
		r.buckets = append(r.buckets, b)
	}
	return nil
}

func mebibytes(mb, fallback float64) int64 {
	if mb <= 0 {
		mb = fallback
	}
	return int64(mb * (1 << 20))
}

func (r *Reducer) makeBucket(index, count int, indices []int) (*bucket, error) {
	b := &bucket{params: indices}
	cfg := pyhook.BucketConfig{Index: index, Count: count}
	total := int64(0)
	for _, i := range indices {
		p := r.params[i]
		n := int64(1)
		for _, size := range p.Shape {
			n *= size
		}
		cfg.Offsets = append(cfg.Offsets, total)
		cfg.Lengths = append(cfg.Lengths, n)
		cfg.Sizes = append(cfg.Sizes, p.Shape)
		cfg.Parameters = append(cfg.Parameters, p)
		b.names = append(b.names, p.Name)
		total += n
	}
	var err error
	if b.buffer, err = tensorconv.New(r.params[indices[0]].DType, total); err != nil {
		return nil, err
	}
	cfg.Buffer = b.buffer
	if b.grad, err = pyhook.NewGradBucket(cfg); err != nil {
		b.buffer.Close()
		return nil, err
	}
	for k, i := range indices {
		view, err := b.buffer.View(cfg.Offsets[k], r.params[i].Shape, nil)
		if err != nil {
			return nil, err
		}
		r.place[i] = slot{bucket: index, view: view}
	}
	return b, nil
}

// Gradient returns parameter i's gradient: a view of its bucket, of the
// parameter's shape, at one address for the reducer's life. Write the local
// gradient there before Ready; after Wait it holds the reduced one. It belongs
// to the reducer.
func (r *Reducer) Gradient(i int) *tensorconv.Tensor { return r.place[i].view }

// Buckets returns the parameters' indices by bucket, in the order of reduction.
func (r *Reducer) Buckets() [][]int {
	list := make([][]int, len(r.buckets))
	for i, b := range r.buckets {
		list[i] = b.params
	}
	return list
}

// IsSerial reports what Order came to.
func (r *Reducer) IsSerial() bool { return r.serial }

// Ready says that Gradient(i) holds this step's local gradient. When that
// completes a bucket the hook is started, on another goroutine. The error is a
// *ParameterError or ErrClosed; a failure of the hook is Wait's.
func (r *Reducer) Ready(i int) error { return r.ready(i, nil) }

// ReadyFrom is Ready for a gradient in the trainer's own memory: it is copied
// into the bucket, and Wait copies the reduced one back. grad must stay until
// then; its dtype may differ.
func (r *Reducer) ReadyFrom(i int, grad *tensorconv.Tensor) error {
	if err := tensorconv.Copy(r.place[i].view, grad); err != nil {
		return fmt.Errorf("ddp, rank %d, gradient of %s: %w", r.opts.Group.Rank(), r.params[i].Name, err)
	}
	return r.ready(i, grad)
}

func (r *Reducer) ready(i int, grad *tensorconv.Tensor) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	s := r.step
	if s.ready[i] {
		return &ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[i].Name}, Kind: ErrReadyTwice,
			Hint: "call Wait once after each backward pass; a shared parameter is ready when its last use is"}
	}
	s.ready[i], s.copyBack[i] = true, grad
	b := r.place[i].bucket
	if s.pending[b]--; s.pending[b] == 0 {
		r.wake.Broadcast()
	}
	return nil
}

// Timing is how a bucket's reduction went.
type Timing struct {
	Bucket int
	Bytes  int64         // of the bucket's buffer
	Call   time.Duration // of the hook call itself
	Total  time.Duration // from the call to the future's completion
}

// Close waits for a hook call that is inside, ends the launcher and frees the
// buckets. Idempotent.
func (r *Reducer) Close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	r.step.cancel(ErrClosed)
	r.wake.Broadcast()
	r.mu.Unlock()
	<-r.ended
	r.release()
}

func (r *Reducer) release() {
	for _, b := range r.buckets {
		b.grad.Close()
		b.buffer.Close()
	}
	for _, s := range r.place {
		s.view.Close()
	}
}
