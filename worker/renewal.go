package worker

import "context"

// Generation counts the Restarts that succeeded: see c10d.Renewal.
func (w *Worker) Generation() int { return int(w.generation.Load()) }

// Retire: see c10d.Renewal.
func (w *Worker) Retire() {}

// Renew is Restart: see c10d.Renewal.
func (w *Worker) Renew(ctx context.Context) error {
	_, err := w.Restart(ctx)
	return err
}
