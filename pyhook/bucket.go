package pyhook

import (
	"fmt"
	"sync"

	"pyhook/cbridge"
	"pyhook/tensorconv"
)

// Parameter is a trainable parameter of the model, as hooks see it in
// bucket.parameters(): one object for the life of the model, whichever bucket
// it is in.
type Parameter struct {
	Name  string
	Shape []int64
	DType tensorconv.DType
	// Data is the parameter's values, for hooks that read or update weights.
	// Optional: without it hooks see the right shape and dtype, and NaN.
	Data *tensorconv.Tensor

	mu     sync.Mutex
	python *Object // torch.nn.Parameter over Data
}

// BucketConfig describes a bucket; c10d::GradBucket's constructor.
type BucketConfig struct {
	Index, Count int                // position in the order of reduction, and number of buckets
	Buffer       *tensorconv.Tensor // flat, contiguous: all gradients one after another
	Offsets      []int64            // of each gradient in Buffer, in elements
	Lengths      []int64            // of each gradient, in elements
	Sizes        [][]int64          // shape of each gradient
	Parameters   []*Parameter       // of each gradient; nil entries and nil are allowed
	// SparseIndices of a sparse gradient, or nil (torch >= 2).
	SparseIndices *tensorconv.Tensor
}

// GradBucket is c10d::GradBucket: gradients that are reduced together. Its
// Python objects are made at the first hook call and kept while the buffer is
// the same, so keep the bucket over steps. One hook call at a time.
type GradBucket struct {
	cfg BucketConfig

	mu     sync.Mutex
	closed bool
	python *pythonBucket
}

// pythonBucket is what persists of a bucket on Python's side.
type pythonBucket struct {
	layout *Object // pyhook._bucket.BucketLayout
	tensor *Object // the flat torch tensor over the buffer
	data   uintptr
	len    int64
}

// NewGradBucket checks the description and makes the bucket. The buffer is
// shared: it must stay open until the bucket is closed.
func NewGradBucket(cfg BucketConfig) (*GradBucket, error) {
	bad := func(format string, args ...any) (*GradBucket, error) {
		return nil, fmt.Errorf("bucket %d of %d: "+format, append([]any{cfg.Index, cfg.Count}, args...)...)
	}
	if cfg.Index < 0 || cfg.Index >= cfg.Count {
		return bad("the index is not in 0..%d", cfg.Count-1)
	}
	if err := checkBuffer(cfg.Buffer); err != nil {
		return bad("%w", err)
	}
	if len(cfg.Lengths) != len(cfg.Offsets) || len(cfg.Sizes) != len(cfg.Offsets) {
		return bad("%d offsets, %d lengths and %d sizes: one of each for a gradient", len(cfg.Offsets), len(cfg.Lengths), len(cfg.Sizes))
	}
	if cfg.Parameters != nil && len(cfg.Parameters) != len(cfg.Offsets) {
		return bad("%d parameters for %d gradients", len(cfg.Parameters), len(cfg.Offsets))
	}
	for i, size := range cfg.Sizes {
		n := int64(1)
		for _, s := range size {
			n *= s
		}
		if n != cfg.Lengths[i] || cfg.Offsets[i] < 0 || cfg.Offsets[i]+n > cfg.Buffer.Len() {
			return bad("gradient %d of shape %v (%d elements at %d) does not fit a buffer of %d", i, size, cfg.Lengths[i], cfg.Offsets[i], cfg.Buffer.Len())
		}
	}
	return &GradBucket{cfg: cfg}, nil
}

func checkBuffer(t *tensorconv.Tensor) error {
	if t == nil {
		return fmt.Errorf("no buffer")
	}
	if len(t.Shape()) != 1 || !t.IsContiguous() {
		return fmt.Errorf("the buffer must be flat and contiguous, not of shape %v with strides %v", t.Shape(), t.Strides())
	}
	return nil
}

// Index returns the 0-based position in the order of reduction (getIndex).
func (b *GradBucket) Index() int { return b.cfg.Index }

// Count returns the number of buckets in a step.
func (b *GradBucket) Count() int { return b.cfg.Count }

// IsLast reports whether this is the last bucket of the step (isLast).
func (b *GradBucket) IsLast() bool { return b.cfg.Index == b.cfg.Count-1 }

// Buffer returns the flat memory that hooks read and write (getBuffer). It
// belongs to whoever made the bucket.
func (b *GradBucket) Buffer() *tensorconv.Tensor {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cfg.Buffer
}

