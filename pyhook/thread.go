package pyhook

import (
	"runtime"
	"sync"

	"pyhook/cbridge"
)

// ThreadBound is a hook whose calls belong on one OS thread: what its code made there
// (a sqlite3 connection, an asyncio loop, a threading.local's values) is of use on that
// thread only. ddp.Reducer calls such a hook and its chains there.
type ThreadBound interface {
	// BindThread chooses the thread of a caller for as long as it goes on: run runs f
	// there and returns when f has, release lets go of it. Both from any goroutine.
	BindThread() (run func(f func()), release func())
}

// BindThread gives the first caller Python's main thread, on which modules are imported
// and states are made, as in a plain Python trainer. Who comes while another has it
// gets a thread of its own: if the calls of two reducers shared one, a hook that waits
// for another rank in the one could keep that rank's turn in the other from coming.
func (h *PythonCommHook) BindThread() (run func(f func()), release func()) {
	rt := h.rt
	if !rt.bound.CompareAndSwap(false, true) {
		return ownThread()
	}
	run = func(f func()) {
		if rt.RunOnMain(f) != nil {
			f() // Python is closed, and whatever f calls says so
		}
	}
	return run, sync.OnceFunc(func() { rt.bound.Store(false) })
}

// ownThread makes an OS thread that ends with release.
func ownThread() (run func(f func()), release func()) {
	calls, done := make(chan func()), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		for f := range calls {
			f()
			done <- struct{}{}
		}
	}()
	run = func(f func()) {
		calls <- f
		<-done
	}
	return run, sync.OnceFunc(func() { close(calls) })
}

// RunOnMain runs f on Python's main thread, an OS thread of its own, and returns when f
// has. LoadHook, NewState, Import and SaveState do so themselves, and ddp.Reducer calls
// hooks there. Whoever calls RunHook, or functions of an Object, directly does it on the
// calling thread: put such calls in f where they need what is bound to a thread. f waits
// while a hook's call is inside there. The error is ErrClosed, and f did not run.
func (rt *Runtime) RunOnMain(f func()) error { return rt.interpreter.RunOnMain(f) }

// callOnMain calls a function of _bridge.py on Python's main thread.
func (rt *Runtime) callOnMain(function string, args ...any) (o *Object, err error) {
	return rt.getOnMain(func() (*Object, error) { return rt.bridge.Call(function, args...) })
}

// getOnMain has f make an object on Python's main thread. Its code may have loaded
// libraries that took Go's signals.
func (rt *Runtime) getOnMain(f func() (*Object, error)) (o *Object, err error) {
	if closed := rt.RunOnMain(func() { o, err = f() }); closed != nil {
		return nil, closed
	}
	cbridge.KeepFaults()
	return o, err
}

var _ ThreadBound = (*PythonCommHook)(nil)
