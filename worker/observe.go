package worker

import (
	"context"
	"fmt"

	"pyhook/c10d"
)

// observation is of a hook's collectives: the trainer asks with On, the worker tells
// with Collective.
type observation struct {
	Hook       uint64
	On         bool
	Collective *c10d.Collective
}

// TraceCollectives tells on of every collective that the hook issues from now on, also after a
// Restart: see c10d.TracedHook. on runs on a goroutine that reads what
// the worker sends, so it must be short; the last collectives of a step may come a
// moment after its futures. nil ends it. Not while a call is inside.
func (h *Hook) TraceCollectives(on func(c10d.Collective)) error {
	h.mu.Lock()
	h.onCollective = on
	h.mu.Unlock()
	p := h.worker.process()
	if on == nil {
		// On a goroutine of its own, as a worker that hangs does not answer.
		go func() { _ = p.wire.send(&message{Kind: kindObserve, Observed: &observation{Hook: h.id}}, nil) }()
		return nil
	}
	return h.observe(context.Background(), p)
}

// observe asks a process to tell, if anybody wants to know.
func (h *Hook) observe(ctx context.Context, p *process) error {
	h.mu.Lock()
	on := h.onCollective
	h.mu.Unlock()
	if on == nil {
		return nil
	}
	p.mu.Lock()
	p.observers[h.id] = h
	p.mu.Unlock()
	if _, err := p.ask(ctx, "observing hook "+h.Name(), 0, &message{Kind: kindObserve, Observed: &observation{Hook: h.id, On: true}}, nil); err != nil {
		return h.fail(nil, c10d.ErrBadArguments, err)
	}
	return nil
}

// observed passes on what the worker told.
func (p *process) observed(o *observation) {
	p.mu.Lock()
	h := p.observers[o.Hook]
	p.mu.Unlock()
	if h == nil || o.Collective == nil {
		return
	}
	h.mu.Lock()
	on := h.onCollective
	h.mu.Unlock()
	if on != nil {
		on(*o.Collective)
	}
}

// observe has a hook's collectives told to the trainer.
func (s *server) observe(m *observation) error {
	hook := find(s, s.hooks, m.Hook)
	if hook == nil {
		return fmt.Errorf("hook %d: %w", m.Hook, c10d.ErrClosed)
	}
	if !m.On {
		return hook.TraceCollectives(nil)
	}
	return hook.TraceCollectives(func(c c10d.Collective) {
		_ = s.wire.send(&message{Kind: kindObserve, Observed: &observation{Hook: m.Hook, Collective: &c}}, nil)
	})
}
