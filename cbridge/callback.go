package cbridge

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime/cgo"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"unsafe"
)

// GoFunc is a Go function that Python may call. It runs attached, on the thread that calls it
// (perhaps torch's), so it must be short and must not wait for a goroutine that needs Python. Its
// args are closed when it returns. Its error becomes a RuntimeError in Python, and so does a panic,
// with its stack. On an OS thread that is ending (in a thread-local's destructor) Python gets a
// RuntimeError, and it does not run.
type GoFunc func(args []*Object) (any, error)

var liveFuncs atomic.Int64

// LiveFuncs returns how many Go functions Python still holds.
func LiveFuncs() int64 { return liveFuncs.Load() }

// NewFunc makes a Python callable of fn. The callable may outlive the Object: Python's last
// reference releases fn.
func NewFunc(name string, fn GoFunc) (*Object, error) {
	if err := running(); err != nil {
		return nil, err
	}
	handle := cgo.NewHandle(fn)
	liveFuncs.Add(1)
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	var o *Object
	var err error
	attached(func() { o, err = own(C.pyh_func(cname, C.uintptr_t(handle))) })
	return o, err
}

//export pyhookGoCall
func pyhookGoCall(handle C.uintptr_t, args *C.PyObject) *C.PyObject {
	objects := make([]*Object, int(C.pyhTupleSize(args)))
	for i := range objects {
		ref := C.pyhTupleGet(args, C.Py_ssize_t(i)) // borrowed
		C.pyhIncRef(ref)
		objects[i] = wrap(ref)
	}
	defer func() {
		for _, o := range objects {
			o.Close()
		}
	}()
	ref, err := protect(cgo.Handle(handle).Value().(GoFunc), objects)
	if err != nil {
		return raise(err.Error())
	}
	return ref
}

// protect keeps a panic, of fn or of a result's Python method, from unwinding
// through Python's frames.
func protect(fn GoFunc, args []*Object) (ref *C.PyObject, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a Go function called from Python: %v\n%s", p, debug.Stack())
		}
	}()
	result, err := fn(args)
	if err != nil {
		return nil, err
	}
	return toPython(result)
}

func raise(text string) *C.PyObject {
	// PyErr_SetString decodes strictly and ends at a NUL.
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", `\x00`)
	ctext := C.CString(text)
	C.pyhRaise(ctext)
	C.free(unsafe.Pointer(ctext))
	return nil
}

//export pyhookGoDrop
func pyhookGoDrop(handle C.uintptr_t) {
	cgo.Handle(handle).Delete()
	liveFuncs.Add(-1)
}
