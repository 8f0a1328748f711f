package ddp

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pyhook/c10d"
	"pyhook/ddp/internal/commit"
)

// standing is what a rank says of itself when the ranks meet to recover.
type standing struct {
	Steps   uint64 `json:"steps"`             // that counted
	Votes   uint64 `json:"votes"`             // the number of the next one
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
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if closed {
		return ErrClosed
	}
	mine, renewal := r.standing()
	if r.opts.Group.Size() == 1 {
		if err := r.checkStandings([]standing{mine}); err != nil {
			return err
		}
		return r.renew(ctx, renewal, mine.Retired)
	}
	if a == nil {
		return fmt.Errorf("ddp, rank %d: Recover needs Options.Agreement: AgreementVote: the ranks know nothing of each other's failures", rank)
	}
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
	retired := slices.ContainsFunc(all, func(s standing) bool { return s.Retired })
	r.mu.Lock()
	for _, s := range all { // a rank whose marks were refused has not voted
		a.step = max(a.step, s.Votes)
	}
	maps.DeleteFunc(a.failed, func(step uint64, _ *commit.Failure) bool { return step < a.step })
	r.mu.Unlock()
	err = a.together(ctx, rank, recovering, r.renew(ctx, renewal, retired))
	if err == nil {
		r.mu.Lock()
		r.out = nil
		r.mu.Unlock()
	}
	return err
}

// renew makes the group anew, if it is retired, and puts the hook's state back.
func (r *Reducer) renew(ctx context.Context, renewal c10d.Renewal, retired bool) error {
	if retired {
		if err := renewal.Renew(ctx); err != nil {
			return err
		}
	}
	return r.restoreHook(ctx)
}

const recovering = "Recover"

// standing returns what this rank has to say, and the group's renewal.
func (r *Reducer) standing() (standing, c10d.Renewal) {
	hook, restorable := r.opts.Hook.(c10d.RestorableHook)
	stateful := restorable && hook.HasState() // may call Python, so without the mutex
	r.mu.Lock()
	defer r.mu.Unlock()
	mine := standing{Steps: r.committed}
	if r.agreement != nil {
		mine.Votes = r.agreement.step
	}
	group, renewable := r.opts.Group.(c10d.RenewableGroup)
	mine.Retired = inStep(r.opts.Group) != nil || renewable && group.Renewal().Retired()
	switch {
	case r.closed:
		mine.Error = ErrClosed.Error()
	case r.broken != nil:
		mine.Error = withoutHint(r.broken.Error())
	case r.waiting, r.step.begun:
		mine.Error = "a step is under way: call Wait first"
	case r.unsaved != nil:
		mine.Error = "the state of hook " + r.hookName() + " of before the step could not be kept: " + withoutHint(r.unsaved.Error()) // Recover cannot do what it says
	case !mine.Retired:
	case !renewable:
		mine.Error = fmt.Sprintf("a %T cannot be made anew (c10d.RenewableGroup)", r.opts.Group)
	case group.Renewal().Ranks() != group.Size():
		mine.Error = fmt.Sprintf("the group has %d ranks of the %d that would have to make their groups anew together", group.Size(), group.Renewal().Ranks())
	case stateful && !r.opts.Rollback:
		mine.Error = "hook " + r.hookName() + " has a state, which the step that failed may have changed on some ranks: set Options.Rollback"
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
		}
	}
	return nil
}

// withoutHint leaves out of an error's text what it says to do.
func withoutHint(text string) string {
	if at := strings.LastIndex(text, "\nhint: "); at >= 0 {
		return text[:at]
	}
	return text
}

func (r *Reducer) cannotRecover(format string, args ...any) error {
	return &c10d.Error{Op: recovering, Rank: r.opts.Group.Rank(), Bucket: -1, Code: c10d.ErrOutOfStep, Detail: fmt.Sprintf(format, args...),
		Hint: startAgain}
}

// restoreHook puts the hook's state back after a step that failed, with Rollback.
func (r *Reducer) restoreHook(ctx context.Context) error {
	r.mu.Lock()
	hook, ok := r.opts.Hook.(c10d.RestorableHook)
	restore := ok && r.lastFailed != nil && r.kept
	r.mu.Unlock()
	if !restore {
		return nil
	}
	return hook.Restore(ctx)
}

// snapshotHook keeps the hook's state for Recover, after each step that counts and before the first: a
// worker that dies later takes nothing along. Between two steps.
func (r *Reducer) snapshotHook(ctx context.Context) {
	hook, ok := r.opts.Hook.(c10d.RestorableHook)
	if !ok || !r.opts.Rollback || !hook.HasState() {
		return
	}
	err := hook.Snapshot(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept, r.unsaved = err == nil, err
}
