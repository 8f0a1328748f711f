// Package memory counts who uses a piece of memory: tensors of Go, and tensors of Python over the
// same bytes. The memory is released with the last reference, on any thread.
package memory

// #cgo CFLAGS: -std=gnu11 -O3 -Wall -Wextra
// #include "memory.h"
import "C"

import (
	"os"
	"runtime/cgo"
	"sync"
	"syscall"
	"unsafe"
)

// Owner owns a piece of memory. It is one counted reference, which one Release gives up; the zero
// value owns nothing. Any goroutine may use it.
type Owner struct{ c unsafe.Pointer }

// Live returns how many owners are alive in the process, whoever holds them.
func Live() int64 { return int64(C.pyh_owners()) }

// Alloc returns zeroed C memory at a multiple of align, which is a power of 2. It is not ok when
// there is not enough memory.
func Alloc(bytes uint64, align int) (owner Owner, base unsafe.Pointer, ok bool) {
	c := C.pyh_owner_alloc(C.size_t(bytes), C.size_t(align), &base)
	return Owner{unsafe.Pointer(c)}, base, c != nil
}

// Of returns an owner of memory that the C function free, void (*)(void *), releases, on the
// thread of the last reference.
func Of(memory, free unsafe.Pointer) Owner {
	owner := C.pyh_owner_of(memory, (*[0]byte)(free))
	if owner == nil {
		panic("pyhook: out of memory")
	}
	return Owner{unsafe.Pointer(owner)}
}

// Retain adds a reference.
func (o Owner) Retain() { C.pyh_owner_retain(o.c) }

// Release gives up a reference.
func (o Owner) Release() { C.pyh_owner_release(o.c) }

// Pointer is what the C functions of Functions take.
func (o Owner) Pointer() unsafe.Pointer { return o.c }

// Functions returns C's void (*)(void *owner) for Retain and Release, for any thread.
func Functions() (retain, release unsafe.Pointer) {
	return C.pyh_owner_retain_address(), C.pyh_owner_release_address()
}

// startReaper starts the reaper, with the first foreign memory. C code drops the last reference on
// any thread, with or without the GIL, so it only lists the release function's handle and wakes the
// reaper.
var startReaper sync.Once

// Foreign returns an owner of memory that release releases, soon after the last reference is gone,
// on a goroutine of this package.
func Foreign(release func()) Owner {
	startReaper.Do(func() {
		r, w, err := os.Pipe()
		if err != nil {
			panic("pyhook: no pipe for the reaper: " + err.Error())
		}
		// Fd made it blocking, and a deleter must never wait for the reaper: it may hold the GIL
		// that a release function waits for.
		fd := int(w.Fd())
		if err := syscall.SetNonblock(fd, true); err != nil {
			panic("pyhook: the reaper's pipe: " + err.Error())
		}
		C.pyh_owner_notify(C.int(fd))
		go reap(r, w)
	})
	owner := C.pyh_owner_foreign(C.uintptr_t(cgo.NewHandle(release)))
	if owner == nil {
		panic("pyhook: out of memory")
	}
	return Owner{unsafe.Pointer(owner)}
}

// reap calls the release functions. It keeps w, which C writes to, open.
func reap(r, w *os.File) {
	defer w.Close()
	buffer := make([]byte, 512)
	for {
		if _, err := r.Read(buffer); err != nil {
			return
		}
		for c := C.pyh_owner_next_released(); c != 0; c = C.pyh_owner_next_released() {
			handle := cgo.Handle(c)
			release := handle.Value().(func())
			handle.Delete()
			release()
		}
	}
}
