package ddp

import (
	"cmp"
	"fmt"
	"slices"

	"pyhook/internal/overlap"
	"pyhook/tensor"
)

// A result is written to where its gradient came from (ReadyFrom): where two gradients, or two
// elements of one, share memory, one of the results would be lost.

// checkOverlap, when all parameters are marked, says which two results would be written to the same
// memory.
func (r *Reducer) checkOverlap(s *step) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	written := map[tensor.Device]bool{}
	for _, back := range s.copyBack {
		if back != nil {
			written[back.Device()] = true
		}
	}
	for device := range written {
		// Spans are few and quickly compared; only where one has gaps it takes a look at its rows.
		if _, _, near := overlap.Find(r.memoryLocked(s, device, appendSpan)); !near {
			continue
		}
		if a, b, found := overlap.Find(r.memoryLocked(s, device, appendRows)); found {
			return r.asStepError(&ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[a].Name, r.params[b].Name}, Code: ErrOverlap,
				Hint: "give each gradient memory of its own until Wait is over, also where it was given to ReadyFrom and copied; list a parameter that the model uses twice once"})
		}
	}
	return nil
}

// memoryLocked returns the memory on a device that results are written to, as add appends it.
func (r *Reducer) memoryLocked(s *step, device tensor.Device, add func([]overlap.Range, *tensor.Tensor, int) []overlap.Range) (list []overlap.Range) {
	for i, back := range s.copyBack {
		for _, t := range []*tensor.Tensor{back, r.viewLocked(i)} {
			if t != nil && t.Device() == device {
				list = add(list, t, i)
			}
		}
	}
	return list
}

// appendSpan appends the memory from t's lowest element to its highest.
func appendSpan(list []overlap.Range, t *tensor.Tensor, of int) []overlap.Range {
	n, low, high, err := tensor.Extent(t.Shape(), t.Strides())
	if err != nil || n == 0 {
		return list
	}
	return append(list, memoryOf(t, low, high, of))
}

// appendRows appends the memory of t's elements alone, not of the gaps between them.
func appendRows(list []overlap.Range, t *tensor.Tensor, of int) []overlap.Range {
	n, low, _, err := tensor.Extent(t.Shape(), t.Strides())
	if err != nil || n == 0 {
		return list
	}
	row, starts := int64(1), []int64{low} // how many elements have no gap, and where those begin
	for _, d := range dimensions(t) {
		if d.stride == row && len(starts) == 1 {
			row *= d.size
			continue
		}
		for _, start := range starts { // those of the dimension's first index
			for i := int64(1); i < d.size; i++ {
				starts = append(starts, start+i*d.stride)
			}
		}
	}
	for _, start := range starts {
		list = append(list, memoryOf(t, start, start+row-1, of))
	}
	return list
}

// memoryOf is the memory of t from one element to another, both counted from its first.
func memoryOf(t *tensor.Tensor, from, to int64, of int) overlap.Range {
	size := int64(t.DType().Size())
	return overlap.Range{Low: uintptr(t.Data()) + uintptr(from*size), High: uintptr(t.Data()) + uintptr((to+1)*size), Of: of}
}

type dimension struct{ stride, size int64 }

// dimensions returns those of more than one element, by ascending stride, of which the sign is left out.
func dimensions(t *tensor.Tensor) (dims []dimension) {
	for d, size := range t.Shape() {
		if size > 1 {
			dims = append(dims, dimension{max(t.Strides()[d], -t.Strides()[d]), size})
		}
	}
	slices.SortFunc(dims, func(a, b dimension) int { return cmp.Compare(a.stride, b.stride) })
	return dims
}

// checkOwnElements says whether two elements of t may share memory: they do not where each dimension,
// by ascending stride, steps over all that those before it reach.
func checkOwnElements(t *tensor.Tensor) error {
	if t.IsContiguous() {
		return nil
	}
	reach := int64(0)
	for _, d := range dimensions(t) {
		if d.stride <= reach {
			return fmt.Errorf("%w: shape %v, strides %v: its elements share memory, or lie among each other; that cannot hold the result: give a copy", ErrOverlap, t.Shape(), t.Strides())
		}
		reach += (d.size - 1) * d.stride
	}
	return nil
}
