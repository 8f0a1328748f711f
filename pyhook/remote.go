package pyhook

import "pyhook/tensor"

// This file is for those who run hooks in another place than this process, as
// package worker does.

// BufferAllocator is a CommHook or a ProcessGroup that wants buckets in memory of
// its own, where it need not copy them. Package ddp asks the hook first.
type BufferAllocator interface {
	// NewBuffer returns a flat tensor of n zeros, with the room of
	// tensorconv.WithRoom. The caller closes it.
	NewBuffer(dtype tensor.DType, n int64) (*tensor.Tensor, error)
}

// NewFutureAt is NewFuture; place makes the error that Wait returns when its
// context ends, of the context's error.
func NewFutureAt(place func(error) error) (*Future, func(Value, error)) {
	f := &Future{place: place}
	return f, func(v Value, err error) { f.complete(v, err) }
}

// OwnedTensorValue is TensorValue, and t is closed with the value.
func OwnedTensorValue(t *tensor.Tensor) Value { return Value{tensor: t, held: &held{tensor: t}} }

// OnClose calls f when the bucket is closed, once; at once if it is closed.
func (b *GradBucket) OnClose(f func()) {
	b.mu.Lock()
	if !b.closed {
		b.onClose = append(b.onClose, f)
		b.mu.Unlock()
		return
	}
	b.mu.Unlock()
	f()
}
