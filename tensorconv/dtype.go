package tensorconv

import "fmt"

// DType is an element type, by torch's names.
type DType uint8

// The dtypes that gradients and their compressed forms come in.
const (
	Invalid DType = iota
	Float64
	Float32
	Float16
	BFloat16
	Int64
	Int32
	Int16
	Int8
	UInt8
	UInt16
	UInt32
	UInt64
	Bool
	Complex64
	Complex128
	Float8E4M3FN
	Float8E4M3FNUZ
	Float8E5M2
	Float8E5M2FNUZ
	numDTypes
)

// DLPack's type codes (DLDataTypeCode, dlpack.h 1.3).
const (
	dlInt           = 0
	dlUInt          = 1
	dlFloat         = 2
	dlBfloat        = 4
	dlComplex       = 5
	dlBool          = 6
	dlFloat8E4M3FN  = 10
	dlFloat8E4M3FNU = 11
	dlFloat8E5M2    = 12
	dlFloat8E5M2FNU = 13
)

var dtypes = [numDTypes]struct {
	name string
	size int
	code uint8
	bits uint8
}{
	Invalid:        {"invalid", 0, 0, 0},
	Float64:        {"float64", 8, dlFloat, 64},
	Float32:        {"float32", 4, dlFloat, 32},
	Float16:        {"float16", 2, dlFloat, 16},
	BFloat16:       {"bfloat16", 2, dlBfloat, 16},
	Int64:          {"int64", 8, dlInt, 64},
	Int32:          {"int32", 4, dlInt, 32},
	Int16:          {"int16", 2, dlInt, 16},
	Int8:           {"int8", 1, dlInt, 8},
	UInt8:          {"uint8", 1, dlUInt, 8},
	UInt16:         {"uint16", 2, dlUInt, 16},
	UInt32:         {"uint32", 4, dlUInt, 32},
	UInt64:         {"uint64", 8, dlUInt, 64},
	Bool:           {"bool", 1, dlBool, 8},
	Complex64:      {"complex64", 8, dlComplex, 64},
	Complex128:     {"complex128", 16, dlComplex, 128},
	Float8E4M3FN:   {"float8_e4m3fn", 1, dlFloat8E4M3FN, 8},
	Float8E4M3FNUZ: {"float8_e4m3fnuz", 1, dlFloat8E4M3FNU, 8},
	Float8E5M2:     {"float8_e5m2", 1, dlFloat8E5M2, 8},
	Float8E5M2FNUZ: {"float8_e5m2fnuz", 1, dlFloat8E5M2FNU, 8},
}

// DTypes returns every dtype.
func DTypes() []DType {
	list := make([]DType, 0, numDTypes-1)
	for d := Invalid + 1; d < numDTypes; d++ {
		list = append(list, d)
	}
	return list
}

// String returns torch's name of the dtype, without "torch.".
func (d DType) String() string {
	if d >= numDTypes {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Size returns the bytes of one element; 0 for what is no dtype.
func (d DType) Size() int {
	if d >= numDTypes {
		return 0
	}
	return dtypes[d].size
}

// aligned reports whether an element of d may lie at p.
func (d DType) aligned(p uintptr) bool {
	size := uintptr(d.Size())
	if d.IsComplex() {
		size /= 2
	}
	return p%size == 0
}

// IsFloat8 reports whether d is one of the 8-bit floating types, which this
// package carries but does not compute with.
func (d DType) IsFloat8() bool { return d >= Float8E4M3FN && d < numDTypes }

// IsComplex reports whether d is a complex type.
func (d DType) IsComplex() bool { return d == Complex64 || d == Complex128 }

// ParseDType reads torch's name of a dtype, with or without "torch.", and its
// aliases float, double, half, long, int, short.
func ParseDType(name string) (DType, error) {
	const prefix = "torch."
	if len(name) > len(prefix) && name[:len(prefix)] == prefix {
		name = name[len(prefix):]
	}
	aliases := map[string]DType{"float": Float32, "double": Float64, "half": Float16,
		"long": Int64, "int": Int32, "short": Int16, "byte": UInt8}
	if d, ok := aliases[name]; ok {
		return d, nil
	}
	for d := Invalid + 1; d < numDTypes; d++ {
		if dtypes[d].name == name {
			return d, nil
		}
	}
	return Invalid, &Error{Op: "dtype", Why: fmt.Sprintf("unknown dtype %q", name)}
}

// dtypeOf finds the dtype of DLPack's code, bits and lanes.
func dtypeOf(code, bits uint8, lanes uint16) (DType, error) {
	if lanes == 1 {
		for d := Invalid + 1; d < numDTypes; d++ {
			if dtypes[d].code == code && dtypes[d].bits == bits {
				return d, nil
			}
		}
	}
	return Invalid, &Error{Op: "DLPack import", Why: fmt.Sprintf("type code %d with %d bits and %d lanes has no dtype here", code, bits, lanes)}
}

// Element lists the Go types whose slices are tensors. Half-precision floats
// travel as uint16 bits with FromSliceAs.
type Element interface {
	~float64 | ~float32 | ~int64 | ~int32 | ~int16 | ~int8 | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~bool | ~complex64 | ~complex128
}
