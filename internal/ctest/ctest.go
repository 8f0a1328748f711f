// Package ctest is the C of tests and benchmarks, since a _test.go file cannot hold
// cgo: the naive ways of attaching a thread to Python, and what a foreign C library
// would do. It asks the libpython that cbridge has loaded for its functions, and
// includes no header of ours.
package ctest

// #cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra -Wno-unused-parameter
// #cgo linux LDFLAGS: -ldl -lpthread
// #include "ctest.h"
//
// static ctest_bridge make_bridge(void *enter, void *leave, void *keep_state, void *defer_decref) {
//   return (ctest_bridge){(void (*)(void))enter, (void (*)(void))leave, (void (*)(void))keep_state,
//                         (void (*)(PyObject *))defer_decref};
// }
import "C"

import "unsafe"

func object(ptr unsafe.Pointer) *C.PyObject { return (*C.PyObject)(ptr) }

// Init must be called first, once Python runs.
func Init() { C.ctest_init() }

// Bridge is functions of cbridge.
type Bridge struct{ c C.ctest_bridge }

// NewBridge takes the addresses of enter, leave and keep_state, void (*)(void), and
// of defer_decref, void (*)(PyObject *).
func NewBridge(enter, leave, keepState, deferDecref unsafe.Pointer) *Bridge {
	Init()
	return &Bridge{C.make_bridge(enter, leave, keepState, deferDecref)}
}

// Kept calls fn() once, attached by the bridge's kept thread state.
func (b *Bridge) Kept(fn unsafe.Pointer) { C.ctest_kept(&b.c, object(fn)) }

// Ensured calls fn() once between PyGILState_Ensure and PyGILState_Release: on a thread
// without a state, one that is made and deleted each time. False: fn raised.
func Ensured(fn unsafe.Pointer) bool { return bool(C.ctest_ensured(object(fn))) }

// Plain calls fn() once; the thread is attached already.
func Plain(fn unsafe.Pointer) { C.ctest_plain(object(fn)) }

// HasState reports whether the calling OS thread has a Python thread state.
func HasState() bool { return bool(C.ctest_has_state()) }

// NewReference makes a further reference to ptr, and returns ptr. Attached.
func NewReference(ptr unsafe.Pointer) unsafe.Pointer {
	return unsafe.Pointer(C.ctest_new_reference(object(ptr)))
}

// Raise leaves a TypeError set. Attached.
func Raise() { C.ctest_raise() }

// ForeignEnter returns the address of a void(*)(void) that enters and leaves the bridge
// three times, as the callback of a C library would.
func (b *Bridge) ForeignEnter() uintptr { return uintptr(C.ctest_foreign_enter(&b.c)) }

// ForeignKeep returns the address of a void(*)(void) that has the calling thread keep
// its state. Attached.
func (b *Bridge) ForeignKeep() uintptr { return uintptr(C.ctest_foreign_keep(&b.c)) }

// Guest calls fn() n times on a new thread, each between PyGILState_Ensure and
// PyGILState_Release, as torch's threads do, and has it keep its state. The thread ends
// while the caller holds the GIL and waits for that.
func (b *Bridge) Guest(fn unsafe.Pointer, n int) { C.ctest_guest(&b.c, object(fn), C.int(n)) }

// DeferFromThread defers n decrefs of ptr from an OS thread that is never attached, and
// returns when it has.
func (b *Bridge) DeferFromThread(ptr unsafe.Pointer, n int) {
	C.ctest_defer_from_thread(&b.c, object(ptr), C.int(n))
}
