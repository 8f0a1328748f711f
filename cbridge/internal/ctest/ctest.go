// Package ctest is the C that cbridge's tests and benchmarks need, because a
// _test.go file cannot hold cgo: the naive ways of attaching a thread, and what
// a foreign C library would do. The api is cbridge.API's table.
package ctest

// #cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra -I${SRCDIR}/../.. -DPYHOOK_PYAPI=0xb781325bde93
// #include "ctest.h"
import "C"

import "unsafe"

func api(table unsafe.Pointer) *C.pyh_api { return (*C.pyh_api)(table) }

func object(ptr unsafe.Pointer) *C.PyObject { return (*C.PyObject)(ptr) }

// Kept calls fn() once, attached by the bridge's kept thread state.
func Kept(table, fn unsafe.Pointer) { C.ctest_kept(api(table), object(fn)) }

// Ensured calls fn() once between PyGILState_Ensure and PyGILState_Release: on
// a thread without a state, one that is made and deleted each time.
func Ensured(table, fn unsafe.Pointer) { C.ctest_ensured(api(table), object(fn)) }

// Plain calls fn() once; the thread is attached already.
func Plain(table, fn unsafe.Pointer) { C.ctest_plain(api(table), object(fn)) }

// HasState reports whether the calling OS thread has a Python thread state.
func HasState(table unsafe.Pointer) bool { return bool(C.ctest_has_state(api(table))) }

// NewReference makes a further reference to ptr, and returns ptr. Attached.
func NewReference(table, ptr unsafe.Pointer) unsafe.Pointer {
	return unsafe.Pointer(C.ctest_new_reference(api(table), object(ptr)))
}

// Raise leaves a TypeError set. Attached.
func Raise(table unsafe.Pointer) { C.ctest_raise(api(table)) }

// ForeignEnter returns the address of a void(*)(void) that enters and leaves
// the bridge three times, as the callback of a C library would.
func ForeignEnter(table unsafe.Pointer) uintptr { return uintptr(C.ctest_foreign_enter(api(table))) }

// ForeignKeep returns the address of a void(*)(void) that has the calling thread
// keep its state. Attached.
func ForeignKeep(table unsafe.Pointer) uintptr { return uintptr(C.ctest_foreign_keep(api(table))) }

// Guest calls fn() n times on a new thread, each between PyGILState_Ensure and
// PyGILState_Release, as torch's threads do, and has it keep its state. The thread
// ends while the caller holds the GIL and waits for that.
func Guest(table, fn unsafe.Pointer, n int) { C.ctest_guest(api(table), object(fn), C.int(n)) }

// DeferFromThread defers n decrefs of ptr from an OS thread that is never
// attached, and returns when it has.
func DeferFromThread(table, ptr unsafe.Pointer, n int) {
	C.ctest_defer_from_thread(api(table), object(ptr), C.int(n))
}
