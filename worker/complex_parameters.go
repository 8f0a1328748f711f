package worker

import (
	"context"
	"fmt"

	"pyhook/c10d"
)

// ComplexParameters: see pyhook.PythonCommHook.ComplexParameters; the worker's torch is asked.
func (h *Hook) ComplexParameters() error {
	p := h.worker.process()
	if _, err := p.ask(context.Background(), "complex parameters", 0, &message{Kind: kindComplex, Object: h.id}, nil); err != nil {
		return h.fail(nil, c10d.ErrComplex, err)
	}
	return nil
}

func (s *server) complexParameters(id uint64) error {
	hook := find(s, s.hooks, id)
	if hook == nil {
		return fmt.Errorf("hook %d is not known to the worker: %w", id, c10d.ErrClosed)
	}
	return hook.ComplexParameters()
}
