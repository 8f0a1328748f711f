package cbridge

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"
)

// conversions are by the Go type: what RegisterConversion was given.
var conversions sync.Map // reflect.Type -> func(any) (*Object, error)

// RegisterConversion has Convert, and the arguments of calls, make Python objects of the values of
// T by f: for packages whose types know nothing of Python. f is called attached and returns an
// Object that the caller closes. Call it from an init function.
func RegisterConversion[T any](f func(T) (*Object, error)) {
	conversions.Store(reflect.TypeFor[T](), func(v any) (*Object, error) { return f(v.(T)) })
}

// conversionOf returns the registered conversion of a value's type, or nil.
func conversionOf(value any) func(any) (*Object, error) {
	if f, ok := conversions.Load(reflect.TypeOf(value)); ok {
		return f.(func(any) (*Object, error))
	}
	return nil
}

// ConvertError: a value that has no form on the other side.
type ConvertError struct {
	Type string // the Go or Python type
	Why  string
}

func (e *ConvertError) Error() string { return fmt.Sprintf("cannot convert %s: %s", e.Type, e.Why) }

// Tuple is a slice that becomes a Python tuple.
type Tuple []any

// maxDepth bounds nesting in both directions: a list may hold itself.
const maxDepth = 64

// Convert makes a Python object of a Go value: nil, bool, all ints and floats, json.Number (int or
// float), string (str), []byte (bytes), slices and arrays (list), Tuple, maps (dict, in key order),
// *Object (itself) and the types of RegisterConversion. The caller owns the result. Anything else
// is a *ConvertError.
func Convert(value any) (*Object, error) {
	if err := running(); err != nil {
		return nil, err
	}
	var result *Object
	var err error
	attached(func() {
		var ref *C.PyObject
		if ref, err = toPython(value); err == nil {
			result = wrap(ref)
		}
	})
	return result, err
}

// toPython returns a new reference. The calling thread is attached.
func toPython(value any) (*C.PyObject, error) {
	if value == nil {
		return C.pyhNone(), nil
	}
	if v, ok := value.(*Object); ok {
		if err := v.use(); err != nil {
			return nil, err
		}
		defer v.done()
		C.pyhIncRef(v.ptr)
		return v.ptr, nil
	}
	if convert := conversionOf(value); convert != nil {
		o, err := convert(value)
		if err != nil {
			return nil, err
		}
		defer o.Close()
		return toPython(o)
	}
	return fromReflect(reflect.ValueOf(value), 0)
}

func fromReflect(v reflect.Value, depth int) (*C.PyObject, error) {
	if depth > maxDepth {
		return nil, &ConvertError{v.Type().String(), "nested too deeply"}
	}
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return C.pyhBool(1), nil
		}
		return C.pyhBool(0), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return checked(C.pyhInt(C.int64_t(v.Int())))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return checked(C.pyhUint(C.uint64_t(v.Uint())))
	case reflect.Float32, reflect.Float64:
		return checked(C.pyhFloat(C.double(v.Float())))
	case reflect.String:
		if v.Type() == numberType {
			return fromNumber(json.Number(v.String()))
		}
		s := v.String()
		return checked(C.pyh_string((*C.char)(unsafe.Pointer(unsafe.StringData(s))), C.size_t(len(s))))
	case reflect.Interface, reflect.Pointer:
		if v.IsNil() {
			return C.pyhNone(), nil
		}
		if v.Kind() == reflect.Interface {
			return fromReflect(v.Elem(), depth)
		}
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			b := v.Bytes()
			return checked(C.pyhBytes((*C.char)(unsafe.Pointer(unsafe.SliceData(b))), C.Py_ssize_t(len(b))))
		}
		return fromSlice(v, depth)
	case reflect.Map:
		return fromMap(v, depth)
	}
	return nil, &ConvertError{v.Type().String(), "no Python form; use a bool, number, string, []byte, slice, map, *Object or tensor"}
}

// element converts what a container holds, which may be a handle or a tensor.
func element(v reflect.Value, depth int) (*C.PyObject, error) {
	if v.IsValid() && v.CanInterface() {
		value := v.Interface()
		if _, ok := value.(*Object); ok || conversionOf(value) != nil {
			return toPython(value)
		}
	}
	return fromReflect(v, depth+1)
}

func checked(ref *C.PyObject) (*C.PyObject, error) {
	if ref == nil {
		return nil, raised()
	}
	return ref, nil
}

var (
	tupleType  = reflect.TypeFor[Tuple]()
	numberType = reflect.TypeFor[json.Number]()
)

// fromNumber makes an int of what is written as a whole number, else a float.
func fromNumber(n json.Number) (*C.PyObject, error) {
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return checked(C.pyhInt(C.int64_t(i)))
	}
	if u, err := strconv.ParseUint(n.String(), 10, 64); err == nil {
		return checked(C.pyhUint(C.uint64_t(u)))
	}
	f, err := n.Float64()
	switch {
	case err != nil:
		return nil, &ConvertError{"json.Number", fmt.Sprintf("%q is not a number, or too large", n.String())}
	case !strings.ContainsAny(n.String(), ".eE"):
		return nil, &ConvertError{"json.Number", n.String() + " does not fit in 64 bits"}
	}
	return checked(C.pyhFloat(C.double(f)))
}

func fromSlice(v reflect.Value, depth int) (*C.PyObject, error) {
	n := C.Py_ssize_t(v.Len())
	var list *C.PyObject
	isTuple := v.Type() == tupleType
	if isTuple {
		list = C.pyhTuple(n)
	} else {
		list = C.pyhList(n)
	}
	if list == nil {
		return nil, raised()
	}
	for i := range v.Len() {
		item, err := element(v.Index(i), depth)
		if err != nil {
			C.pyhDecRef(list)
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		if isTuple { // each steals item
			C.pyhTupleSet(list, C.Py_ssize_t(i), item)
		} else {
			C.pyhListSet(list, C.Py_ssize_t(i), item)
		}
	}
	return list, nil
}

func fromMap(v reflect.Value, depth int) (*C.PyObject, error) {
	dict, err := checked(C.pyhDict())
	if err != nil {
		return nil, err
	}
	set := func(k, e reflect.Value) error {
		key, err := element(k, depth)
		if err != nil {
			return err
		}
		defer C.pyhDecRef(key)
		value, err := element(e, depth)
		if err != nil {
			return fmt.Errorf("[%v]: %w", k, err)
		}
		defer C.pyhDecRef(value)
		if C.pyhDictSet(dict, key, value) != 0 {
			return raised()
		}
		return nil
	}
	// A dict keeps its order: in key order it is the same on every rank.
	keys := v.MapKeys()
	slices.SortStableFunc(keys, compareKeys)
	for _, key := range keys {
		if err := set(key, v.MapIndex(key)); err != nil {
			C.pyhDecRef(dict)
			return nil, err
		}
	}
	return dict, nil
}

// compareKeys orders strings and numbers; keys of other types stay as they come.
func compareKeys(a, b reflect.Value) int {
	if a.Kind() == reflect.Interface {
		a, b = a.Elem(), b.Elem()
	}
	switch {
	case a.Kind() != b.Kind():
		return cmp.Compare(a.Kind(), b.Kind())
	case a.Kind() == reflect.String:
		return cmp.Compare(a.String(), b.String())
	case a.CanInt():
		return cmp.Compare(a.Int(), b.Int())
	case a.CanUint():
		return cmp.Compare(a.Uint(), b.Uint())
	case a.CanFloat():
		return cmp.Compare(a.Float(), b.Float())
	}
	return 0
}
