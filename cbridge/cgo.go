package cbridge

// #cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra -Wno-unused-parameter
// #cgo linux LDFLAGS: -ldl -lpthread
// #include "bridge.h"
import "C"

import (
	"runtime"
	"unsafe"
)

// API returns the table of CPython functions (a pyh_api of pyapi.h), for the C
// code of a sibling package. Valid after Start, for the life of the process.
func API() unsafe.Pointer { return unsafe.Pointer(&C.pyh) }

// ThreadStates returns how many OS threads keep a Python thread state.
func ThreadStates() int64 { return int64(C.pyh_thread_states()) }

// attached runs f with the calling thread attached to the interpreter. f must
// not block on another goroutine that needs Python.
func attached(f func()) {
	runtime.LockOSThread()
	C.pyh_enter()
	defer func() {
		C.pyh_leave()
		runtime.UnlockOSThread()
	}()
	f()
}

// Attached runs f with the calling thread attached (on CPython with a GIL: f
// holds it), so that several operations inside cost one hand-over. f must not
// block on another goroutine that needs Python.
func Attached(f func()) error {
	if err := running(); err != nil {
		return err
	}
	attached(f)
	return nil
}

// Build runs f attached. The new reference (PyObject*) that f returns becomes an
// Object; NULL becomes the exception that f left set.
func Build(f func() unsafe.Pointer) (*Object, error) {
	if err := running(); err != nil {
		return nil, err
	}
	var o *Object
	var err error
	attached(func() { o, err = own((*C.PyObject)(f())) })
	return o, err
}

// Check runs f attached. If f returns false, the exception that it left set is
// the error.
func Check(f func() bool) error {
	if err := running(); err != nil {
		return err
	}
	var err error
	attached(func() {
		if !f() {
			err = raised()
		}
	})
	return err
}
