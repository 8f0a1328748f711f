package cbridge

// #include "shim.h"
import "C"

import (
	"context"
	"sync"
	"sync/atomic"

	"pyhook/internal/ctxerr"
)

// mainQueue holds the calls that wait for Python's main thread, in the order in which they came.
type mainQueue struct {
	length atomic.Int64 // of calls

	mu    sync.Mutex
	calls []*mainCall
	wake  func()        // of HaveMain's loop, called when calls come; nil: no loop has the thread
	come  chan struct{} // the thread itself waits for it while no loop has it
}

type mainCall struct {
	f       func()
	claimed atomic.Bool // it runs, or never will
	done    chan any    // what it panicked with, or nil
}

func newMainQueue() *mainQueue {
	return &mainQueue{come: make(chan struct{}, 1)}
}

func (q *mainQueue) push(c *mainCall) {
	q.mu.Lock()
	q.calls = append(q.calls, c)
	q.length.Add(1)
	wake := q.wake
	q.mu.Unlock()
	if wake != nil {
		wake()
		return
	}
	select {
	case q.come <- struct{}{}:
	default: // it will look in any case
	}
}

// serve runs what is there now, on the calling thread.
func (q *mainQueue) serve() {
	for {
		q.mu.Lock()
		if len(q.calls) == 0 {
			q.mu.Unlock()
			return
		}
		c := q.calls[0]
		q.calls = q.calls[1:]
		q.length.Add(-1)
		q.mu.Unlock()
		if c.claimed.CompareAndSwap(false, true) {
			c.run()
		}
	}
}

func (c *mainCall) run() {
	defer func() { c.done <- recover() }()
	c.f()
}

// has gives the thread to a loop, whose wake is called when calls come, and returns the former
// loop's. With nil the thread itself serves the queue.
func (q *mainQueue) has(wake func()) (former func()) {
	q.mu.Lock()
	former, q.wake = q.wake, wake
	waiting := len(q.calls) > 0
	q.mu.Unlock()
	if waiting && wake != nil {
		wake()
	}
	return former
}

// RunOnMain runs f on Python's main thread and returns when f has returned; a panic of f is the
// caller's. Imports belong there, and what is bound to the thread that made it (sqlite3's
// connections, asyncio's loops). f waits for the calls before it, or until ctx ends; ctx does not
// stop an f that runs. With an error, ErrClosed, ErrNotRunning or the context's, f did not run.
func (in *Interpreter) RunOnMain(ctx context.Context, f func()) error {
	if err := running(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctxerr.While(ctx, "not called")
	}
	if C.pyh_on_main_thread() {
		f() // a Go function that Python's main thread called
		return nil
	}
	c := &mainCall{f: f, done: make(chan any, 1)}
	in.main.push(c)
	var err error
	select {
	case p := <-c.done:
		return c.end(p)
	case <-in.over:
		err = ErrClosed
	case <-ctx.Done():
		err = ctxerr.While(ctx, "not called, waiting for Python's main thread")
	}
	if c.claimed.CompareAndSwap(false, true) {
		return err
	}
	return c.end(<-c.done)
}

func (c *mainCall) end(p any) error {
	if p != nil {
		panic(p)
	}
	return nil
}

// OnMain reports whether the calling goroutine is on Python's main thread.
func (in *Interpreter) OnMain() bool { return running() == nil && bool(C.pyh_on_main_thread()) }

// HaveMain runs loop on Python's main thread until loop returns; its calls of Python need no
// hand-over to another thread. Calls of RunOnMain wait meanwhile. loop must call ServeMain when it
// is idle and MainWaiting is true; wake is called, on any goroutine, when that may have become
// true. The error is RunOnMain's.
func (in *Interpreter) HaveMain(wake, loop func()) error {
	return in.RunOnMain(context.Background(), func() { in.WhileMain(wake, loop) })
}

// WhileMain is HaveMain for a loop inside another one; call it on Python's main thread.
func (in *Interpreter) WhileMain(wake, loop func()) {
	former := in.main.has(wake)
	defer func() { in.main.has(former) }()
	loop()
}

// MainWaiting reports whether calls wait for Python's main thread.
func (in *Interpreter) MainWaiting() bool { return in.main.length.Load() > 0 }

// ServeMain runs the waiting calls. HaveMain's loop calls it.
func (in *Interpreter) ServeMain() { in.main.serve() }
