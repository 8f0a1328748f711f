package ddp

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pyhook/c10d"
	"pyhook/ddp/internal/commit"
)

// checkDigests says why Options.DigestEvery cannot be done.
func checkDigests(params []*c10d.Parameter, m memories, opts Options) error {
	switch {
	case opts.DigestEvery == 0:
		return nil
	case opts.DigestEvery < 0:
		return fmt.Errorf("Options.DigestEvery is %d: it is a number of steps, or 0 for never", opts.DigestEvery)
	case !opts.votes():
		return errors.New("Options.DigestEvery needs AgreementVote: the ranks compare their parameters in their votes")
	}
	for i, p := range params {
		if _, err := valuesOf(i, p, m); err != nil {
			return fmt.Errorf("Options.DigestEvery: %w: give every parameter its values (Parameter.Data), contiguous", err)
		}
	}
	return nil
}

// comparesLocked reports whether the ranks compare their parameters in this step.
func (r *Reducer) comparesLocked() bool {
	return r.opts.DigestEvery > 0 && r.agreement != nil && r.committed%uint64(r.opts.DigestEvery) == 0
}

// takeDigestsLocked, by the launcher before the step's first hook, which may change values, waits for
// the step to begin and takes the digests that the vote will compare. A rank that has joined has no
// model to compare. The backward pass, which only reads values, goes on meanwhile.
func (r *Reducer) takeDigestsLocked(s *step) {
	for !s.begun && s.stop == nil {
		r.idleLocked()
	}
	if s.stop != nil || s.joined {
		return
	}
	r.mu.Unlock()
	digests, err := digestsOf(r.params, r.values)
	r.mu.Lock()
	if err != nil {
		r.stopLocked(s, &ParameterError{Rank: r.opts.Group.Rank(), Names: []string{err.name}, Code: ErrStep, Detail: err.Error(),
			Hint: "Options.DigestEvery reads them: they stay open as long as the Reducer"})
		return
	}
	s.digests = digests
}

// differentValues, on rank 0, makes the failure of a step in which the ranks' values differ, nil
// where they do not. digests are nil of a rank that has joined. It began on the first rank outside of
// the largest group that has the first such parameter alike, of equal groups outside of rank 0's.
func differentValues(params []*c10d.Parameter, digests [][]byte) *commit.Failure {
	for i, p := range params {
		groups := alike(digests, i*sha256.Size)
		if len(groups) < 2 {
			continue
		}
		largest := groups[0]
		for _, g := range groups {
			if len(g) > len(largest) {
				largest = g
			}
		}
		origin := slices.IndexFunc(digests, func(d []byte) bool { return d != nil })
		for slices.Contains(largest, origin) || digests[origin] == nil {
			origin++
		}
		e := valuesError(0, i, p, groups)
		cause, err := json.Marshal(failureText{Bucket: -1, Names: e.Names, Code: e.Code, Detail: e.Detail, Hint: e.Hint, Common: true})
		if err != nil {
			cause = nil // cannot be: strings
		}
		return &commit.Failure{Rank: origin, Over: true, Cause: cause}
	}
	return nil
}

// valuesError says which ranks have parameter i alike.
func valuesError(rank, i int, p *c10d.Parameter, groups [][]int) *ParameterError {
	names := make([]string, len(groups))
	for k, ranks := range groups {
		names[k] = rankNames(ranks)
	}
	return &ParameterError{Rank: rank, Names: []string{p.Name}, Code: ErrValues,
		Detail: fmt.Sprintf("parameter %d, the first of them, has one value on %s", i, strings.Join(names, ", another on ")),
		Hint:   "broadcast the parameters at the start and after loading a checkpoint, give all ranks the same optimiser, and update parameters from reduced gradients only"}
}

// alike groups the ranks that have the same digest at an offset of their lists, by the first of each
// group. A nil list is of no group.
func alike(lists [][]byte, offset int) (groups [][]int) {
	at := map[string]int{} // in groups
	for rank, list := range lists {
		if list == nil {
			continue
		}
		digest := string(list[offset : offset+sha256.Size])
		k, known := at[digest]
		if !known {
			k = len(groups)
			at[digest], groups = k, append(groups, nil)
		}
		groups[k] = append(groups[k], rank)
	}
	return groups
}

// rankNames is "rank 0" or "ranks 1, 2 and 3".
func rankNames(ranks []int) string {
	names := make([]string, len(ranks))
	for k, rank := range ranks {
		names[k] = fmt.Sprint(rank)
	}
	last := len(names) - 1
	if last == 0 {
		return "rank " + names[0]
	}
	return "ranks " + strings.Join(names[:last], ", ") + " and " + names[last]
}
