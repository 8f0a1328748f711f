package cbridge

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"reflect"
	"unsafe"
)

// Value makes a Go value of o: None is nil, bool, int is int64 (uint64 when
// larger), float64, string, bytes is []byte, list and tuple are []any, dict is
// map[any]any. Anything else, and an int beyond 64 bits, is a *ConvertError.
func (o *Object) Value() (any, error) {
	if err := o.use(); err != nil {
		return nil, err
	}
	defer o.done()
	var v any
	var err error
	attached(func() { v, err = toGo(o.ptr, 0) })
	return v, err
}

func toGo(ref *C.PyObject, depth int) (any, error) {
	if depth > maxDepth {
		return nil, &ConvertError{typeName(ref), "nested too deeply"}
	}
	switch C.pyh_kind(ref) {
	case C.PYH_KIND_NONE:
		return nil, nil
	case C.PYH_KIND_BOOL:
		return C.pyhIsTrue(ref) == 1, nil
	case C.PYH_KIND_INT:
		var i C.int64_t
		var u C.uint64_t
		switch C.pyh_int(ref, &i, &u) {
		case 0:
			return int64(i), nil
		case 1:
			return uint64(u), nil
		}
		return nil, &ConvertError{typeName(ref), "does not fit in 64 bits"}
	case C.PYH_KIND_FLOAT:
		return float64(C.pyhAsFloat(ref)), nil
	case C.PYH_KIND_STRING:
		return goString(ref)
	case C.PYH_KIND_BYTES:
		var p *C.char
		var n C.Py_ssize_t
		if C.pyhAsBytes(ref, &p, &n) != 0 {
			return nil, raised()
		}
		return []byte(goText(p, n)), nil
	case C.PYH_KIND_SEQUENCE:
		return toSlice(ref, depth)
	case C.PYH_KIND_MAPPING:
		return toMap(ref, depth)
	}
	return nil, &ConvertError{typeName(ref), "no Go form; keep the *Object"}
}

func toSlice(ref *C.PyObject, depth int) (any, error) {
	iter, err := checked(C.pyhIter(ref))
	if err != nil {
		return nil, err
	}
	defer C.pyhDecRef(iter)
	list := []any{}
	for {
		item := C.pyhNext(iter)
		if item == nil {
			break
		}
		v, err := toGo(item, depth+1)
		C.pyhDecRef(item)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", len(list), err)
		}
		list = append(list, v)
	}
	if C.pyhOccurred() {
		return nil, raised()
	}
	return list, nil
}

func toMap(ref *C.PyObject, depth int) (any, error) {
	items, err := checked(C.pyhItems(ref))
	if err != nil {
		return nil, err
	}
	defer C.pyhDecRef(items)
	iter, err := checked(C.pyhIter(items))
	if err != nil {
		return nil, err
	}
	defer C.pyhDecRef(iter)
	m := map[any]any{}
	for pair := C.pyhNext(iter); pair != nil; pair = C.pyhNext(iter) {
		key, value, err := toPair(pair, depth)
		C.pyhDecRef(pair)
		if err != nil {
			return nil, err
		}
		if key != nil && !reflect.TypeOf(key).Comparable() {
			return nil, &ConvertError{typeName(ref), "a key has no comparable Go form"}
		}
		m[key] = value
	}
	if C.pyhOccurred() {
		return nil, raised()
	}
	return m, nil
}

func toPair(pair *C.PyObject, depth int) (key, value any, err error) {
	k, v := C.pyhTupleGet(pair, 0), C.pyhTupleGet(pair, 1) // borrowed
	if k == nil || v == nil {
		return nil, nil, raised() // a dict's subclass whose items() are none
	}
	if key, err = toGo(k, depth+1); err != nil {
		return nil, nil, fmt.Errorf("a key: %w", err)
	}
	if value, err = toGo(v, depth+1); err != nil {
		return nil, nil, fmt.Errorf("[%v]: %w", key, err)
	}
	return key, value, nil
}

func goString(ref *C.PyObject) (string, error) {
	var n C.Py_ssize_t
	var tmp *C.PyObject
	text := C.pyh_utf8(ref, &n, &tmp)
	if text == nil {
		return "", raised()
	}
	s := goText(text, n)
	if tmp != nil {
		C.pyhDecRef(tmp)
	}
	return s, nil
}

// goText copies n bytes; C.GoStringN takes an int32 and fails beyond 2 GiB.
func goText(p *C.char, n C.Py_ssize_t) string {
	return string(unsafe.Slice((*byte)(unsafe.Pointer(p)), n))
}

func typeName(ref *C.PyObject) string {
	name := C.CString("__class__")
	defer C.free(unsafe.Pointer(name))
	class := C.pyhGetAttr(ref, name)
	if class == nil {
		C.pyhErrClear()
		return "an object"
	}
	defer C.pyhDecRef(class)
	text := C.pyhText(class, true)
	if text == nil {
		C.pyhErrClear()
		return "an object"
	}
	defer C.pyhDecRef(text)
	s, err := goString(text)
	if err != nil {
		return "an object"
	}
	return s
}

// As converts o to T by Value: the usual way to read one typed result.
func As[T any](o *Object) (T, error) {
	var zero T
	v, err := o.Value()
	if err != nil {
		return zero, err
	}
	t, ok := v.(T)
	if !ok {
		return zero, &ConvertError{fmt.Sprintf("%T", v), fmt.Sprintf("not a %T", zero)}
	}
	return t, nil
}
