package worker

import (
	"context"
	"fmt"

	"pyhook/c10d"
)

// traceMessage asks the worker to report the collectives of a hook, or not to any more, or reports
// one to the trainer.
type traceMessage struct {
	Hook       uint64
	On         bool
	Collective *c10d.Collective
}

// TraceCollectives calls on for every collective that the hook issues from now on, also after a
// Restart: see c10d.TracedHook. on runs on the goroutine that reads what the worker sends, so it
// must be short; the last collectives of a step may come a moment after its futures. nil ends it.
// Not while a call is under way.
func (h *Hook) TraceCollectives(on func(c10d.Collective)) error {
	h.mu.Lock()
	h.onCollective = on
	h.mu.Unlock()
	p := h.worker.process()
	if on == nil {
		// On a goroutine of its own, as a worker that hangs does not answer.
		go func() { _ = p.wire.Send(&message{Kind: kindTrace, Trace: &traceMessage{Hook: h.id}}, nil) }()
		return nil
	}
	return h.startTrace(context.Background(), p)
}

// startTrace has the process report the hook's collectives, if TraceCollectives was called.
func (h *Hook) startTrace(ctx context.Context, p *process) error {
	h.mu.Lock()
	on := h.onCollective
	h.mu.Unlock()
	if on == nil {
		return nil
	}
	m := &message{Kind: kindTrace, Trace: &traceMessage{Hook: h.id, On: true}}
	if _, err := p.ask(ctx, "tracing hook "+h.Name(), 0, m, nil); err != nil {
		return h.fail(nil, c10d.ErrBadArguments, err)
	}
	return nil
}

// trace passes a collective on to the hook's function.
func (w *Worker) trace(m *traceMessage) {
	if m.Collective == nil {
		return
	}
	w.mu.Lock()
	var on func(c10d.Collective)
	for _, h := range w.hooks {
		if h.id == m.Hook {
			h.mu.Lock()
			on = h.onCollective
			h.mu.Unlock()
		}
	}
	w.mu.Unlock()
	if on != nil {
		on(*m.Collective)
	}
}

// trace reports the collectives of a hook to the trainer.
func (s *server) trace(m *traceMessage) error {
	hook := find(s, s.hooks, m.Hook)
	if hook == nil {
		return fmt.Errorf("hook %d: %w", m.Hook, c10d.ErrClosed)
	}
	s.tracing.Lock()
	defer s.tracing.Unlock()
	if !m.On {
		return hook.TraceCollectives(nil)
	}
	return hook.TraceCollectives(func(c c10d.Collective) {
		report := &traceMessage{Hook: m.Hook, Collective: &c}
		_ = s.wire.Send(&message{Kind: kindTrace, Trace: report}, nil)
	})
}
