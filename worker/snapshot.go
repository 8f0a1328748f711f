package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"pyhook/c10d"
	"pyhook/internal/wholefile"
	"pyhook/pyhook"
)

// snapshot is a hook's state after so many steps. Without data it is the state that
// the hook is made with.
type snapshot struct {
	steps int64
	data  []byte
}

// keptSnapshots are enough: no rank is more than one ahead.
const keptSnapshots = 2

// saving is a snapshot that is being made, or was. err is set before done is closed.
type saving struct {
	done chan struct{}
	err  error
}

// snapshot saves the state between two steps.
func (h *Hook) snapshot(p *process, steps int64, s *saving) {
	defer close(s.done)
	data, err := h.save(context.Background(), p, true)
	if err != nil {
		s.err = err
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snapshots = append(h.snapshots, snapshot{steps, data})
	if len(h.snapshots) > keptSnapshots {
		h.snapshots = h.snapshots[1:]
	}
}

// saved waits for a snapshot that is being made, and returns its error once.
func (h *Hook) saved(ctx context.Context) error {
	h.mu.Lock()
	s := h.saving
	h.mu.Unlock()
	if s == nil {
		return nil
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.saving == s {
		h.saving = nil
		return s.err
	}
	return nil
}

// save returns the state as a file; own: as a snapshot.
func (h *Hook) save(ctx context.Context, p *process, own bool) ([]byte, error) {
	m, err := p.ask(ctx, "saving hook "+h.Name(), 0, &message{Kind: kindSave, Object: h.id, TrustAny: h.cfg.Trusted, Own: own}, nil)
	if err != nil {
		return nil, h.fail(nil, c10d.ErrState, err)
	}
	return m.Bytes, nil
}

// SaveState writes the hook's state: pyhook.PythonCommHook.SaveState, whose files it
// shares. With HookConfig.Trusted, as with pyhook.TrustState.
func (h *Hook) SaveState(ctx context.Context, w io.Writer) error {
	data, err := h.save(ctx, h.worker.process(), false)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// LoadState restores what SaveState wrote: pyhook.PythonCommHook.LoadState. Call it between two steps.
// With SnapshotEvery, Restart goes on from it until the next snapshot: load on every rank.
func (h *Hook) LoadState(ctx context.Context, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return h.fileError(err)
	}
	_ = h.saved(ctx) // of the state that this one replaces
	p := h.worker.process()
	if err := h.restore(ctx, p, data); err != nil {
		return err
	}
	h.mu.Lock()
	kept := h.kept != nil
	h.mu.Unlock()
	if !kept && h.cfg.SnapshotEvery == 0 {
		return nil
	}
	if data, err = h.save(ctx, p, true); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	loaded := snapshot{h.completed, data}
	if kept { // Restore shall not go back behind this
		h.kept = &loaded
	}
	if h.cfg.SnapshotEvery > 0 { // nor Restart
		h.snapshots = []snapshot{loaded}
	}
	return nil
}

// SaveStateFile is SaveState into a file: pyhook.PythonCommHook.SaveStateFile.
func (h *Hook) SaveStateFile(ctx context.Context, path string) error {
	data, err := h.save(ctx, h.worker.process(), false)
	if err != nil {
		return err
	}
	if err := wholefile.Write(path, wholefile.Private, func(w io.Writer) error { _, err := w.Write(data); return err }); err != nil {
		return h.fileError(fmt.Errorf("saving %s: %w", path, err))
	}
	return nil
}

// LoadStateFile is LoadState from a file.
func (h *Hook) LoadStateFile(ctx context.Context, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return h.fileError(err)
	}
	defer file.Close()
	return h.LoadState(ctx, file)
}

func (h *Hook) fileError(err error) error {
	return c10d.NewError("hook "+h.Name(), h.worker.cfg.rank, -1, c10d.ErrState, err)
}

func (h *Hook) restore(ctx context.Context, p *process, data []byte) error {
	m := &message{Kind: kindRestore, Object: h.id, Bytes: bytes.Clone(data), TrustAny: h.cfg.Trusted}
	if _, err := p.ask(ctx, "restoring hook "+h.Name(), 0, m, nil); err != nil {
		return h.fail(nil, c10d.ErrState, err)
	}
	return nil
}

// HasState: see c10d.RestorableHook.
func (h *Hook) HasState() bool {
	l := h.loaded.Load()
	return l != nil && l.hasState
}

// Snapshot: see c10d.RestorableHook. The copy is the trainer's: it outlives the worker. It does not
// depend on HookConfig.SnapshotEvery.
func (h *Hook) Snapshot(ctx context.Context) error {
	data, err := h.save(ctx, h.worker.process(), true)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept = &snapshot{h.completed, data}
	return nil
}

// Restore: see c10d.RestorableHook. Later snapshots of SnapshotEvery, of a step that is done again,
// are dropped.
func (h *Hook) Restore(ctx context.Context) error {
	_ = h.saved(ctx) // one of the step that failed
	h.mu.Lock()
	kept := h.kept
	h.mu.Unlock()
	if kept == nil {
		return h.fail(nil, c10d.ErrState, errors.New("Restore before the first Snapshot"))
	}
	if err := h.restore(ctx, h.worker.process(), kept.data); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.completed, h.reduced = kept.steps, 0
	h.snapshots = append(slices.DeleteFunc(h.snapshots, func(s snapshot) bool { return s.steps >= kept.steps }), *kept)
	if len(h.snapshots) > keptSnapshots {
		h.snapshots = h.snapshots[1:]
	}
	return nil
}

// commonSnapshot returns the latest that all ranks have, or -1.
func commonSnapshot(all [][]int64) int64 {
	latest := int64(-1)
	for _, candidate := range all[0][1:] {
		everywhere := true
		for _, theirs := range all {
			everywhere = everywhere && slices.Contains(theirs[1:], candidate)
		}
		if everywhere {
			latest = max(latest, candidate)
		}
	}
	return latest
}

func (s *server) state(m *message) (*message, error) {
	hook := find(s, s.hooks, m.Object)
	if hook == nil {
		return nil, fmt.Errorf("hook %d: %w", m.Object, c10d.ErrClosed)
	}
	var options []pyhook.StateOption
	if m.TrustAny {
		options = append(options, pyhook.TrustState())
	}
	if m.Own {
		options = append(options, pyhook.SameRun())
	}
	if m.Kind == kindRestore {
		return nil, hook.LoadState(context.Background(), bytes.NewReader(m.Bytes), options...)
	}
	var w bytes.Buffer
	err := hook.SaveState(context.Background(), &w, options...)
	return &message{Bytes: w.Bytes()}, err
}
