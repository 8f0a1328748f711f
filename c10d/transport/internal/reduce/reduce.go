package reduce

import (
	"fmt"

	"pyhook/tensor"
)

// The operations, by c10d's names.
const (
	Sum     = "SUM"
	Product = "PRODUCT"
	Min     = "MIN"
	Max     = "MAX"
	BAnd    = "BAND"
	BOr     = "BOR"
	BXor    = "BXOR"
)

// Supported reports whether Into can combine elements of d by op.
func Supported(op string, d tensor.DType) bool {
	bits := op == BAnd || op == BOr || op == BXor
	order := op == Min || op == Max
	switch {
	case !bits && !order && op != Sum && op != Product, d == tensor.Invalid, d.IsFloat8():
		return false
	case d.IsComplex():
		return !bits && !order
	case isFloat(d):
		return !bits
	}
	return true
}

func isFloat(d tensor.DType) bool {
	return d == tensor.Float64 || d == tensor.Float32 || isHalf(d)
}

func isHalf(d tensor.DType) bool { return d == tensor.Float16 || d == tensor.BFloat16 }

// Into combines parts, in their order, into dst. All are contiguous CPU memory
// of one dtype and length; dst may be one of the parts.
func Into(op string, dst *tensor.Tensor, parts []*tensor.Tensor) error {
	if !Supported(op, dst.DType()) {
		return fmt.Errorf("no %s of %s", op, dst.DType())
	}
	if len(parts) == 1 {
		return tensor.Copy(dst, parts[0])
	}
	if isHalf(dst.DType()) {
		return halves(op, dst, parts)
	}
	switch dst.DType() {
	case tensor.Float64:
		return ordered[float64](op, dst, parts)
	case tensor.Float32:
		return ordered[float32](op, dst, parts)
	case tensor.Complex64:
		return blocks(dst, parts, numbers[complex64](op))
	case tensor.Complex128:
		return blocks(dst, parts, numbers[complex128](op))
	case tensor.Bool:
		return blocks(dst, parts, bools(op))
	}
	return integers(op, dst, parts)
}

func integers(op string, dst *tensor.Tensor, parts []*tensor.Tensor) error {
	switch dst.DType() {
	case tensor.Int64:
		return whole[int64](op, dst, parts)
	case tensor.Int32:
		return whole[int32](op, dst, parts)
	case tensor.Int16:
		return whole[int16](op, dst, parts)
	case tensor.Int8:
		return whole[int8](op, dst, parts)
	case tensor.UInt64:
		return whole[uint64](op, dst, parts)
	case tensor.UInt32:
		return whole[uint32](op, dst, parts)
	case tensor.UInt16:
		return whole[uint16](op, dst, parts)
	}
	return whole[uint8](op, dst, parts)
}

// halves computes in float32, in two float32 tensors of the same length.
func halves(op string, dst *tensor.Tensor, parts []*tensor.Tensor) error {
	sum, err := tensor.New(tensor.Float32, dst.Shape()...)
	if err != nil {
		return err
	}
	defer sum.Close()
	next, err := tensor.New(tensor.Float32, dst.Shape()...)
	if err != nil {
		return err
	}
	defer next.Close()
	if err := tensor.Copy(sum, parts[0]); err != nil {
		return err
	}
	for _, part := range parts[1:] {
		if err := tensor.Copy(next, part); err != nil {
			return err
		}
		if err := ordered[float32](op, sum, []*tensor.Tensor{sum, next}); err != nil {
			return err
		}
	}
	return tensor.Copy(dst, sum)
}
