package pyhook

// #include <stdlib.h>
// #include "hookcall.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"pyhook/tensor"
	"pyhook/tensorconv"
)

// pythonBucket is what persists of a bucket on Python's side while its memory
// is the same. The bucket holds it, and so do the calls and values that came
// of it: a future may be done after SetBuffer or Close.
type pythonBucket struct {
	layout *Object        // pyhook._bucket.BucketLayout
	tensor *Object        // the flat torch tensor over buffer
	dtype  *Object        // tensor's
	buffer *tensor.Tensor // the trainer's handle
	stream *onStream      // of a buffer on a GPU; else nil
	refs   atomic.Int32
	// same is the future of every call that was done at return with the
	// buffer: nothing tells one of those from another.
	same *Future

	call sync.Mutex    // guards c's streak and result: a call and the reading of it
	c    *C.pyh_bucket // C memory, as long as this struct; layout, tensor, dtype and stream hold its references
}

func (p *pythonBucket) release() {
	if p != nil && p.refs.Add(-1) == 0 {
		p.layout.Close()
		p.tensor.Close()
		p.dtype.Close()
		p.stream.close()
	}
}

// forget drops the Python objects after a hook changed them in place, so that
// the next step starts from the trainer's memory again.
func (b *GradBucket) forget(python *pythonBucket) {
	b.mu.Lock()
	current := b.python == python
	if current {
		b.python = nil
	}
	b.mu.Unlock()
	if current {
		python.release()
	}
}

// forPython returns the bucket's Python objects, making them at the first use.
// The caller releases them.
func (b *GradBucket) forPython(t *tools) (*pythonBucket, error) {
	for {
		b.mu.Lock()
		closed, python, buffer := b.closed, b.python, b.cfg.Buffer
		if python != nil {
			python.refs.Add(1)
		}
		b.mu.Unlock()
		if python != nil && !isClosed(buffer) {
			return python, nil
		}
		python.release()
		if closed {
			return nil, fmt.Errorf("the bucket: %w", ErrClosed)
		}
		python, err := b.newPython(t, buffer)
		if err != nil {
			return nil, err
		}
		b.mu.Lock()
		if b.python == nil && b.cfg.Buffer == buffer && !b.closed {
			b.python = python
			b.mu.Unlock()
			return python, nil
		}
		b.mu.Unlock()
		python.refs.Store(1) // another call was first, or SetBuffer, or Close
		python.release()
	}
}

// newPython holds one reference for the bucket and one for the caller.
func (b *GradBucket) newPython(t *tools, buffer *tensor.Tensor) (*pythonBucket, error) {
	tensor, err := resizable(buffer)
	if err != nil {
		return nil, fmt.Errorf("the bucket's buffer: %w", err)
	}
	dtype, err := tensor.Attr("dtype")
	if err != nil {
		tensor.Close()
		return nil, err
	}
	layout, err := b.layout(t, tensor, buffer.Device())
	if err != nil {
		tensor.Close()
		dtype.Close()
		return nil, err
	}
	python := &pythonBucket{layout: layout, tensor: tensor, dtype: dtype, buffer: buffer, c: (*C.pyh_bucket)(C.calloc(1, C.sizeof_pyh_bucket))}
	runtime.AddCleanup(python, func(c *C.pyh_bucket) { C.free(unsafe.Pointer(c)) }, python.c)
	python.refs.Store(2)
	python.same = CompletedFuture(Value{tensor: buffer, bucket: b}, nil)
	python.c.data, python.c.len = C.uintptr_t(uintptr(buffer.Data())), C.int64_t(buffer.Len())
	err = errors.Join(hold(layout, &python.c.layout), hold(tensor, &python.c.tensor), hold(dtype, &python.c.dtype))
	if err == nil && !buffer.Device().IsCPU() {
		var stream *onStream
		if stream, err = newOnStream(t, buffer.Device(), b.cfg.Stream); err == nil {
			err = python.orderBy(stream)
		}
	}
	if err != nil {
		python.refs.Store(1)
		python.release()
		return nil, err
	}
	return python, nil
}

// orderBy has hooks called and futures asked by stream, which it takes over.
func (p *pythonBucket) orderBy(stream *onStream) error {
	p.stream = stream
	return hold(stream.value, &p.c.value)
}

func hold(o *Object, slot **C.PyObject) error {
	return o.Pointer(func(p unsafe.Pointer) error {
		*slot = (*C.PyObject)(p)
		return nil
	})
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

func (b *GradBucket) layout(t *tools, tensor *Object, device tensor.Device) (*Object, error) {
	names := make([]string, len(b.params))
	params := make([]any, len(b.params))
	for i, p := range b.params {
		o, err := p.forPython(device)
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", p.Name, err)
		}
		names[i], params[i] = p.Name, o
	}
	kwargs := map[string]any{"names": names, "params": params}
	if b.cfg.SparseIndices != nil {
		kwargs["sparse_indices"] = b.cfg.SparseIndices
	}
	return t.newLayout.Invoke([]any{tensor, b.cfg.Index, b.cfg.Count, b.cfg.Offsets, b.cfg.Lengths, b.cfg.Sizes}, kwargs)
}
