package worker

import (
	"context"

	"pyhook/c10d"
	"pyhook/tensor"
	"pyhook/worker/internal/ipc"
)

// attachment is what a Worker keeps of a bucket or a parameter. It is closed with its owner, and
// freed with the Worker.
type attachment interface {
	c10d.Attachment
	free() // closes the shared memory that it made
}

// attach returns what the Worker keeps of a bucket or a parameter; make makes it at the first use.
func (w *Worker) attach(owner interface {
	Attach(key any, make func() (c10d.Attachment, error)) (c10d.Attachment, error)
}, make func(id uint64) attachment) (c10d.Attachment, error) {
	return owner.Attach(w, func() (c10d.Attachment, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.closed {
			return nil, c10d.ErrClosed
		}
		w.lastID++
		a := make(w.lastID)
		w.attached[a] = struct{}{}
		return a, nil
	})
}

// detach forgets an attachment whose owner is closed. It returns the process of now.
func (w *Worker) detach(a attachment) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.attached, a)
	return w.proc
}

// shareOrStage returns where t lies in memory that p has mapped, and closes the stage. If t is in
// other memory, it returns where the stage lies, and makes that if it is nil: shared memory of t's
// shape, to which the caller copies t before each use. The caller owns the returned stage, also on
// error.
func (w *Worker) shareOrStage(ctx context.Context, p *process, t, stage *tensor.Tensor) (*ipc.Location, *tensor.Tensor, error) {
	m, err := w.share(ctx, p, t)
	if err != nil {
		return nil, stage, err
	}
	if m != nil {
		stage.Close()
		return m, nil, nil
	}
	if stage == nil {
		if stage, err = w.newTensor(t.DType(), t.Shape(), tensor.Capacity(t.Len())); err != nil {
			return nil, nil, err
		}
	}
	m, err = w.share(ctx, p, stage)
	return m, stage, err
}
