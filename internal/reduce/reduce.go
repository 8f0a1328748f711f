package reduce

import (
	"fmt"

	"pyhook/tensorconv"
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
func Supported(op string, d tensorconv.DType) bool {
	bits := op == BAnd || op == BOr || op == BXor
	order := op == Min || op == Max
	switch {
	case !bits && !order && op != Sum && op != Product, d == tensorconv.Invalid, d.IsFloat8():
		return false
	case d.IsComplex():
		return !bits && !order
	case isFloat(d):
		return !bits
	}
	return true
}

func isFloat(d tensorconv.DType) bool {
	return d == tensorconv.Float64 || d == tensorconv.Float32 || isHalf(d)
}

func isHalf(d tensorconv.DType) bool { return d == tensorconv.Float16 || d == tensorconv.BFloat16 }

// Into combines parts, in their order, into dst. All are contiguous CPU memory
// of one dtype and length; dst may be one of the parts.
func Into(op string, dst *tensorconv.Tensor, parts []*tensorconv.Tensor) error {
	if !Supported(op, dst.DType()) {
		return fmt.Errorf("no %s of %s", op, dst.DType())
	}
	if len(parts) == 1 {
		return tensorconv.Copy(dst, parts[0])
	}
	if isHalf(dst.DType()) {
		return halves(op, dst, parts)
	}
	switch dst.DType() {
	case tensorconv.Float64:
		return ordered[float64](op, dst, parts)
	case tensorconv.Float32:
		return ordered[float32](op, dst, parts)
	case tensorconv.Complex64:
		return blocks(dst, parts, numbers[complex64](op))
	case tensorconv.Complex128:
		return blocks(dst, parts, numbers[complex128](op))
	case tensorconv.Bool:
		return blocks(dst, parts, bools(op))
	}
	return integers(op, dst, parts)
}

func integers(op string, dst *tensorconv.Tensor, parts []*tensorconv.Tensor) error {
	switch dst.DType() {
	case tensorconv.Int64:
		return whole[int64](op, dst, parts)
	case tensorconv.Int32:
		return whole[int32](op, dst, parts)
	case tensorconv.Int16:
		return whole[int16](op, dst, parts)
	case tensorconv.Int8:
		return whole[int8](op, dst, parts)
	case tensorconv.UInt64:
		return whole[uint64](op, dst, parts)
	case tensorconv.UInt32:
		return whole[uint32](op, dst, parts)
	case tensorconv.UInt16:
		return whole[uint16](op, dst, parts)
	}
	return whole[uint8](op, dst, parts)
}

// halves computes in float32, in two float32 tensors of the same length.
func halves(op string, dst *tensorconv.Tensor, parts []*tensorconv.Tensor) error {
	sum, err := tensorconv.New(tensorconv.Float32, dst.Shape()...)
	if err != nil {
		return err
	}
	defer sum.Close()
	next, err := tensorconv.New(tensorconv.Float32, dst.Shape()...)
	if err != nil {
		return err
	}
	defer next.Close()
	if err := tensorconv.Copy(sum, parts[0]); err != nil {
		return err
	}
	for _, part := range parts[1:] {
		if err := tensorconv.Copy(next, part); err != nil {
			return err
		}
		if err := ordered[float32](op, sum, []*tensorconv.Tensor{sum, next}); err != nil {
			return err
		}
	}
	return tensorconv.Copy(dst, sum)
}
