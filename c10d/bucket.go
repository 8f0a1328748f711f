package c10d

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"pyhook/tensor"
)

// BucketConfig describes a bucket; c10d::GradBucket's constructor.
type BucketConfig struct {
	Index, Count int            // position in the order of reduction, and number of buckets
	Buffer       *tensor.Tensor // flat, contiguous: all gradients one after another
	Offsets      []int64        // of each gradient in Buffer, in elements
	Lengths      []int64        // of each gradient, in elements
	// Sizes are the shapes of the gradients. In a real Buffer that of a complex
	// parameter has one more dimension, of the two parts (torch.view_as_real).
	Sizes      [][]int64
	Parameters []*Parameter // of each gradient; nil entries and nil are allowed
	// Stream of a Buffer on a device: see Stream.
	Stream Stream
	// Memory of a Buffer that package ddp made by it; its communication stream counts then, and not
	// Stream. nil: the CPU's memory, or a trainer's own.
	Memory DeviceMemory
}

// GradBucket is c10d::GradBucket: gradients that are reduced together, or one sparse gradient. Keep
// a dense bucket over steps: what hooks attach to it is made once. One hook call at a time.
type GradBucket struct {
	cfg    BucketConfig
	params []*Parameter // cfg.Parameters, and own ones where it has none
	own    []*Parameter
	sparse *SparseGradient // of a sparse bucket; else nil

	buffer      atomic.Pointer[tensor.Tensor] // nil in a sparse bucket
	attachments attachments
}

// NewGradBucket checks the description and makes a dense bucket. The buffer is
// shared: it must stay open until the bucket is closed. One on a device works by
// cfg.Stream; see Stream.
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
		if !fits(size, cfg.Offsets[i], cfg.Lengths[i], cfg.Buffer.Len()) {
			return bad("gradient %d of shape %v (%d elements at %d) does not fit a buffer of %d", i, size, cfg.Lengths[i], cfg.Offsets[i], cfg.Buffer.Len())
		}
	}
	for i, p := range cfg.Parameters {
		if p != nil && !p.fits(cfg.Buffer.DType(), cfg.Sizes[i]) {
			return bad("parameter %s of shape %v has a gradient of shape %v", p.Name, p.Shape, cfg.Sizes[i])
		}
		if p != nil && p.Data != nil && !slices.Equal(p.Shape, p.Data.Shape()) {
			return bad("parameter %s of shape %v has data of shape %v", p.Name, p.Shape, p.Data.Shape())
		}
	}
	// The caller may fill its slices anew for the next bucket.
	cfg.Offsets, cfg.Lengths, cfg.Sizes = slices.Clone(cfg.Offsets), slices.Clone(cfg.Lengths), slices.Clone(cfg.Sizes)
	for i := range cfg.Sizes {
		cfg.Sizes[i] = slices.Clone(cfg.Sizes[i])
	}
	cfg.Parameters = slices.Clone(cfg.Parameters)
	b := &GradBucket{cfg: cfg}
	b.buffer.Store(cfg.Buffer)
	b.completeParameters()
	return b, nil
}

// completeParameters makes a parameter for each gradient that has none, so
// that hooks find the same objects at each step.
func (b *GradBucket) completeParameters() {
	b.params = make([]*Parameter, len(b.cfg.Sizes))
	copy(b.params, b.cfg.Parameters)
	for i, p := range b.params {
		if p == nil {
			b.params[i] = &Parameter{Shape: b.cfg.Sizes[i], DType: b.cfg.Buffer.DType()}
			b.own = append(b.own, b.params[i])
		}
	}
}

// fits reports whether size has length elements and lies, from offset on,
// within total.
func fits(size []int64, offset, length, total int64) bool {
	n := int64(1)
	if slices.Contains(size, 0) {
		n = 0
	}
	for _, s := range size {
		if s < 0 || n > 0 && n > total/s {
			return false
		}
		n *= s
	}
	return n == length && offset >= 0 && offset <= total-n
}

