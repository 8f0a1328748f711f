package tensor

// #include "dtype.h"
import "C"

import (
	"fmt"
	"reflect"
	"unsafe"
)

// DType is an element type, by torch's names.
type DType uint8

// The dtypes that gradients and their compressed forms come in.
const (
	Invalid        DType = C.T_INVALID
	Float64        DType = C.T_F64
	Float32        DType = C.T_F32
	Float16        DType = C.T_F16
	BFloat16       DType = C.T_BF16
	Int64          DType = C.T_I64
	Int32          DType = C.T_I32
	Int16          DType = C.T_I16
	Int8           DType = C.T_I8
	UInt8          DType = C.T_U8
	UInt16         DType = C.T_U16
	UInt32         DType = C.T_U32
	UInt64         DType = C.T_U64
	Bool           DType = C.T_BOOL
	Complex64      DType = C.T_C64
	Complex128     DType = C.T_C128
	Float8E4M3FN   DType = C.T_E4M3FN
	Float8E4M3FNUZ DType = C.T_E4M3FNUZ
	Float8E5M2     DType = C.T_E5M2
	Float8E5M2FNUZ DType = C.T_E5M2FNUZ
	NumDTypes            = C.T_END // that and below are all dtypes
)

// dtypes is C's table, with the names as Go strings.
var dtypes = func() (table [NumDTypes]struct {
	name string
	size int
	code uint8 // DLPack's
}) {
	for i := range table {
		row := C.pyh_dtypes[i]
		table[i].name, table[i].size, table[i].code = C.GoString(row.name), int(row.size), uint8(row.code)
	}
	return table
}()

// DTypes returns every dtype.
func DTypes() []DType {
	list := make([]DType, 0, NumDTypes-1)
	for d := Invalid + 1; d < NumDTypes; d++ {
		list = append(list, d)
	}
	return list
}

// String returns torch's name of the dtype, without "torch.".
func (d DType) String() string {
	if d >= NumDTypes {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Size returns the bytes of one element, or 0 if d is no dtype.
func (d DType) Size() int {
	if d >= NumDTypes {
		return 0
	}
	return dtypes[d].size
}

// Aligned reports whether an element of d may lie at p.
func (d DType) Aligned(p unsafe.Pointer) bool {
	size := uintptr(d.Size())
	if d.IsComplex() {
		size /= 2
	}
	return uintptr(p)%size == 0
}

// IsFloat8 reports whether d is an 8-bit float, which this package carries but does not compute
// with.
func (d DType) IsFloat8() bool { return d >= Float8E4M3FN && d < NumDTypes }

// IsComplex reports whether d is a complex type.
func (d DType) IsComplex() bool { return d == Complex64 || d == Complex128 }

// Real returns the dtype of a complex number's parts; of any other dtype itself.
func (d DType) Real() DType {
	switch d {
	case Complex64:
		return Float32
	case Complex128:
		return Float64
	}
	return d
}

// ParseDType returns the dtype of torch's name, with or without "torch.", or of the aliases float,
// double, half, long, int, short and byte.
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
	for d := Invalid + 1; d < NumDTypes; d++ {
		if dtypes[d].name == name {
			return d, nil
		}
	}
	return Invalid, &Error{Op: "dtype", Why: fmt.Sprintf("unknown dtype %q", name)}
}

// DLPack returns DLPack's type code of d (DLDataTypeCode) and the bits of an element.
func (d DType) DLPack() (code, bits uint8) { return dtypes[d].code, uint8(8 * dtypes[d].size) }

// DTypeOfDLPack returns the dtype of DLPack's type code, bits and lanes.
func DTypeOfDLPack(code, bits uint8, lanes uint16) (DType, error) {
	for d := Invalid + 1; d < NumDTypes && lanes == 1; d++ {
		if c, b := d.DLPack(); c == code && b == bits {
			return d, nil
		}
	}
	return Invalid, &Error{Op: "DLPack import", Why: fmt.Sprintf("type code %d with %d bits and %d lanes has no dtype here", code, bits, lanes)}
}

// Element lists the Go types of elements. Half-precision floats are uint16 bits: see FromSliceAs.
type Element interface {
	~float64 | ~float32 | ~int64 | ~int32 | ~int16 | ~int8 | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~bool | ~complex64 | ~complex128
}

// elementType finds the dtype by kind, so that named types (type Grad float32) work too.
func elementType(zero any) DType {
	switch reflect.TypeOf(zero).Kind() {
	case reflect.Float64:
		return Float64
	case reflect.Float32:
		return Float32
	case reflect.Int64:
		return Int64
	case reflect.Int32:
		return Int32
	case reflect.Int16:
		return Int16
	case reflect.Int8:
		return Int8
	case reflect.Uint8:
		return UInt8
	case reflect.Uint16:
		return UInt16
	case reflect.Uint32:
		return UInt32
	case reflect.Uint64:
		return UInt64
	case reflect.Bool:
		return Bool
	case reflect.Complex64:
		return Complex64
	case reflect.Complex128:
		return Complex128
	}
	return Invalid
}
