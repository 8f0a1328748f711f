package tensorconv

// #cgo CFLAGS: -std=gnu11 -O3 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -DPYHOOK_PYAPI=0xb781325bde93
// #include "memory.h"
import "C"

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// LiveMemory returns how many pieces of memory tensors hold in the process, on
// either side of the bridge.
func LiveMemory() int64 { return int64(C.pyh_owners()) }

// Release functions of foreign memory, by the id that C holds. C code drops the
// last use on any thread, with or without the GIL, so it only lists the id and
// wakes the reaper.
var (
	releases    sync.Map // uintptr -> func()
	lastRelease atomic.Uintptr
	startReaper sync.Once
)

func foreignOwner(release func()) *C.pyh_owner {
	startReaper.Do(func() {
		r, w, err := os.Pipe()
		if err != nil {
			panic("tensorconv: no pipe for the reaper: " + err.Error())
		}
		// Fd made it blocking, and a deleter must never wait for the reaper: it
		// may hold the GIL that a release function waits for.
		fd := int(w.Fd())
		if err := syscall.SetNonblock(fd, true); err != nil {
			panic("tensorconv: the reaper's pipe: " + err.Error())
		}
		C.pyh_owner_notify(C.int(fd))
		go reap(r, w)
	})
	id := lastRelease.Add(1)
	releases.Store(id, release)
	owner := C.pyh_owner_foreign(C.uintptr_t(id))
	if owner == nil {
		panic("tensorconv: out of memory")
	}
	return owner
}

// reap calls the release functions. It keeps w, which C writes to, open.
func reap(r, w *os.File) {
	defer w.Close()
	buffer := make([]byte, 512)
	for {
		if _, err := r.Read(buffer); err != nil {
			return
		}
		for id := C.pyh_owner_next_released(); id != 0; id = C.pyh_owner_next_released() {
			if release, ok := releases.LoadAndDelete(uintptr(id)); ok {
				release.(func())()
			}
		}
	}
}
