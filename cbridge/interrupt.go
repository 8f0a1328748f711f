package cbridge

// #include <pthread.h>
// #include "shim.h"
//
// // CPython knows a thread by this (PyThread_get_thread_ident).
// static inline unsigned long pyh_this_thread(void) { return (unsigned long)pthread_self(); }
import "C"

import (
	"context"
	_ "embed"
	"runtime"
	"sync"
	"time"
)

//go:embed interrupt.py
var pointSource string

const (
	// RaiseAgain is the time after which code that caught Interrupted gets it again.
	RaiseAgain = 100 * time.Millisecond
	// tryAgain is the time after which Interrupt tries again where it could not raise.
	tryAgain = time.Millisecond
)

// Target is a call of Python code that is to be interrupted.
type Target interface {
	// Thread returns the thread that runs the call, by Python's identifier; 0: it has not reached
	// Python yet. inside is false when the call is over.
	Thread() (thread uint64, inside bool)
	// Strike calls strike if that thread is still inside the call, and keeps it from leaving
	// meanwhile. It is called attached and must not call Python itself. stacks has the stacks of
	// all Python threads just before the first Strike.
	Strike(thread uint64, stacks string, strike func() bool) (struck bool)
	// Pause returns after d, or sooner when the call is over.
	Pause(d time.Duration)
}

// Interrupt raises pyhook.Interrupted in the Python code of a call, again whenever that catches it,
// and returns when the call is over. It raises it in the call's own thread only, and not while that
// takes or gives back a lock or runs pyhook's own code: interrupt.py.
func (in *Interpreter) Interrupt(t Target) {
	attempts, err := in.striking.attempts.Invoke(nil, nil)
	if err != nil {
		return
	}
	defer attempts.Close()
	stacks := ""
	for {
		thread, inside := t.Thread()
		if !inside {
			return
		}
		struck := false
		if thread != 0 {
			if err := Attached(func() { struck = in.strike(t, thread, attempts, &stacks) }); err != nil {
				return
			}
		}
		if struck {
			t.Pause(RaiseAgain)
		} else {
			t.Pause(tryAgain)
		}
	}
}

// strike tries once, attached.
func (in *Interpreter) strike(t Target, thread uint64, attempts *Object, stacks *string) bool {
	if *stacks == "" { // first, since the thread may go on meanwhile
		*stacks, _ = in.Stacks()
	}
	point, err := attempts.Invoke([]any{thread}, nil)
	if err != nil {
		return false
	}
	defer point.Close()
	if point.IsNone() {
		return false
	}
	return t.Strike(thread, *stacks, func() bool {
		return C.pyh_strike(point.ptr, in.striking.frames.ptr, C.ulong(thread), in.striking.class.ptr) == 1
	})
}

// striking holds the Python objects that an interruption needs.
type striking struct {
	attempts *Object // interrupt.py's Attempts
	frames   *Object // sys._current_frames
	class    *Object // pyhook.Interrupted
}

func (s *striking) load(in *Interpreter) error {
	module, err := in.Module("_pyhook_interrupt", pointSource)
	if err != nil {
		return err
	}
	defer module.Close()
	if s.attempts, err = module.Attr("Attempts"); err != nil {
		return err
	}
	if s.class, err = in.bootstrap.Attr("Interrupted"); err != nil {
		return err
	}
	absorb, err := module.Attr("absorb")
	if err != nil {
		return err
	}
	defer absorb.Close()
	C.pyh_set_absorb(absorb.ptr, s.class.ptr)
	sys, err := in.Import("sys")
	if err != nil {
		return err
	}
	defer sys.Close()
	s.frames, err = sys.Attr("_current_frames")
	return err
}

func (s *striking) close() {
	s.attempts.Close()
	s.frames.Close()
	s.class.Close()
}

// interruption is the Target of Interruptible.
type interruption struct {
	thread uint64
	done   chan struct{} // closed when the call has returned
	gone   chan struct{} // closed when Interrupt has

	mu     sync.Mutex // held with Python attached, or for a moment
	over   bool       // the call has returned
	raised bool       // there may be an Interrupted on its way
	stacks string
}

// Interruptible calls f. If ctx ends meanwhile, it raises pyhook.Interrupted, a BaseException, in
// the Python code that f runs on its own thread, again whenever that catches it. Code blocked in C
// (a lock, a sleep, a collective) sees it only after it returns to Python. interrupted says whether
// it was raised; stacks are then the stacks of all Python threads at that moment. f must not call
// Interruptible.
func (in *Interpreter) Interruptible(ctx context.Context, f func()) (stacks string, interrupted bool) {
	if ctx.Done() == nil {
		f()
		return "", false
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	i := &interruption{thread: uint64(C.pyh_this_thread()), done: make(chan struct{}), gone: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() {
		defer close(i.gone)
		in.Interrupt(i)
	})
	f()
	return i.end(stop)
}

// Thread: see Target.
func (i *interruption) Thread() (uint64, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.thread, !i.over
}

// Strike: see Target. The lock keeps the call from returning meanwhile.
func (i *interruption) Strike(_ uint64, stacks string, strike func() bool) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over || !strike() {
		return false
	}
	if !i.raised {
		i.raised, i.stacks = true, stacks
	}
	return true
}

// Pause: see Target.
func (i *interruption) Pause(d time.Duration) {
	select {
	case <-i.done:
	case <-time.After(d):
	}
}

// end takes back an exception that came too late.
func (i *interruption) end(stop func() bool) (string, bool) {
	i.mu.Lock()
	i.over = true
	i.mu.Unlock()
	if stop() {
		return "", false // it never ran
	}
	close(i.done)
	state := C.pyh_let_go() // Interrupt needs Python to come to its end
	<-i.gone
	C.pyh_go_on(state)
	if i.raised {
		_ = Attached(func() { C.pyh_take_back() })
	}
	return i.stacks, i.raised
}

// Stacks returns the stacks of all Python threads except the caller's, as text.
func (in *Interpreter) Stacks() (string, error) {
	text, err := in.bootstrap.CallValue("stacks")
	if err != nil {
		return "", err
	}
	return text.(string), nil
}
