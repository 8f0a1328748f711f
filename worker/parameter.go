package worker

import (
	"context"
	"fmt"
	"sync"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// sharedParameter is what a Worker keeps of a parameter; it is attached to the parameter.
type sharedParameter struct {
	worker *Worker
	id     uint64
	of     *c10d.Parameter

	mu     sync.Mutex
	proc   *process       // that knows the parameter
	stage  *tensor.Tensor // a copy of Data in shared memory, where Data is in other memory; or nil
	closed bool
}

// parameter returns what the worker keeps of param, and makes it known to the process. A param
// whose data is in other memory has a stage then.
func (w *Worker) parameter(ctx context.Context, p *process, param *c10d.Parameter) (*sharedParameter, error) {
	attached, err := w.attach(param, func(id uint64) attachment { return &sharedParameter{worker: w, id: id, of: param} })
	if err != nil {
		return nil, err
	}
	s := attached.(*sharedParameter)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, c10d.ErrClosed
	}
	if s.proc == p {
		return s, nil
	}
	m := parameterMessage{
		ID: s.id, Name: param.Name, Shape: param.Shape, DType: param.DType, Device: param.Device, Attributes: param.Attributes,
	}
	if err := canBeSent(param.Attributes); err != nil {
		return nil, fmt.Errorf("the attributes of parameter %s: %w", param.Name, err)
	}
	if param.Data != nil {
		if is, gradient := param.Data.Device(), param.GradientDevice(); !is.IsCPU() && is != gradient {
			return nil, w.deviceError(is, fmt.Errorf("its gradient is on %s, and hooks' calls wait for that device alone", gradient))
		}
		if m.Data, s.stage, err = w.shareOrStage(ctx, p, param.Data, s.stage); err != nil {
			return nil, err
		}
	}
	message := &message{Kind: kindParameter, Bucket: &bucketMessage{Params: []parameterMessage{m}}}
	if _, err := p.ask(ctx, "a new parameter", 0, message, nil); err != nil {
		return nil, err
	}
	s.proc = p
	return s, nil
}

// parameterIDs makes the model's parameters known to the process, with their values of now, and
// returns their ids.
func (w *Worker) parameterIDs(ctx context.Context, p *process, params []*c10d.Parameter) ([]uint64, error) {
	var ids []uint64
	for i, param := range params {
		if param == nil {
			return nil, fmt.Errorf("parameter %d is nil", i)
		}
		s, err := w.parameter(ctx, p, param)
		if err == nil {
			err = s.copyData()
		}
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", param.Name, err)
		}
		ids = append(ids, s.id)
	}
	return ids, pyhook.SynchronizeValues(params...)
}

// copyData copies the parameter's values of now to its stage, if it has one.
func (s *sharedParameter) copyData() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == nil {
		return nil
	}
	return tensor.Copy(s.stage, s.of.Data)
}

// isStaged reports whether copyData has something to do before each call.
func (s *sharedParameter) isStaged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stage != nil
}

// Close is called with the parameter's: see c10d.Attachment.
func (s *sharedParameter) Close() {
	p := s.worker.detach(s)
	s.free()
	s.worker.paramCloses.Add(1)
	go func() { _ = p.wire.Send(&message{Kind: kindCloseParameter, Object: s.id}, nil) }()
}

// free closes the stage.
func (s *sharedParameter) free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.stage.Close()
	s.stage = nil
}
