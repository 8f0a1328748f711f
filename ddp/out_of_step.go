package ddp

import (
	"errors"
	"fmt"

	"pyhook/c10d"
)

// RenewableGroup is a process group that can be made anew where it stands, as a worker's is by
// worker.Restart. A Reducer that is out of step goes on once its group was renewed.
type RenewableGroup interface {
	c10d.ProcessGroup
	// Generation counts how often the group was made anew: on every rank of it alike.
	Generation() int
}

// OutOfStepError is what every mark and Wait gives after a step that failed on this rank, while
// other ranks may be in that step still. A collective of a later step could meet one of theirs
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

// generation is that of the group; 0 for one that cannot be renewed.
func (r *Reducer) generation() int {
	if g, ok := r.opts.Group.(RenewableGroup); ok {
		return g.Generation()
	}
	return 0
}

// leaveStepLocked notes that this rank left step s with an error. The next step may begin only
// where all ranks left s at the same point: a world of one, the end of Join, and errors that
// this package finds in results whose collectives are all over (CheckFinite, LateWrites).
func (r *Reducer) leaveStepLocked(s *step, err error) {
	switch {
	case err == nil, r.opts.Group.Size() == 1, s.reduced, errors.Is(err, errAllJoined):
		return
	}
	r.outOfStep, r.failedIn = &OutOfStepError{Rank: r.opts.Group.Rank(), Cause: err}, r.generation()
}

// inStepLocked returns the *OutOfStepError of this rank, unless its group was renewed since.
func (r *Reducer) inStepLocked() error {
	if r.outOfStep == nil {
		return nil
	}
	if r.generation() == r.failedIn {
		return r.outOfStep
	}
	r.outOfStep = nil
	return nil
}
