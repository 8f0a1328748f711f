package cbridge

// #cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra -Wno-unused-parameter
// #cgo linux LDFLAGS: -ldl -lpthread
// #include "shim.h"
import "C"

import (
	"runtime"
	"unsafe"
)

// functions returns the addresses of C's enter, leave, keep_state and defer_decref, for
// the tests' C code (package ctest).
func functions() (enter, leave, keepState, deferDecref unsafe.Pointer) {
	return C.pyh_enter, C.pyh_leave, C.pyh_keep_state, C.pyh_defer_decref
}

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

// build runs f attached. The new reference (PyObject*) that f returns becomes an
// Object; NULL becomes the exception that f left set.
func build(f func() unsafe.Pointer) (*Object, error) {
	if err := running(); err != nil {
		return nil, err
	}
	var o *Object
	var err error
	attached(func() { o, err = own((*C.PyObject)(f())) })
	return o, err
}

// check runs f attached. If f returns false, the exception that it left set is
// the error.
func check(f func() bool) error {
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
