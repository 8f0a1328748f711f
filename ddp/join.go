package ddp

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/tensor"
)

// errAllJoined ends the step that no rank has data for.
var errAllJoined = errors.New("all ranks have joined")

// Join is what a rank does that has no more data while others may have
// (torch.distributed.algorithms.Join): it goes on with steps whose gradients are
// zero, hooks and all, until every rank has called Join. Options.Join must be
// set on every rank; then each step begins with an all-reduce of who has data.
// Hooks that average go on to divide by the number of all ranks.
//
// Results are not for this rank: its weights stay what they were. last is the
// highest of the ranks that had data in the last step, -1 if there was no such
// step: BroadcastParametersFrom it, to end with one model. It is done by Retry as steps are: a step that
// fails ends it with the error, and after Recover it goes on.
func (r *Reducer) Join(ctx context.Context) (last int, err error) {
	if !r.opts.Join {
		return 0, fmt.Errorf("ddp, rank %d: Join needs Options.Join, on every rank", r.opts.Group.Rank())
	}
	for {
		if err := r.joinStep(); err != nil {
			return 0, err
		}
		_, err := r.Wait(ctx)
		if errors.Is(err, errAllJoined) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.last, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// joinStep marks all parameters with gradients of zero.
func (r *Reducer) joinStep() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.betweenLocked("Join"); err != nil {
		return err
	}
	r.step.joined = true
	for _, b := range r.buckets {
		for _, i := range b.params {
			if err := r.zeroGradient(r.step, i); err != nil {
				return err
			}
			r.markReadyLocked(r.step, i)
		}
	}
	return nil
}

// allReduceActiveRanks, by the launcher with the mutex held, asks who has data. It
// returns whether the step may go on.
func (r *Reducer) allReduceActiveRanks(s *step) bool {
	flags := make([]int32, r.opts.Group.Size())
	if !s.joined {
		flags[r.opts.Group.Rank()] = 1
	}
	r.mu.Unlock()
	flags, err := exchange(s.ctx, flags, func(t *tensor.Tensor) (*c10d.Future[*tensor.Tensor], error) {
		return r.opts.Group.AllReduce(s.ctx, t, c10d.Sum)
	})
	r.mu.Lock()
	if err != nil {
		r.stopLocked(s, fmt.Errorf("asking which ranks have data: %w", err))
		return false
	}
	slices.Reverse(flags)
	at := slices.Index(flags, 1)
	if at < 0 {
		r.stopLocked(s, errAllJoined)
		return false
	}
	r.last = len(flags) - 1 - at
	return true
}