// SetBuffer replaces the memory (setBuffer), as a trainer whose gradients move
// does each step: flat, contiguous, of as many elements. The former buffer is
// not closed.
func (b *GradBucket) SetBuffer(t *tensorconv.Tensor) error {
	if err := checkBuffer(t); err != nil {
		return fmt.Errorf("bucket %d: %w", b.cfg.Index, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.Len() != b.cfg.Buffer.Len() {
		return fmt.Errorf("bucket %d: a buffer of %d elements in place of %d", b.cfg.Index, t.Len(), b.cfg.Buffer.Len())
	}
	b.cfg.Buffer = t
	b.dropPython()
	return nil
}

// Offsets returns where each gradient starts in the buffer, in elements.
func (b *GradBucket) Offsets() []int64 { return b.cfg.Offsets }

// Lengths returns the elements of each gradient.
func (b *GradBucket) Lengths() []int64 { return b.cfg.Lengths }

// Sizes returns the shape of each gradient.
func (b *GradBucket) Sizes() [][]int64 { return b.cfg.Sizes }

// Parameters returns the parameter of each gradient (getParameters); may be nil.
func (b *GradBucket) Parameters() []*Parameter { return b.cfg.Parameters }

// SparseIndices returns the indices of a sparse gradient, or nil.
func (b *GradBucket) SparseIndices() *tensorconv.Tensor { return b.cfg.SparseIndices }

// Gradients returns a view of the buffer for each gradient, shaped as its
// parameter (getGradients). The caller closes them.
func (b *GradBucket) Gradients() ([]*tensorconv.Tensor, error) {
	buffer := b.Buffer()
	views := make([]*tensorconv.Tensor, 0, len(b.cfg.Sizes))
	for i, size := range b.cfg.Sizes {
		view, err := buffer.View(b.cfg.Offsets[i], size, nil)
		if err != nil {
			for _, v := range views {
				v.Close()
			}
			return nil, err
		}
		views = append(views, view)
	}
	return views, nil
}

// Close drops the Python objects. The buffer stays its owner's. Idempotent.
func (b *GradBucket) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.dropPython()
}

func (b *GradBucket) dropPython() {
	if b.python != nil {
		b.python.layout.Close()
		b.python.tensor.Close()
		b.python = nil
	}
}

// forget drops the Python objects after a hook changed them in place, so that
// the next step starts from the trainer's memory again.
func (b *GradBucket) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropPython()
}

// forPython returns the bucket's Python objects, making them at the first use.
func (b *GradBucket) forPython(t *tools) (*pythonBucket, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("bucket %d: %w", b.cfg.Index, ErrClosed)
	}
	if b.python != nil {
		return b.python, nil
	}
	tensor, err := b.cfg.Buffer.Python()
	if err != nil {
		return nil, err
	}
	layout, err := b.layout(t, tensor)
	if err != nil {
		tensor.Close()
		return nil, err
	}
	b.python = &pythonBucket{layout: layout, tensor: tensor, data: uintptr(b.cfg.Buffer.Data()), len: b.cfg.Buffer.Len()}
	return b.python, nil
}

func (b *GradBucket) layout(t *tools, tensor *Object) (*Object, error) {
	names := make([]string, len(b.cfg.Sizes))
	params := make([]any, len(b.cfg.Sizes))
	complete := len(b.cfg.Parameters) > 0
	for i, p := range b.cfg.Parameters {
		if p == nil {
			complete = false
			continue
		}
		names[i] = p.Name
		o, err := p.forPython()
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", p.Name, err)
		}
		params[i] = o
	}
	kwargs := map[string]any{"names": names}
	if complete {
		kwargs["params"] = params
	}
	if b.cfg.SparseIndices != nil {
		kwargs["sparse_indices"] = b.cfg.SparseIndices
	}
	return t.newLayout.Invoke([]any{tensor, b.cfg.Index, b.cfg.Count, b.cfg.Offsets, b.cfg.Lengths, b.cfg.Sizes}, kwargs)
}

// forPython returns the parameter's one Python object.
func (p *Parameter) forPython() (*Object, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.python != nil {
		return p.python, nil
	}
	bucket, err := cbridge.Import("pyhook._bucket")
	if err != nil {
		return nil, err
	}
	defer bucket.Close()
	var data any
	if p.Data != nil {
		data = p.Data
	}
	p.python, err = bucket.Call("make_parameter", data, p.Shape, p.DType.String())
	return p.python, err
}

// Close drops the parameter's Python object. Idempotent.
func (p *Parameter) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.python.Close()
	p.python = nil
}
