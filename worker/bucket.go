package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"pyhook/c10d"
	"pyhook/tensor"
)

// sharedBucket is what the worker has of a bucket.
type sharedBucket struct {
	worker *Worker
	id     uint64

	mu     sync.Mutex
	proc   *process       // that knows it as it is
	buffer *tensor.Tensor // of the bucket then
	// stage is shared memory in place of a buffer that is not; nil: the buffer is.
	stage  *tensor.Tensor
	staged []*sharedParameter // whose data is copied before each call
	// saved is what the buffer held before the last call: see Hook.Rollback.
	saved  *tensor.Tensor
	closed bool
}

// sharedParameter is what the worker has of a parameter.
type sharedParameter struct {
	id    uint64
	of    *c10d.Parameter
	proc  *process
	stage *tensor.Tensor // of the data, where that is not in shared memory; or nil
}

// free drops the memory that stands in for the trainer's.
func (b *sharedBucket) free() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.stage.Close()
	b.saved.Close()
	b.stage, b.saved = nil, nil
}

// Close is called with the bucket's: see c10d.Attachment.
func (b *sharedBucket) Close() {
	b.worker.mu.Lock()
	delete(b.worker.buckets, b)
	p := b.worker.proc
	b.worker.mu.Unlock()
	b.free()
	go func() { _ = p.wire.send(&message{Kind: kindCloseBucket, Object: b.id}, nil) }()
}

// bucket returns what the worker has of b; it is made at the first use and goes with the bucket.
func (w *Worker) bucket(b *c10d.GradBucket) (*sharedBucket, error) {
	shared, err := b.Attach(w, func() (c10d.Attachment, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.closed {
			return nil, c10d.ErrClosed
		}
		w.lastID++
		s := &sharedBucket{worker: w, id: w.lastID}
		w.buckets[s] = struct{}{}
		return s, nil
	})
	if err != nil {
		return nil, err
	}
	return shared.(*sharedBucket), nil
}

// prepare makes sure that the process knows the bucket as it is, and that all it
// holds is in shared memory. It returns the memory that the call works on.
func (w *Worker) prepare(ctx context.Context, p *process, b *c10d.GradBucket, s *sharedBucket) (*tensor.Tensor, error) {
	buffer := b.Buffer()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("the bucket: %w", c10d.ErrClosed)
	}
	if s.proc != p || s.buffer != buffer && s.stage == nil {
		if err := w.introduce(ctx, p, b, s, buffer); err != nil {
			return nil, err
		}
		s.proc, s.buffer = p, buffer
	}
	for _, param := range s.staged {
		if err := tensor.Copy(param.stage, param.of.Data); err != nil {
			return nil, fmt.Errorf("parameter %s: %w", param.of.Name, err)
		}
	}
	if s.stage == nil {
		return buffer, nil
	}
	return s.stage, tensor.Copy(s.stage, buffer)
}

// introduce tells the process of the bucket.
func (w *Worker) introduce(ctx context.Context, p *process, b *c10d.GradBucket, s *sharedBucket, buffer *tensor.Tensor) error {
	if !buffer.Device().IsCPU() {
		return fmt.Errorf("a buffer on %s: a worker shares the CPU's memory only", buffer.Device())
	}
	place, err := w.share(ctx, p, buffer)
	if err != nil {
		return err
	}
	if place == nil && s.stage == nil {
		if s.stage, err = w.NewBuffer(buffer.DType(), buffer.Len()); err != nil {
			return err
		}
	} else if place != nil {
		s.stage.Close()
		s.stage = nil
	}
	if s.stage != nil {
		if place, err = w.share(ctx, p, s.stage); err != nil {
			return err
		}
	}
	m := &bucketMessage{ID: s.id, Index: b.Index(), Count: b.Count(), Buffer: place, Offsets: b.Offsets(), Lengths: b.Lengths(), Sizes: b.Sizes()}
	s.staged = nil
	m.Params = make([]parameterMessage, len(b.Sizes()))
	for i, param := range b.Parameters() {
		known, err := w.parameter(ctx, p, param)
		if err != nil {
			return fmt.Errorf("parameter %s: %w", param.Name, err)
		}
		m.Params[i].ID = known.id
		if known.stage != nil && !slices.Contains(s.staged, known) {
			s.staged = append(s.staged, known)
		}
	}
	_, err = p.ask(ctx, "a new bucket", 0, &message{Kind: kindBucket, Bucket: m}, nil)
	return err
}

// introduceParameters tells the process of the model's parameters, with their values of
// now, and returns their numbers.
func (w *Worker) introduceParameters(ctx context.Context, p *process, params []*c10d.Parameter) ([]uint64, error) {
	var ids []uint64
	for i, param := range params {
		if param == nil {
			return nil, fmt.Errorf("parameter %d is nil", i)
		}
		known, err := w.parameter(ctx, p, param)
		if err == nil && known.stage != nil {
			err = tensor.Copy(known.stage, param.Data)
		}
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", param.Name, err)
		}
		ids = append(ids, known.id)
	}
	return ids, nil
}

// parameter tells the process of a parameter, once.
func (w *Worker) parameter(ctx context.Context, p *process, param *c10d.Parameter) (*sharedParameter, error) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil, c10d.ErrClosed
	}
	s := w.params[param]
	if s == nil {
		w.lastID++
		s = &sharedParameter{id: w.lastID, of: param}
		w.params[param] = s
	}
	known := s.proc == p
	w.mu.Unlock()
	if known {
		return s, nil
	}
	m := parameterMessage{ID: s.id, Name: param.Name, Shape: param.Shape, DType: param.DType, Attributes: param.Attributes}
	if param.Data != nil {
		var err error
		if m.Data, err = w.share(ctx, p, param.Data); err != nil {
			return nil, err
		}
		if m.Data == nil {
			if s.stage == nil {
				if s.stage, err = w.newTensor(param.Data.DType(), param.Data.Shape(), 0); err != nil {
					return nil, err
				}
			}
			if m.Data, err = w.share(ctx, p, s.stage); err != nil {
				return nil, err
			}
		}
	}
	if _, err := p.ask(ctx, "a new parameter", 0, &message{Kind: kindParameter, Bucket: &bucketMessage{Params: []parameterMessage{m}}}, nil); err != nil {
		return nil, err
	}
	w.mu.Lock()
	s.proc = p
	w.mu.Unlock()
	return s, nil
}
