package pyhook

import (
	"fmt"
	"sync/atomic"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// pythonBucket holds a bucket's Python objects while the bucket's memory is the same. The bucket
// and each call and result hold references: a future may complete after SetBuffer or Close.
type pythonBucket struct {
	layout *Object        // pyhook._runtime.bucket.BucketLayout
	tensor *Object        // the flat torch tensor over buffer
	dtype  *Object        // tensor's
	buffer *tensor.Tensor // the trainer's handle
	stream *onStream      // of a buffer on a GPU; else nil
	refs   atomic.Int64   // bucketRefs for the bucket, and one for each call and result
	// same is the one future of all calls that returned with a done future of the buffer itself.
	same *c10d.Future[c10d.Result]
	// invocation, of layout, tensor, dtype and stream, is for the one call that found no other
	// call or result; each of the others takes a copy.
	invocation *cbridge.Invocation
}

// bucketRefs are the bucket's references: more than there are calls and results, so that a count
// tells whether the bucket holds them, and whether only the bucket does.
const bucketRefs = 1 << 32

func (p *pythonBucket) release() {
	if p != nil {
		p.drop(1)
	}
}

// Close gives up the bucket's references: see c10d.Attachment.
func (p *pythonBucket) Close() { p.drop(bucketRefs) }

func (p *pythonBucket) drop(refs int64) {
	if p.refs.Add(-refs) == 0 {
		p.layout.Close()
		p.tensor.Close()
		p.dtype.Close()
		p.stream.close()
	}
}

// retain adds a call's reference, and reports whether the call is alone: the bucket held the only
// others. It returns false for ok if the bucket holds none any more.
func (p *pythonBucket) retain() (alone, ok bool) {
	for {
		n := p.refs.Load()
		if n < bucketRefs {
			return false, false
		}
		if p.refs.CompareAndSwap(n, n+1) {
			return n == bucketRefs, true
		}
	}
}

// pythonKey is the key of the Python objects that are attached to buckets and parameters.
var pythonKey = new(byte)

// pythonBucketOf returns the bucket's Python objects, making them at the first use and after
// SetBuffer. The caller releases them. A caller that is alone may use the invocation; see retain.
func pythonBucketOf(t *torchAPI, b *c10d.GradBucket) (python *pythonBucket, alone bool, err error) {
	for {
		attached, err := b.Attach(pythonKey, func() (c10d.Attachment, error) { return newPythonBucket(t, b) })
		if err != nil {
			return nil, false, fmt.Errorf("the bucket: %w", err)
		}
		python := attached.(*pythonBucket)
		if python.buffer == b.Buffer() && !python.buffer.IsClosed() {
			if alone, ok := python.retain(); ok {
				return python, alone, nil
			}
			continue // it was detached meanwhile
		}
		b.Detach(pythonKey, python)
		if b.Buffer().IsClosed() {
			return nil, false, fmt.Errorf("the bucket's buffer: %w", c10d.ErrClosed)
		}
	}
}

// newPythonBucket's result has the bucket's references.
func newPythonBucket(t *torchAPI, b *c10d.GradBucket) (*pythonBucket, error) {
	buffer := b.Buffer()
	tensor, err := resizable(buffer)
	if err != nil {
		return nil, fmt.Errorf("the bucket's buffer: %w", err)
	}
	dtype, err := tensor.Attr("dtype")
	if err != nil {
		tensor.Close()
		return nil, err
	}
	layout, err := newLayout(t, b, tensor, buffer.Device())
	if err != nil {
		tensor.Close()
		dtype.Close()
		return nil, err
	}
	python := &pythonBucket{layout: layout, tensor: tensor, dtype: dtype, buffer: buffer}
	python.refs.Store(bucketRefs)
	python.same = c10d.CompletedFuture(c10d.Result(c10d.TensorResult{Tensor: buffer}), nil)
	python.invocation, err = t.api.NewBucketCall(layout, tensor, dtype, buffer.Data(), buffer.Len())
	if err == nil && !buffer.Device().IsCPU() {
		var stream *onStream
		if stream, err = streamOf(t, b); err == nil {
			python.orderBy(stream)
		}
	}
	if err != nil {
		python.Close()
		return nil, err
	}
	return python, nil
}

// orderBy has hooks called and futures asked by stream, which it takes over.
func (p *pythonBucket) orderBy(stream *onStream) {
	p.stream = stream
	p.invocation.AskBy(stream.value)
}

// resizable makes the torch tensor of a buffer, in a storage with the room that
// the buffer's memory has.
func resizable(buffer *tensor.Tensor) (*Object, error) {
	whole, err := buffer.WithCapacity()
	if err != nil {
		return nil, err
	}
	defer whole.Close()
	tensor, err := tensorconv.ToPython(whole)
	if err != nil || whole.Len() == buffer.Len() {
		return tensor, err
	}
	same, err := tensor.Call("resize_", buffer.Len())
	if err != nil {
		tensor.Close()
		return nil, err
	}
	same.Close()
	return tensor, nil
}

func newLayout(t *torchAPI, b *c10d.GradBucket, tensor *Object, device tensor.Device) (*Object, error) {
	params := make([]any, len(b.Parameters()))
	for i, p := range b.Parameters() {
		o, err := pythonParameter(p, device)
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", p.Name, err)
		}
		params[i] = o
	}
	return t.newLayout.Invoke([]any{tensor, b.Index(), b.Count(), b.Offsets(), b.Lengths(), b.Sizes(), params}, nil)
}
