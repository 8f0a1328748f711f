package reduce

import "pyhook/tensor"

// block is how many elements are combined at a time: the sum stays in the
// first-level cache, and dst may be one of the parts.
const block = 1024

type integer interface {
	~int64 | ~int32 | ~int16 | ~int8 | ~uint64 | ~uint32 | ~uint16 | ~uint8
}

type real interface{ integer | ~float64 | ~float32 }

type number interface {
	real | ~complex64 | ~complex128
}

// blocks combines the parts block by block; f adds x to sum.
func blocks[T tensor.Element](dst *tensor.Tensor, parts []*tensor.Tensor, f func(sum, x []T)) error {
	out, err := tensor.Slice[T](dst)
	if err != nil {
		return err
	}
	in := make([][]T, len(parts))
	for i, part := range parts {
		if in[i], err = tensor.Slice[T](part); err != nil {
			return err
		}
	}
	var sum [block]T
	for at := 0; at < len(out); at += block {
		end := min(at+block, len(out))
		acc := sum[:end-at]
		copy(acc, in[0][at:end])
		for _, part := range in[1:] {
			f(acc, part[at:end])
		}
		copy(out[at:end], acc)
	}
	return nil
}

func ordered[T interface {
	real
	tensor.Element
}](op string, dst *tensor.Tensor, parts []*tensor.Tensor) error {
	f := numbers[T](op)
	switch op {
	case Min: // a NaN wins, as in torch.minimum
		f = func(sum, x []T) {
			for i, v := range x {
				sum[i] = min(sum[i], v)
			}
		}
	case Max:
		f = func(sum, x []T) {
			for i, v := range x {
				sum[i] = max(sum[i], v)
			}
		}
	}
	return blocks(dst, parts, f)
}

func whole[T interface {
	integer
	tensor.Element
}](op string, dst *tensor.Tensor, parts []*tensor.Tensor) error {
	if f := bits[T](op); f != nil {
		return blocks(dst, parts, f)
	}
	return ordered[T](op, dst, parts)
}

// numbers returns Sum or Product.
func numbers[T number](op string) func(sum, x []T) {
	if op == Product {
		return func(sum, x []T) {
			for i, v := range x {
				sum[i] *= v
			}
		}
	}
	return func(sum, x []T) {
		for i, v := range x {
			sum[i] += v
		}
	}
}

func bits[T integer](op string) func(sum, x []T) {
	switch op {
	case BAnd:
		return func(sum, x []T) {
			for i, v := range x {
				sum[i] &= v
			}
		}
	case BOr:
		return func(sum, x []T) {
			for i, v := range x {
				sum[i] |= v
			}
		}
	case BXor:
		return func(sum, x []T) {
			for i, v := range x {
				sum[i] ^= v
			}
		}
	}
	return nil
}

// bools combines as torch does with 0 and 1: a sum is an or.
func bools(op string) func(sum, x []uint8) {
	switch op {
	case Product, Min:
		op = BAnd
	case Sum, Max:
		op = BOr
	}
	return bits[uint8](op)
}
