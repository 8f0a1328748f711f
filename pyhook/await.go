package pyhook

// #include "hookcall.h"
// #cgo noescape pyh_arm
// #cgo nocallback pyh_arm
// #cgo noescape pyh_block
// #cgo nocallback pyh_block
import "C"

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"pyhook/c10d"
	"pyhook/cbridge"
)

// awaited is a torch future that is pending, and the Go future of it.
//
// A torch future that never completes is never freed once it has a callback:
// torch's own callback holds it (torch/csrc/jit/python/pybind_utils.h,
// PythonFutureWrapper::add_done_callback). Closing the Go future, or the
// Runtime, frees all that hangs on it here.
type awaited struct {
	id      uintptr
	rt      *Runtime
	c       *C.pyh_pending   // a reference
	bucket  *c10d.GradBucket // of the hook call; nil for other futures
	python  *pythonBucket    // a reference, or nil
	wrapErr func(error) error
	promise c10d.Promise[c10d.Result]

	blocked atomic.Bool // a goroutine is in Block
}

// awaiting finds them by what C knows them by. A thread of torch takes the lock
// while it holds the GIL: who holds it must not wait for Python.
var awaiting = struct {
	sync.Mutex
	last uintptr
	all  map[uintptr]*awaited
}{all: map[uintptr]*awaited{}}

// pendings counts what torch or Go still holds of pending futures, for tests.
func pendings() int64 { return int64(C.pyh_pendings()) }

// await makes the Go future of a torch future that is pending. It takes over the
// reference c, and python, which may be nil. wrapErr makes errors say where they are.
func (rt *Runtime) await(c *C.pyh_pending, b *c10d.GradBucket, python *pythonBucket, wrapErr func(error) error) *c10d.Future[c10d.Result] {
	a := &awaited{rt: rt, c: c, bucket: b, python: python, wrapErr: wrapErr}
	a.promise.Init(a, wrapErr)
	var result C.pyh_result
	awaiting.Lock()
	awaiting.last++
	a.id = awaiting.last
	done := C.pyh_arm(c, C.uintptr_t(a.id), &result) == 1
	if !done {
		awaiting.all[a.id] = a
	}
	awaiting.Unlock()
	if done {
		a.complete(result)
	} else if rt.closed.Load() {
		a.Abandon() // Close may have gone through the pending ones before
	}
	return a.promise.Future()
}

// pyhookFutureDone runs on a thread of torch, which holds the GIL: it must not
// wait for a lock that somebody holds who waits for the GIL.
//
//export pyhookFutureDone
func pyhookFutureDone(id C.uintptr_t, result *C.pyh_result) {
	if a := takeAwaited(uintptr(id)); a != nil {
		a.complete(*result)
	}
}

// takeAwaited takes it out of the table: whoever gets it finishes it. nil:
// somebody else did.
func takeAwaited(id uintptr) *awaited {
	awaiting.Lock()
	defer awaiting.Unlock()
	a := awaiting.all[id]
	delete(awaiting.all, id)
	return a
}

// waits runs f while a is in the table, and so its C part is there.
func (a *awaited) waits(f func()) bool {
	awaiting.Lock()
	defer awaiting.Unlock()
	_, waits := awaiting.all[a.id]
	if waits {
		f()
	}
	return waits
}

// blocking counts the threads that are in Block.
var blocking atomic.Int32

// Block returns when a's future is done, when ctx has ended, or at once. It waits
// in C, as C++ does on a condition variable: whoever completes the future then
// wakes this thread and need not enter Go, and Go's scheduler need not find a
// thread for this goroutine. Where that would take the last processor from Go, or
// another goroutine waits so already, it does not wait.
func (a *awaited) Block(ctx context.Context) {
	if blocking.Add(1) < int32(runtime.GOMAXPROCS(0)) && a.blocked.CompareAndSwap(false, true) {
		if a.waits(func() { C.pyh_pending_retain(a.c) }) {
			stop := func() bool { return true }
			if ctx.Done() != nil {
				stop = context.AfterFunc(ctx, func() { a.waits(func() { C.pyh_wake(a.c) }) })
			}
			var result C.pyh_result
			done := C.pyh_block(a.c, &result) == 1
			stop()
			if done && takeAwaited(a.id) != nil {
				a.complete(result)
			}
			C.pyh_pending_release(a.c)
		}
		a.blocked.Store(false)
	}
	blocking.Add(-1)
}

// complete is for a that is in the table no more.
func (a *awaited) complete(result C.pyh_result) {
	value, err := resultOf(result, a.bucket, a.python, a.wrapErr)
	if !a.promise.Complete(value, err) && value != nil {
		value.Release()
	}
	a.finish()
}

// Abandon is for a result that nobody will read.
func (a *awaited) Abandon() {
	a.promise.Complete(nil, a.wrapErr(fmt.Errorf("the future: %w", c10d.ErrClosed)))
	won := false
	a.waits(func() {
		if won = C.pyh_abandon(a.c) == 1; won {
			delete(awaiting.all, a.id)
		}
	})
	if won {
		a.finish()
	}
}

func (a *awaited) finish() {
	a.python.release()
	C.pyh_pending_release(a.c)
}

// abandonAll is for what is pending when the Runtime ends.
func (rt *Runtime) abandonAll() {
	var all []*awaited
	awaiting.Lock()
	for _, a := range awaiting.all {
		if a.rt == rt {
			all = append(all, a)
		}
	}
	awaiting.Unlock()
	for _, a := range all {
		a.Abandon()
	}
}

// resultOf makes the result, or the error, of a future that is done. One that is Python's holds a
// reference of python.
func resultOf(result C.pyh_result, b *c10d.GradBucket, python *pythonBucket, wrapErr func(error) error) (c10d.Result, error) {
	if result.touched != 0 {
		b.Detach(pythonKey, python)
	}
	switch result.outcome {
	case C.PYH_FAILED:
		return nil, wrapErr(taken(result.error))
	case C.PYH_SAME:
		return c10d.TensorResult{Tensor: python.buffer}, nil
	}
	if python != nil {
		python.refs.Add(1)
	}
	return &pythonResult{object: cbridge.Own(unsafe.Pointer(result.object)), python: python}, nil
}
