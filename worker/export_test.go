package worker

import "context"

// WaitForSnapshot returns when no snapshot is being made.
func WaitForSnapshot(ctx context.Context, h *Hook) error { return h.saved(ctx) }
