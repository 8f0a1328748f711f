package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/internal/gather"
)

// Recovery says where the ranks stand after a Restart. It is the same on every rank.
type Recovery struct {
	// Completed is, for each hook in the order of their making, how many steps each
	// rank completed. Where they differ, a rank took a step that another one lost:
	// ddp.BroadcastParametersFrom the rank that is ahead makes one model of them.
	Completed [][]int64
	// Restored is, for each hook, how many steps its state has seen that was
	// restored; 0: it begins anew, or from what LoadState loaded before the first.
	// The hook counts on from there. A trainer that keeps its weights of the last
	// SnapshotEvery+1 steps can go back to them: the run is then bit by bit the one
	// in which nothing happened.
	Restored []int64
}

// Restart ends the worker's process, if it has not ended, and starts another: it
// joins the workers of the other ranks anew, loads the hooks, and restores their
// states from the last snapshot that all ranks have. Every rank must call it after a
// failure of one, also those whose worker goes on: its group is broken. Buckets and
// NewBuffer's memory stay, with what they hold. It is for callers without a ddp.Reducer, or with
// ddp.AgreementNone: a Reducer whose ranks vote goes on after its own Recover, which restarts the
// workers.
//
// Not while a hook call or a collective is being made. The error is an *Error
// (ErrStart, ErrNoRestart, ErrSnapshot); Restart may then be called again.
func (w *Worker) Restart(ctx context.Context) (Recovery, error) {
	w.restarting.Lock()
	defer w.restarting.Unlock()
	w.mu.Lock()
	former, closed, times := w.proc, w.closed, w.restarts
	w.restarts++
	w.mu.Unlock()
	switch limit := w.cfg.Restarts; {
	case closed:
		return Recovery{}, w.restartError(ErrNoRestart, c10d.ErrClosed)
	case limit < 0, limit > 0 && times >= limit:
		return Recovery{}, w.restartError(ErrNoRestart, fmt.Errorf("Config.Restarts is %d", limit))
	}
	former.kill(&Error{Code: ErrStopped}, false)
	p, err := w.launch(ctx)
	if err != nil {
		return Recovery{}, err
	}
	w.mu.Lock()
	w.proc = p
	hooks := slices.Clone(w.hooks)
	w.mu.Unlock()
	var r Recovery
	for _, h := range hooks {
		if err = h.load(ctx, p); err != nil {
			break
		}
		if err = h.recover(ctx, p, &r); err != nil {
			break
		}
		if err = h.startTrace(ctx, p); err != nil {
			break
		}
	}
	if err != nil {
		p.kill(&Error{Code: ErrStopped, Detail: "its restart failed", Err: err}, false)
		return Recovery{}, err
	}
	w.generation.Add(1)
	return r, nil
}

// NeedsRestart says whether err, of a hook call, a collective or ddp.Reducer's Wait, left the
// workers' group unusable, so that every rank must call Restart, or, with a ddp.Reducer, its Recover,
// which does and lets the Reducer go on: a worker failed, here or on another rank, another rank or the way to it is gone
// (c10d.ErrPeer), or a step failed that others may be in still (c10d.ErrOutOfStep). It is false for
// what Restart cannot mend: a worker that does not start (ErrStart, ErrNotArmed), ErrNoRestart,
// ErrSnapshot, and an exception of the hook's own, which the next step may raise again.
func NeedsRestart(err error) bool {
	is := func(code c10d.Code) bool { return errors.Is(err, code) }
	if slices.ContainsFunc([]c10d.Code{ErrStart, ErrNoRestart, ErrSnapshot, ErrNotArmed}, is) {
		return false
	}
	return slices.ContainsFunc([]c10d.Code{ErrCrashed, ErrExited, ErrHung, ErrCancelled, ErrFrozen, ErrMemory, ErrProtocol, ErrStopped,
		c10d.ErrPeer, c10d.ErrOutOfStep}, is)
}

func (w *Worker) restartError(code c10d.Code, err error) error {
	return &Error{Rank: w.cfg.rank, Bucket: -1, Code: code, Detail: err.Error(), ExitCode: -1, Err: err}
}

// recover agrees with the other ranks on the snapshot to go on from.
func (h *Hook) recover(ctx context.Context, p *process, r *Recovery) error {
	_ = h.saved(ctx) // of the process before: it has ended, with the process at the latest
	h.mu.Lock()
	mine := []int64{h.completed, -1, -1}
	for i, s := range h.snapshots {
		mine[1+i] = s.steps
	}
	h.mu.Unlock()
	all, err := gather.JSON(ctx, h.worker.group, mine)
	if err != nil {
		return err
	}
	completed := make([]int64, len(all))
	for rank, theirs := range all {
		completed[rank] = theirs[0]
	}
	common := commonSnapshot(all)
	if common < 0 {
		return h.worker.restartError(ErrSnapshot, fmt.Errorf("hook %s: the ranks have snapshots of different steps: %v", h.Name(), all))
	}
	h.mu.Lock()
	h.completed, h.reduced = common, 0
	h.snapshots = slices.DeleteFunc(h.snapshots, func(s snapshot) bool { return s.steps > common })
	data := h.snapshots[len(h.snapshots)-1].data
	h.mu.Unlock()
	r.Completed, r.Restored = append(r.Completed, completed), append(r.Restored, common)
	if data == nil {
		return nil
	}
	return h.restore(ctx, p, data)
}
