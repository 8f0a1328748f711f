package cbridge

// #include <pthread.h>
// #include "shim.h"
//
// // CPython knows a thread by this (PyThread_get_thread_ident).
// static inline unsigned long pyh_this_thread(void) { return (unsigned long)pthread_self(); }
//
// static inline int pyh_raise_in(unsigned long thread, PyObject *exc) {
//   return pyh.PyThreadState_SetAsyncExc(thread, exc);
// }
import "C"

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// RaiseAgain is after how long code that caught Interrupted gets it once more.
const RaiseAgain = 100 * time.Millisecond

// interruption raises Interrupted in the Python code of one thread.
type interruption struct {
	in     *Interpreter
	thread C.ulong
	stop   func() bool // of the context's AfterFunc
	gone   chan struct{}

	mu     sync.Mutex // held with Python attached, or for a moment
	over   bool       // the call has returned
	raised bool       // there may be an Interrupted on its way
	stacks string
}

// Interruptible calls f. If ctx ends meanwhile, the Python code that f runs on
// its own thread gets the exception pyhook.Interrupted, a BaseException, and
// again as long as it catches it. That reaches Python code only: what blocks in
// C (a lock, a sleep, a collective) is not woken, and gets it when it returns.
// interrupted says that it was raised, and stacks is then the stack of every
// Python thread at that moment. f must not call Interruptible.
func (in *Interpreter) Interruptible(ctx context.Context, f func()) (stacks string, interrupted bool) {
	if ctx.Done() == nil {
		f()
		return "", false
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	i := &interruption{in: in, thread: C.pyh_this_thread(), gone: make(chan struct{})}
	i.stop = context.AfterFunc(ctx, i.run)
	f()
	return i.end()
}

// run is called when the context has ended.
func (i *interruption) run() {
	defer close(i.gone)
	for i.raise() {
		time.Sleep(RaiseAgain)
	}
}

// raise returns whether the call is still inside.
func (i *interruption) raise() (inside bool) {
	i.mu.Lock()
	first := !i.raised && !i.over
	i.mu.Unlock()
	var stacks string
	if first {
		stacks, _ = i.in.Stacks()
	}
	exc, err := i.in.InterruptedClass()
	if err != nil {
		return false
	}
	defer exc.Close()
	class, err := exc.Hold()
	if err != nil {
		return false
	}
	defer exc.Release()
	err = Attached(func() {
		// Whoever runs Python there has to wait for us.
		i.mu.Lock()
		defer i.mu.Unlock()
		if inside = !i.over; !inside {
			return
		}
		if first {
			i.stacks = stacks
		}
		i.raised = true
		C.pyh_raise_in(i.thread, (*C.PyObject)(class))
	})
	return inside && err == nil
}

// end takes back an exception that came too late.
func (i *interruption) end() (string, bool) {
	i.mu.Lock()
	i.over = true
	i.mu.Unlock()
	if i.stop() {
		return "", false // it never ran
	}
	<-i.gone
	if i.raised {
		_ = Attached(func() { C.pyh_raise_in(i.thread, nil) })
	}
	return i.stacks, i.raised
}

// InterruptedClass returns the exception class pyhook.Interrupted. The caller
// closes it.
func (in *Interpreter) InterruptedClass() (*Object, error) { return in.bootstrap.Attr("Interrupted") }

// Stacks returns the stack of every Python thread but the caller's, as text.
func (in *Interpreter) Stacks() (string, error) {
	text, err := in.bootstrap.CallValue("stacks")
	if err != nil {
		return "", err
	}
	return text.(string), nil
}
