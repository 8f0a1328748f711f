package ddp

import (
	"sync"

	"pyhook/c10d"
)

// turns has the Reducer whose step is under way, by group: from its first mark to the end of its Wait.
// A second one's launcher would issue its collectives beside the first one's, on each rank in another
// order, and they would meet those of other buckets: of one size, without an error. Each rank has its
// own turns: where the ranks' programs take the steps in another order, the votes fail.
var turns = struct {
	mu       sync.Mutex
	reducers map[c10d.ProcessGroup]*Reducer
}{reducers: map[c10d.ProcessGroup]*Reducer{}}

// mayBegin returns the error of parameter i's mark while another Reducer has the turn, or nil.
func (r *Reducer) mayBegin(i int) error {
	turns.mu.Lock()
	defer turns.mu.Unlock()
	return r.turnError(i)
}

// takeTurn takes the turn at the first mark, parameter i's. A world of one has no turns.
func (r *Reducer) takeTurn(i int) error {
	if r.opts.Group.Size() == 1 {
		return nil
	}
	turns.mu.Lock()
	defer turns.mu.Unlock()
	if err := r.turnError(i); err != nil {
		return err
	}
	turns.reducers[r.opts.Group] = r
	return nil
}

// turnError is mayBegin's. The caller holds turns.mu.
func (r *Reducer) turnError(i int) error {
	if has := turns.reducers[r.opts.Group]; has == nil || has == r {
		return nil
	}
	return &ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[i].Name}, Code: ErrOtherStep,
		Hint: "call the other Reducer's Wait first, or give each Reducer a group of its own (NewGroup)"}
}

func (r *Reducer) leaveTurn() {
	turns.mu.Lock()
	defer turns.mu.Unlock()
	if turns.reducers[r.opts.Group] == r {
		delete(turns.reducers, r.opts.Group)
	}
}
