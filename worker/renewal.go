package worker

import (
	"context"

	"pyhook/c10d"
)

// Ranks returns the number of workers: see c10d.Renewal.
func (w *Worker) Ranks() int { return w.group.size }

// Generation counts the Restarts that succeeded: see c10d.Renewal.
func (w *Worker) Generation() int { return int(w.generation.Load()) }

// Retire ends the process, so that collectives in which other ranks wait for it fail at once: see
// c10d.Renewal.
func (w *Worker) Retire() {
	p := w.process()
	go p.kill(&Error{Rank: w.cfg.rank, Bucket: -1, Code: ErrStopped, Detail: "its groups are retired, since a step failed", Err: c10d.ErrOutOfStep}, false)
}

// Retired reports whether the process has ended, or is about to: see c10d.Renewal.
func (w *Worker) Retired() bool {
	p := w.process()
	return p.isGone() || p.isEnding()
}

// Renew is Restart: see c10d.Renewal. A hook's state is then that of its last snapshot; ddp's
// Recover puts back the one of before the failed step (Hook.Restore).
func (w *Worker) Renew(ctx context.Context) error {
	_, err := w.Restart(ctx)
	return err
}
