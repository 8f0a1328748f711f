package tensor

import (
	"fmt"
	"math/bits"
	"slices"
)

// IsContiguous reports whether the elements lie in row-major order with no gaps.
func (t *Tensor) IsContiguous() bool {
	if t.Len() == 0 {
		return true
	}
	want := int64(1)
	for i := len(t.shape) - 1; i >= 0; i-- {
		if t.shape[i] != 1 && t.strides[i] != want {
			return false
		}
		want *= t.shape[i]
	}
	return true
}

// beyond is more elements than any memory has: 2^62 bytes of the widest dtype.
const beyond = 1 << 58

// Extent returns the elements of a shape, and the lowest and the highest that lie by its strides
// (nil: contiguous), counted from the first. A shape or strides beyond any memory are an *Error.
func Extent(shape, strides []int64) (n, low, high int64, err error) {
	if n, err = count(shape); err != nil {
		return 0, 0, 0, err
	}
	if strides == nil {
		strides = contiguous(shape)
	}
	low, high, ok := span(shape, strides)
	if !ok {
		return 0, 0, 0, &Error{Op: "shape", Why: fmt.Sprintf("strides %v reach beyond any memory", strides)}
	}
	return n, low, high, nil
}

func count(shape []int64) (int64, error) {
	n, empty := int64(1), false
	for _, size := range shape {
		if size < 0 {
			return 0, &Error{Op: "shape", Why: fmt.Sprintf("negative size in %v", shape)}
		}
		// Checked even if another size is 0: the strides must fit.
		if size > 0 && n > beyond/size {
			return 0, &Error{Op: "shape", Why: fmt.Sprintf("%v has too many elements", shape)}
		}
		n *= max(size, 1)
		empty = empty || size == 0
	}
	if empty {
		return 0, nil
	}
	return n, nil
}

// span returns the lowest and the highest element that a shape and its strides reach, counted from
// the first. It is not ok if they are beyond any memory.
func span(shape, strides []int64) (low, high int64, ok bool) {
	if slices.Contains(shape, 0) {
		return 0, 0, true
	}
	for i, size := range shape {
		over, step := bits.Mul64(uint64(size-1), uint64(max(strides[i], -strides[i])))
		if over > 0 || step > beyond {
			return 0, 0, false
		}
		if strides[i] < 0 {
			low -= int64(step)
		} else {
			high += int64(step)
		}
		if low < -beyond || high > beyond {
			return 0, 0, false
		}
	}
	return low, high, true
}

func contiguous(shape []int64) []int64 {
	strides := make([]int64, len(shape))
	step := int64(1)
	for i := len(shape) - 1; i >= 0; i-- {
		strides[i] = step
		step *= max(shape[i], 1)
	}
	return strides
}
