package tensorconv

import "reflect"

// elementType finds the dtype by kind, so that named types (type Grad float32)
// serve too.
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
