package ddp

import (
	"math"
	"sync/atomic"

	"pyhook/c10d"
	"pyhook/tensor"
)

// bucket is gradients that are reduced together.
type bucket struct {
	memory memory
	grad   *c10d.GradBucket
	buffer *tensor.Tensor // of the gradients
	// work is what the hook is given: buffer, or with Options.Rollback other memory.
	work   *tensor.Tensor
	dirty  bool                       // a hook was called, and the step has not succeeded
	late   atomic.Pointer[lateWrites] // of the last hook call; nil: there was none, or nobody looks
	params []int                      // their indices
	names  []string
	views  []*tensor.Tensor // of each parameter's gradient in buffer
	// sparse: of one sparse parameter. It has no grad and no buffer, and its view is
	// nil: those are the step's.
	sparse bool
	// busy is the future of a reduction that still works on buffer although its
	// step is over; nil: none does.
	busy *c10d.Future[c10d.Result]
}

// locator is where a parameter's gradient is: r.buckets[bucket].views[at].
type locator struct{ bucket, at int }

// makeBuckets allocates buckets for parameters, given by their indices.
func (r *Reducer) makeBuckets(layout [][]int) (buckets []*bucket, locators []locator, err error) {
	locators = make([]locator, len(r.params))
	for index, indices := range layout {
		for at, i := range indices {
			locators[i] = locator{index, at}
		}
		b, err := r.makeBucket(index, len(layout), indices)
		if err != nil {
			for _, b := range buckets {
				b.close()
			}
			return nil, nil, err
		}
		buckets = append(buckets, b)
	}
	return buckets, locators, nil
}

func elements(p *c10d.Parameter) int64 {
	n := int64(1)
	for _, size := range p.Shape {
		n *= size
	}
	return n
}

// limits are those of AssignBuckets, in bytes.
func (o Options) limits() []int64 {
	limit, first := o.BucketCapMB, o.FirstBucketMB
	if !(limit > 0) {
		limit = DefaultBucketCapMB
	}
	if !(first > 0) {
		first = min(DefaultFirstBucketMB, limit)
	}
	return []int64{mebibytes(first), mebibytes(limit)}
}

func mebibytes(mb float64) int64 {
	if bytes := mb * (1 << 20); bytes < math.MaxInt64 {
		return int64(bytes)
	}
	return math.MaxInt64
}

// makeBucket allocates bucket index of count for the parameters with these
// indices.
func (r *Reducer) makeBucket(index, count int, indices []int) (_ *bucket, err error) {
	b := &bucket{params: indices, memory: r.memories.of[indices[0]]}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	cfg := r.bucketConfig(index, count, indices)
	for _, i := range indices {
		b.names = append(b.names, r.params[i].Name)
	}
	dtype := r.params[indices[0]].DType.Real()
	if b.sparse = r.params[indices[0]].Sparse; b.sparse {
		b.views = []*tensor.Tensor{nil}
		return b, nil
	}
	if b.work, err = r.newBuffer(b.memory, dtype, lengthOf(cfg)); err != nil {
		return nil, err
	}
	b.buffer = b.work
	if r.usesShadowBuffer() {
		if b.buffer, err = b.memory.New(dtype, lengthOf(cfg)); err != nil {
			return nil, err
		}
	}
	for k, i := range indices {
		view, err := viewOf(b.buffer, cfg.Offsets[k], cfg.Sizes[k], r.params[i].DType)
		if err != nil {
			return nil, err
		}
		b.views = append(b.views, view)
	}
	cfg.Buffer = b.work
	b.grad, err = c10d.NewGradBucket(cfg)
	return b, err
}

// bucketConfig is that of the parameters with these indices, without the buffer.
func (r *Reducer) bucketConfig(index, count int, indices []int) c10d.BucketConfig {
	cfg := c10d.BucketConfig{Index: index, Count: count, Memory: r.deviceOf(indices[0])}
	total := int64(0)
	for _, i := range indices {
		p := r.params[i]
		n := elementsIn(p)
		cfg.Offsets = append(cfg.Offsets, total)
		cfg.Lengths = append(cfg.Lengths, n)
		cfg.Sizes = append(cfg.Sizes, shapeIn(p))
		cfg.Parameters = append(cfg.Parameters, p)
		total += n
	}
	return cfg
}

func lengthOf(cfg c10d.BucketConfig) int64 {
	last := len(cfg.Offsets) - 1
	return cfg.Offsets[last] + cfg.Lengths[last]
}

// newBuffer allocates a bucket's memory, on the CPU where the hook, or else the group, wants it.
func (r *Reducer) newBuffer(m memory, dtype tensor.DType, n int64) (*tensor.Tensor, error) {
	if m.device() != nil {
		return m.New(dtype, n)
	}
	if a, ok := r.opts.Hook.(c10d.BufferAllocator); ok {
		return a.NewBuffer(dtype, n)
	}
	if a, ok := r.opts.Group.(c10d.BufferAllocator); ok {
		return a.NewBuffer(dtype, n)
	}
	return m.New(dtype, n)
}

// free closes the bucket when nothing works on it any more.
func (b *bucket) free() {
	if b.busy == nil {
		b.close()
		return
	}
	whenDone(b.busy, b.close)
}

// close may be of a bucket that is half made.
func (b *bucket) close() {
	if b.grad != nil {
		b.grad.Close()
	}
	for _, view := range b.views {
		view.Close()
	}
	b.buffer.Close()
	b.work.Close()
}

// whenDone calls free when f is done: now, or on a goroutine of its own.
func whenDone[T any](f *c10d.Future[T], free func()) {
	if f.IsDone() {
		free()
		return
	}
	go func() {
		<-f.Done()
		free()
	}()
}
