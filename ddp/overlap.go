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
	written := map[tensor.Device][]overlap.Range{}
	for i, back := range s.copyBack {
		if back != nil {
			written[back.Device()] = appendRanges(written[back.Device()], back, i)
		}
	}
	for device, ranges := range written {
		for i := range r.params {
			if view := r.viewLocked(i); view != nil && view.Device() == device {
				ranges = appendRanges(ranges, view, i)
			}
		}
		if a, b, found := overlap.Find(ranges); found {
			return r.asStepError(&ParameterError{Rank: r.opts.Group.Rank(), Names: []string{r.params[a].Name, r.params[b].Name}, Code: ErrOverlap,
				Hint: "give each gradient memory of its own until Wait is over, also where it was given to ReadyFrom and copied; list a parameter that the model uses twice once"})
		}
	}
	return nil
}

// appendRanges appends the memory of t's elements: of one with gaps, in which another may lie, only
// the lowest and the highest.
func appendRanges(list []overlap.Range, t *tensor.Tensor, of int) []overlap.Range {
	n, low, high, err := tensor.Extent(t.Shape(), t.Strides())
	if err != nil || n == 0 {
		return list
	}
	size := int64(t.DType().Size())
	at := func(from, to int64) overlap.Range {
		return overlap.Range{Low: uintptr(t.Data()) + uintptr(from*size), High: uintptr(t.Data()) + uintptr((to+1)*size), Of: of}
	}
	if high-low+1 == n {
		return append(list, at(low, high))
	}
	return append(list, at(low, low), at(high, high))
}

// checkOwnElements says whether two elements of t may share memory: they do not where each dimension,
// by ascending stride, steps over all that those before it reach.
func checkOwnElements(t *tensor.Tensor) error {
	if t.IsContiguous() {
		return nil
	}
	type dimension struct{ stride, size int64 }
	var dims []dimension
	for d, size := range t.Shape() {
		if size > 1 {
			dims = append(dims, dimension{max(t.Strides()[d], -t.Strides()[d]), size})
		}
	}
	slices.SortFunc(dims, func(a, b dimension) int { return cmp.Compare(a.stride, b.stride) })
	reach := int64(0)
	for _, d := range dims {
		if d.stride <= reach {
			return fmt.Errorf("%w: shape %v, strides %v: its elements share memory, which cannot hold the result: give a copy", ErrOverlap, t.Shape(), t.Strides())
		}
		reach += (d.size - 1) * d.stride
	}
	return nil
}
