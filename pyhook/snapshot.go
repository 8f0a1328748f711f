package pyhook

import (
	"context"
	"errors"
	"sync"

	"pyhook/c10d"
)

// snapshot is a copy of a hook's state, as SaveState writes it.
type snapshot struct {
	mu   sync.Mutex
	data []byte // nil: there is none
}

// HasState: see c10d.RestorableHook. What a callable object, a bound method or a partial holds is
// state too.
func (h *PythonCommHook) HasState() bool {
	has, err := moduleValue(stateModule, "has_state", h.hook, h.State())
	return err != nil || has != false // Snapshot has the error
}

// Snapshot: see c10d.RestorableHook. It keeps what SaveState would write, and what that leaves out
// Restore leaves as it is. The error is SaveState's.
func (h *PythonCommHook) Snapshot(ctx context.Context) error {
	h.kept.mu.Lock()
	defer h.kept.mu.Unlock()
	data, err := h.stateBytes(ctx, stateOptions{})
	if err != nil {
		return h.stateError(err)
	}
	h.kept.data = data
	return nil
}

// Restore: see c10d.RestorableHook. The error is LoadState's.
func (h *PythonCommHook) Restore(ctx context.Context) error {
	h.kept.mu.Lock()
	defer h.kept.mu.Unlock()
	if h.kept.data == nil {
		return h.stateError(errors.New("there is no Snapshot of it"))
	}
	if _, err := h.callState(ctx, "put_back_hook", h.kept.data, h.hook, h.State()); err != nil {
		return h.stateError(err)
	}
	return nil
}

var _ c10d.RestorableHook = (*PythonCommHook)(nil)

// snapshotAnew replaces the Snapshot, if there is one, by the state that was just loaded: Restore shall
// not go back behind that.
func (h *PythonCommHook) snapshotAnew(ctx context.Context) error {
	h.kept.mu.Lock()
	kept := h.kept.data != nil
	h.kept.mu.Unlock()
	if !kept {
		return nil
	}
	return h.Snapshot(ctx)
}
