package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"pyhook/c10d"
	"pyhook/tensor"
	"pyhook/worker/internal/ipc"
)

// sharedBucket is what a Worker keeps of a bucket; it is attached to the bucket.
type sharedBucket struct {
	worker *Worker
	id     uint64

	mu     sync.Mutex
	proc   *process       // that knows the bucket as it is
	buffer *tensor.Tensor // of the bucket then
	closes int64          // Worker.paramCloses then
	// stage is a copy of the buffer in shared memory, where the buffer is in other memory; or nil.
	stage  *tensor.Tensor
	staged []*sharedParameter // whose data is copied before each call
	closed bool
}

// free closes the stage.
func (b *sharedBucket) free() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.stage.Close()
	b.stage = nil
}

// Close is called with the bucket's: see c10d.Attachment.
func (b *sharedBucket) Close() {
	p := b.worker.detach(b)
	b.free()
	go func() { _ = p.wire.Send(&message{Kind: kindCloseBucket, Object: b.id}, nil) }()
}

// bucket returns what the worker keeps of b.
func (w *Worker) bucket(b *c10d.GradBucket) (*sharedBucket, error) {
	attached, err := w.attach(b, func(id uint64) attachment { return &sharedBucket{worker: w, id: id} })
	if err != nil {
		return nil, err
	}
	return attached.(*sharedBucket), nil
}

// prepare makes sure that the process knows the bucket as it is, and copies what is in other memory
// to shared memory. It returns the memory that the call works on.
func (w *Worker) prepare(ctx context.Context, p *process, b *c10d.GradBucket, s *sharedBucket) (*tensor.Tensor, error) {
	buffer := b.Buffer()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("the bucket: %w", c10d.ErrClosed)
	}
	closes := w.paramCloses.Load()
	if s.proc != p || s.closes != closes || s.buffer != buffer && s.stage == nil {
		if err := w.sendBucket(ctx, p, b, s, buffer); err != nil {
			s.proc = nil // what it knows now is not what is here
			return nil, err
		}
		s.proc, s.buffer, s.closes = p, buffer, closes
	}
	for _, param := range s.staged {
		if err := param.copyData(); err != nil {
			return nil, fmt.Errorf("parameter %s: %w", param.of.Name, err)
		}
	}
	switch {
	case !buffer.Device().IsCPU():
		// The device does not know that these two processes are ordered.
		return buffer, b.Memory().Synchronize(ctx)
	case s.stage == nil:
		return buffer, nil
	}
	return s.stage, tensor.Copy(s.stage, buffer)
}

// sendBucket makes the bucket and its parameters known to the process. The caller holds s.mu.
func (w *Worker) sendBucket(ctx context.Context, p *process, b *c10d.GradBucket, s *sharedBucket, buffer *tensor.Tensor) error {
	if !buffer.Device().IsCPU() && b.Memory() == nil {
		return w.deviceError(buffer.Device(), errors.New("the bucket has no c10d.DeviceMemory, as those of package ddp have, to wait for"))
	}
	var location *ipc.Location
	var err error
	if location, s.stage, err = w.shareOrStage(ctx, p, buffer, s.stage); err != nil {
		return err
	}
	s.staged = nil
	m := &bucketMessage{
		ID: s.id, Index: b.Index(), Count: b.Count(), Buffer: location,
		Offsets: b.Offsets(), Lengths: b.Lengths(), Sizes: b.Sizes(), Params: make([]parameterMessage, len(b.Sizes())),
	}
	for i, param := range b.Parameters() {
		known, err := w.parameter(ctx, p, param)
		if err != nil {
			return fmt.Errorf("parameter %s: %w", param.Name, err)
		}
		m.Params[i].ID = known.id
		if known.isStaged() && !slices.Contains(s.staged, known) {
			s.staged = append(s.staged, known)
		}
	}
	_, err = p.ask(ctx, "a new bucket", 0, &message{Kind: kindBucket, Bucket: m}, nil)
	return err
}