func checkBuffer(t *tensor.Tensor) error {
	if t == nil {
		return fmt.Errorf("no buffer")
	}
	if t.IsClosed() {
		return fmt.Errorf("the buffer: %w", ErrClosed)
	}
	if d := t.Device(); !d.IsCPU() && !d.HasStreams() {
		return fmt.Errorf("the buffer is on %s: %w\nhint: copy the gradients to the CPU's memory, or a GPU's", d, errors.ErrUnsupported)
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

// Buffer returns the flat memory that hooks read and write (getBuffer), or nil in a sparse bucket.
// It belongs to whoever made the bucket.
func (b *GradBucket) Buffer() *tensor.Tensor { return b.buffer.Load() }

// Sparse returns the gradient of a sparse bucket, which hooks read and write, or nil. It belongs to
// the bucket.
func (b *GradBucket) Sparse() *SparseGradient { return b.sparse }

// SetBuffer replaces the memory (setBuffer), as a trainer whose gradients move does each step: flat,
// contiguous, of as many elements, of the same dtype and on the same device. The former buffer is
// not closed, and the future of a call that is under way stays one of the former buffer.
func (b *GradBucket) SetBuffer(t *tensor.Tensor) error {
	if err := checkBuffer(t); err != nil {
		return fmt.Errorf("bucket %d: %w", b.cfg.Index, err)
	}
	former := b.Buffer()
	switch {
	case b.attachments.isClosed():
		return fmt.Errorf("bucket %d: %w", b.cfg.Index, ErrClosed)
	case former == nil:
		return fmt.Errorf("bucket %d is sparse and has no buffer", b.cfg.Index)
	case t.Len() != former.Len() || t.DType() != former.DType() || t.Device() != former.Device():
		return fmt.Errorf("bucket %d: a buffer of %v in place of %v", b.cfg.Index, t, former)
	}
	b.buffer.Store(t)
	return nil
}

// Attach returns what was attached to the bucket under key; make makes it at the first use. It is
// closed with the bucket, or by Detach; what depends on the buffer's memory must look whether Buffer
// is still the same. For any goroutine; make may run several times at once, and the first result is
// kept. The error is make's, or ErrClosed.
func (b *GradBucket) Attach(key any, make func() (Attachment, error)) (Attachment, error) {
	return b.attachments.attach(key, make)
}

// Detach drops and closes value, if that is what is attached under key.
func (b *GradBucket) Detach(key any, value Attachment) { b.attachments.detach(key, value) }

// Offsets returns where each gradient starts in the buffer, in elements.
func (b *GradBucket) Offsets() []int64 { return b.cfg.Offsets }

// Lengths returns the elements of each gradient.
func (b *GradBucket) Lengths() []int64 { return b.cfg.Lengths }

// Sizes returns the shape of each gradient.
func (b *GradBucket) Sizes() [][]int64 { return b.cfg.Sizes }

// Parameters returns the parameter of each gradient (getParameters): one without a name where the
// configuration has none.
func (b *GradBucket) Parameters() []*Parameter { return b.params }

// Stream returns the stream of a buffer on a device.
func (b *GradBucket) Stream() Stream { return b.cfg.Stream }

// Memory returns what the buffer was made by, or nil.
func (b *GradBucket) Memory() DeviceMemory { return b.cfg.Memory }

// Gradients returns a view of the buffer for each gradient, shaped as its
// parameter (getGradients). The caller closes them.
func (b *GradBucket) Gradients() ([]*tensor.Tensor, error) {
	buffer := b.Buffer()
	views := make([]*tensor.Tensor, 0, len(b.cfg.Sizes))
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

// Close closes what is attached, and a sparse bucket's handles on its gradient. The buffer stays its
// owner's. A call that is under way on a dense bucket finishes, and its result can be read; a sparse
// one is closed when the future is done and its result read. Idempotent.
func (b *GradBucket) Close() {
	b.attachments.dropAll(true)
	for _, p := range b.own {
		p.Close()
	}
	b.sparse.Close()
}
