package ddp

import (
	"context"
	"encoding/json"
	"fmt"

	"pyhook/c10d"
)

// standing is what a rank says of itself when the ranks meet to recover.
type standing struct {
	Steps   uint64 `json:"steps"`             // that counted
	Retired bool   `json:"retired,omitempty"` // its group is
	Error   string `json:"error,omitempty"`   // why it cannot recover
}

// Recover makes the process group anew after a step that failed (a StepError, and an OutOfStepError
// of what came after), in the same processes, on all ranks. A collective of the ranks that Options.Group
// has: each calls it, whichever rank the failure was on. What holds the groups, hooks' states too,
// holds the new ones afterwards. Hooks, buckets and parameters stay, and so do the hook's state, which
// with Options.Rollback goes back to what it was before the step that failed. The trainer then does
// the step again. Where the group is a worker's, the workers start again and go back to their
// snapshots.
//
// It returns nil on every rank or an error on every rank, and may be called again then; but a rank
// whose process is gone does not come back, and the others' error names it. Without AgreementVote, and
// for a hook with a state without Rollback, there is no way back: the error says so. Where nothing
// failed Recover only waits for the other ranks, and where the group is still in step (see StepError)
// it puts back the hook's state alone.
func (r *Reducer) Recover(ctx context.Context) error {
	rank := r.opts.Group.Rank()
	a := r.agreement
	if r.opts.Group.Size() == 1 {
		return r.restoreHook(ctx)
	}
	if a == nil {
		return fmt.Errorf("ddp, rank %d: Recover needs Options.Agreement: AgreementVote: the ranks know nothing of each other's failures", rank)
	}
	mine, renewal := r.standing()
	text, err := json.Marshal(mine)
	if err != nil {
		return err
	}
	texts, err := a.member.Meet(ctx, text)
	if err != nil {
		return a.meetingError(rank, recovering, err)
	}
	all := make([]standing, len(texts))
	for other, text := range texts {
		if err := json.Unmarshal(text, &all[other]); err != nil {
			return r.cannotRecover("what rank %d says cannot be read: %v", other, err)
		}
	}
	if err := r.checkStandings(all); err != nil {
		return err
	}
	if mine.Retired {
		err = renewal.Renew(ctx)
	}
	if err == nil {
		err = r.restoreHook(ctx)
	}
	return a.together(ctx, rank, recovering, err)
}

const recovering = "Recover"

// standing returns what this rank has to say, and the group's renewal.
func (r *Reducer) standing() (standing, c10d.Renewal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	mine := standing{Steps: r.committed}
	group, renewable := r.opts.Group.(c10d.RenewableGroup)
	out := inStep(r.opts.Group)
	mine.Retired = out != nil
	switch hook, restorable := r.opts.Hook.(c10d.RestorableHook); {
	case r.closed:
		mine.Error = ErrClosed.Error()
	case r.broken != nil:
		mine.Error = r.broken.Error()
	case r.waiting, out == nil && r.step.begun:
		mine.Error = "a step is under way: call Wait first"
	case out == nil:
	case !renewable:
		mine.Error = fmt.Sprintf("a %T cannot be made anew (c10d.RenewableGroup)", r.opts.Group)
	case restorable && hook.HasState() && !r.opts.Rollback:
		mine.Error = "the hook has a state, which the step that failed may have changed on some ranks: set Options.Rollback"
	case r.unsaved != nil:
		mine.Error = "the hook's state of before the step could not be kept: " + r.unsaved.Error()
	}
	if !renewable {
		return mine, nil
	}
	return mine, group.Renewal()
}

// checkStandings says why the ranks cannot go on from where they stand: on all of them alike.
func (r *Reducer) checkStandings(all []standing) error {
	for other, s := range all {
		switch first := all[0]; {
		case s.Error != "":
			return r.cannotRecover("rank %d: %s", other, s.Error)
		case s.Steps != first.Steps:
			return r.cannotRecover("rank 0 has done %d steps and rank %d %d: one has a step that the other lost", first.Steps, other, s.Steps)
		case s.Retired != first.Retired:
			return r.cannotRecover("the last step failed on rank %d and not on rank %d: call it on every rank after a step that failed", map[bool]int{true: 0, false: other}[first.Retired], map[bool]int{true: other, false: 0}[first.Retired])
		}
	}
	return nil
}

func (r *Reducer) cannotRecover(format string, args ...any) error {
	return &c10d.Error{Op: recovering, Rank: r.opts.Group.Rank(), Bucket: -1, Code: c10d.ErrOutOfStep, Detail: fmt.Sprintf(format, args...),
		Hint: "end all ranks and start them again from a checkpoint (torchrun does)"}
}

// restoreHook puts the hook's state back after a step that failed, with Rollback.
func (r *Reducer) restoreHook(ctx context.Context) error {
	r.mu.Lock()
	hook, ok := r.opts.Hook.(c10d.RestorableHook)
	restore := ok && r.restorable
	r.mu.Unlock()
	if !restore {
		return nil
	}
	return hook.Restore(ctx)
}

// snapshotHook, before the first hook call of a step, keeps the hook's state for Recover.
func (r *Reducer) snapshotHook(s *step) {
	if hook, ok := r.opts.Hook.(c10d.RestorableHook); ok && r.opts.Rollback && hook.HasState() {
		s.unsaved = hook.Snapshot(s.ctx)
		s.snapshot = s.unsaved == nil
	}
}
