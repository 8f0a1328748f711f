package ddp

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"

	"pyhook/c10d"
)

// OutOfStepError is what every mark and Wait, of every Reducer over the group, gives after a step
// that failed, until Reducer.Recover; and so do NewReducer, VerifyParameters and
// BroadcastParameters. Collectives of that step may still be under way on some rank. One of a later
// step could meet them and add up gradients of different buckets, on every rank and without an
// error.
type OutOfStepError struct {
	Rank  int
	Cause error // why the step failed; not unwrapped: this is no failure of a hook
}

func (e *OutOfStepError) Error() string {
	return fmt.Sprintf("ddp, rank %d: %v: the last step failed, and some rank may still wait in its collectives: %v\n"+
		"hint: call Reducer.Recover on every rank before it is closed (ddp.Retry does), or end all ranks and start them again from a checkpoint (torchrun does)",
		e.Rank, c10d.ErrOutOfStep, e.Cause)
}

// Unwrap returns c10d.ErrOutOfStep.
func (e *OutOfStepError) Unwrap() error { return c10d.ErrOutOfStep }

// outOfStep has the groups in whose collectives other ranks may still wait: those of steps that
// failed. Every Reducer over such a group refuses to go on, also one that is made later, until the
// group is made anew.
var outOfStep = struct {
	count  atomic.Int32 // of groups: marks ask it, and take no lock where it is zero
	mu     sync.Mutex
	groups map[any]failedStep // by fate
}{groups: map[any]failedStep{}}

type failedStep struct {
	err        *OutOfStepError
	generation int
}

// fate is the same for groups that are retired together.
func fate(group c10d.ProcessGroup) any {
	if g, ok := group.(c10d.RenewableGroup); ok {
		return g.Renewal()
	}
	return group
}

// generationOf returns 0 for a group that cannot be renewed.
func generationOf(group c10d.ProcessGroup) int {
	if g, ok := group.(c10d.RenewableGroup); ok {
		return g.Renewal().Generation()
	}
	return 0
}

// retireGroup notes that a step over the group failed, and retires it, so that no rank waits in
// that step any longer. The first cause in a generation stays.
func retireGroup(group c10d.ProcessGroup, cause error) {
	outOfStep.mu.Lock()
	defer outOfStep.mu.Unlock()
	key, generation := fate(group), generationOf(group)
	if known, ok := outOfStep.groups[key]; !ok || known.generation != generation {
		outOfStep.groups[key] = failedStep{&OutOfStepError{Rank: group.Rank(), Cause: cause}, generation}
	}
	outOfStep.count.Store(int32(len(outOfStep.groups)))
	if g, ok := group.(c10d.RenewableGroup); ok {
		g.Renewal().Retire()
	}
}

// inStep returns the *OutOfStepError of the group, unless it was renewed since.
func inStep(group c10d.ProcessGroup) error {
	if outOfStep.count.Load() == 0 {
		return nil
	}
	outOfStep.mu.Lock()
	defer outOfStep.mu.Unlock()
	failed, ok := outOfStep.groups[fate(group)]
	if !ok {
		return nil
	}
	if generationOf(group) == failed.generation {
		return failed.err
	}
	delete(outOfStep.groups, fate(group))
	outOfStep.count.Store(int32(len(outOfStep.groups)))
	return nil
}

// checkGroup returns why no collective of this package may be issued over the group, or nil.
func checkGroup(group c10d.ProcessGroup) error {
	switch {
	case group == nil, isNilPointer(group):
		return errors.New("ddp: the process group (Options.Group) is nil")
	case !reflect.ValueOf(group).Comparable():
		return fmt.Errorf("ddp: a %T cannot be compared with ==: give a pointer as the process group", group)
	}
	return inStep(group)
}

// leaveStepLocked notes that this rank left step s with an error. The next step may begin only
// where all ranks left s at the same point: a world of one, the end of Join, and errors that are
// found when the collectives of every rank are over (CheckFinite, LateWrites).
func (r *Reducer) leaveStepLocked(s *step, err error) {
	switch {
	case err == nil, r.opts.Group.Size() == 1, s.reduced, errors.Is(err, errAllJoined):
		return
	}
	retireGroup(r.opts.Group, err)
	if r.agreement != nil {
		r.out = inStep(r.opts.Group)
	}
}
