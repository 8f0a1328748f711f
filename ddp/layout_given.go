package ddp

import (
	"errors"
	"fmt"

	"pyhook/c10d"
)

// givenLayout is Options.Buckets, as lists of its own; nil: none is given.
func (r *Reducer) givenLayout() [][]int {
	var layout [][]int
	for _, indices := range r.opts.Buckets {
		layout = append(layout, append([]int{}, indices...))
	}
	return layout
}

// checkGiven says what is wrong with Options.Buckets, or nil.
func checkGiven(params []*c10d.Parameter, buckets [][]int) error {
	if buckets == nil {
		return nil
	}
	seen := make([]bool, len(params))
	count := 0
	for b, indices := range buckets {
		if len(indices) == 0 {
			return fmt.Errorf("Options.Buckets: bucket %d has no parameters", b)
		}
		for _, i := range indices {
			if i < 0 || i >= len(seen) {
				return fmt.Errorf("Options.Buckets: bucket %d names parameter %d of %d", b, i, len(seen))
			}
			p, first := params[i], params[indices[0]]
			switch {
			case seen[i]:
				return fmt.Errorf("Options.Buckets: %s is there twice", p.Name)
			case p.DType != first.DType:
				return fmt.Errorf("Options.Buckets: bucket %d has %s (%s) and %s (%s)", b, first.Name, first.DType, p.Name, p.DType)
			case p.GradientDevice() != first.GradientDevice():
				return fmt.Errorf("Options.Buckets: bucket %d has %s on %s and %s on %s", b, first.Name, first.GradientDevice(), p.Name, p.GradientDevice())
			case p.Sparse && len(indices) > 1:
				return fmt.Errorf("Options.Buckets: %s is sparse, and in bucket %d with others", p.Name, b)
			}
			seen[i] = true
			count++
		}
	}
	if count < len(seen) {
		return errors.New("Options.Buckets does not have all parameters")
	}
	return nil
}
