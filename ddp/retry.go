package ddp

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pyhook/c10d"
)

// retries is how often Retry does a step again.
const retries = 3

// Retry does a step, and does it again after a failure on any rank, until it counts on all of them:
//
//	err := ddp.Retry(ctx, reducer, func() error {
//	    backward(reducer)               // marks the gradients
//	    _, err := reducer.Wait(ctx)
//	    return err
//	})
//	if err != nil { return err }        // the same on every rank
//	optimise()
//
// Every rank calls it for every step, with a step that ends with Wait and changes nothing that is
// not made anew when it is called again: weights change after Retry, and NoSync is called in step. A
// step that counts is never done again: an error that step returns after its Wait is returned. After
// a failure the ranks Recover. An error of step's own, before its Wait, is a failure of the step too,
// and the other ranks hear it; so is a nil where its Wait failed, or was not called though gradients
// were marked. After the third failure of one step in a row Retry gives up, with the
// last error: a hook that always raises would raise for ever; the next step is then refused until
// Recover. Errors of Recover, of ctx, ErrClosed and what a later try cannot change (a *ParameterError,
// on any rank) are returned at once.
func Retry(ctx context.Context, r *Reducer, step func() error) error {
	if r == nil {
		return errors.New("ddp: Retry without a Reducer: it is nil (that of adapters/gomlx is, until a step has gradients to reduce)")
	}
	if hook, ok := r.opts.Hook.(c10d.RestorableHook); ok && hook.HasState() && !r.opts.Rollback {
		return fmt.Errorf("ddp, rank %d: Retry with a hook that has a state needs Options.Rollback, to do the step again from the same state: hook %s", r.opts.Group.Rank(), r.hookName())
	}
	r.mu.Lock()
	carries := slices.ContainsFunc(r.carried, func(c carry) bool { return c.used })
	r.mu.Unlock()
	if carries {
		return fmt.Errorf("ddp, rank %d: Retry after NoSync: call NoSync in the function, which makes all gradients of the step anew", r.opts.Group.Rank())
	}
	for try := 1; ; try++ {
		counted, _ := r.counted()
		err := r.endOfTry(r.endedSteps(), step)
		if err == nil {
			return nil
		}
		switch now, joined := r.counted(); {
		case now == counted:
		case joined: // Join goes on from the step that failed
			counted, try = now, 1
		default:
			return fmt.Errorf("ddp, rank %d: the step counts on all ranks, and is not done again, but its function failed after Wait: %w", r.opts.Group.Rank(), err)
		}
		err = r.Leave(ctx, err)
		if !mayPass(ctx, err) {
			return err
		}
		if try == retries {
			return fmt.Errorf("ddp, rank %d: Retry gave up after %d tries: %w", r.opts.Group.Rank(), retries, err)
		}
		if failed := r.Recover(ctx); failed != nil {
			return errors.Join(failed, err)
		}
	}
}

// counted returns how many steps counted, and whether the last one that ended was Join's.
func (r *Reducer) counted() (steps uint64, joined bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.committed, r.lastJoined
}

// endedSteps returns how many Waits have ended a step.
func (r *Reducer) endedSteps() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waits
}

// endOfTry does a try of the step, and returns what it ended with: with what Wait returned too, if that
// failed and the function does not say so, as the other ranks go by it.
func (r *Reducer) endOfTry(before uint64, function func() error) error {
	err := function()
	r.mu.Lock()
	defer r.mu.Unlock()
	var step *StepError
	switch failed := r.lastFailed; {
	case r.waits > before && failed != nil && !errors.As(err, &step):
		return errors.Join(failed, err)
	case err == nil && r.step.begun:
		return fmt.Errorf("ddp, rank %d: Retry: the function returned nil before its Wait, with gradients marked: return the error that it had", r.opts.Group.Rank())
	}
	return err
}

// mayPass reports whether the step may be good when it is done again. err is the same on all ranks.
func mayPass(ctx context.Context, err error) bool {
	var step *StepError
	if !errors.As(err, &step) || ctx.Err() != nil {
		return false
	}
	for _, code := range []c10d.Code{ErrNotReady, ErrReadyTwice, ErrGraphChanged, ErrSparse, ErrMismatch, ErrValues, ErrOverlap} {
		if step.Code == code {
			return false
		}
	}
	return true
}

// Leave ends this rank's step by an error of its own, before Wait: a batch that cannot be read, or a
// loss that is not finite. The step then fails on every rank, whose Wait returns the error. Leave returns
// it as Wait would. Where the step has ended already and err is Wait's, it does nothing.
func (r *Reducer) Leave(ctx context.Context, err error) error {
	var step *StepError
	var out *OutOfStepError
	if errors.As(err, &step) || errors.Is(err, ErrClosed) {
		return err
	}
	r.mu.Lock()
	if errors.As(err, &out) && !r.step.begun {
		r.mu.Unlock()
		return err
	}
	if r.broken == nil && !r.closed {
		r.step.left = err
		r.stopLocked(r.step, err)
	}
	r.mu.Unlock()
	_, failed := r.Wait(ctx)
	if failed == nil { // in NoSync
		return err
	}
	return failed
}
