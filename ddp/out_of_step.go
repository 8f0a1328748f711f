package ddp

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"

	"pyhook/c10d"
)

// RenewableGroup is a process group that can be made anew where it stands, as a worker's is by
// worker.Restart. A Reducer that is out of step goes on once its group was renewed.
type RenewableGroup interface {
	c10d.ProcessGroup
	// Generation counts how often the group was made anew: on every rank of it alike.
	Generation() int
}

// OutOfStepError is what every mark and Wait, of every Reducer over the group, gives after a step
// that failed on this rank, while other ranks may be in that step still; and so do NewReducer,
// VerifyParameters and BroadcastParameters. A collective of a later step could meet one of theirs
// and add up gradients of different buckets, on every rank and without an error.
type OutOfStepError struct {
	Rank  int
	Cause error // why the step failed; not unwrapped: this is no failure of a hook
}

func (e *OutOfStepError) Error() string {
	return fmt.Sprintf("ddp, rank %d: %v: its last step failed, and other ranks may still wait in that step's collectives: %v\n"+
		"hint: end all ranks and start them again from a checkpoint (torchrun does); with hooks in workers, call worker.Restart on every rank",
		e.Rank, c10d.ErrOutOfStep, e.Cause)
}

// Unwrap returns c10d.ErrOutOfStep.
func (e *OutOfStepError) Unwrap() error { return c10d.ErrOutOfStep }

// outOfStep has the groups in whose collectives other ranks may still wait: those of steps that
// failed on this rank. Every Reducer over such a group refuses to go on, also one that is made later,
// until the group is made anew.
var outOfStep = struct {
	count  atomic.Int32 // of groups: marks ask it, and take no lock where it is zero
	mu     sync.Mutex
	groups map[c10d.ProcessGroup]failedStep
}{groups: map[c10d.ProcessGroup]failedStep{}}

type failedStep struct {
	err        *OutOfStepError
	generation int
}

// generationOf returns 0 for a group that cannot be renewed.
func generationOf(group c10d.ProcessGroup) int {
	if g, ok := group.(RenewableGroup); ok {
		return g.Generation()
	}
	return 0
}

// leaveGroup notes that a step over the group failed on this rank.
func leaveGroup(group c10d.ProcessGroup, cause error) {
	outOfStep.mu.Lock()
	defer outOfStep.mu.Unlock()
	outOfStep.groups[group] = failedStep{&OutOfStepError{Rank: group.Rank(), Cause: cause}, generationOf(group)}
	outOfStep.count.Store(int32(len(outOfStep.groups)))
}

// inStep returns the *OutOfStepError of the group, unless it was renewed since.
func inStep(group c10d.ProcessGroup) error {
	if outOfStep.count.Load() == 0 {
		return nil
	}
	outOfStep.mu.Lock()
	defer outOfStep.mu.Unlock()
	failed, ok := outOfStep.groups[group]
	if !ok {
		return nil
	}
	if generationOf(group) == failed.generation {
		return failed.err
	}
	delete(outOfStep.groups, group)
	outOfStep.count.Store(int32(len(outOfStep.groups)))
	return nil
}

// checkGroup returns why no collective of this package may be issued over the group, or nil.
func checkGroup(group c10d.ProcessGroup) error {
	switch {
	case group == nil:
		return errors.New("ddp: the process group (Options.Group) is nil")
	case !reflect.ValueOf(group).Comparable():
		return fmt.Errorf("ddp: a %T cannot be compared with ==: give a pointer as the process group", group)
	}
	return inStep(group)
}

// leaveStepLocked notes that this rank left step s with an error. The next step may begin only
// where all ranks left s at the same point: a world of one, the end of Join, and errors that
// this package finds in results whose collectives are all over (CheckFinite, LateWrites).
func (r *Reducer) leaveStepLocked(s *step, err error) {
	switch {
	case err == nil, r.opts.Group.Size() == 1, s.reduced, errors.Is(err, errAllJoined):
		return
	}
	leaveGroup(r.opts.Group, err)
}
