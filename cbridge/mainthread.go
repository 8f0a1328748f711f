package cbridge

// #include "shim.h"
import "C"

import (
	"context"
	"sync"
	"sync/atomic"

	"pyhook/internal/ctxerr"
)

// mainQueue is what is to be run on Python's main thread, in the order it came.
type mainQueue struct {
	length atomic.Int64 // of calls

	mu    sync.Mutex
	calls []*mainCall
	wake  func()        // tells whoever has the thread that calls came; nil: nobody has
	come  chan struct{} // the thread itself waits for it while nobody has it
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

// has gives the thread to somebody: wake is called when calls come. It returns who had
// it. nil is nobody, and then the thread itself looks after what there is.
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

// RunOnMain runs f on the OS thread that Python takes for its main thread and
// returns when f has; a panic of f is the caller's. Imports, and what is bound to the
// thread that made it (sqlite3's connections, asyncio's loops), belong there. f waits
// until what runs there before it is done, or until ctx ends; a context that ends later
// does not stop f. The error is ErrClosed, ErrNotRunning or the context's, and f did not run.
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

// OnMain says whether the calling goroutine is on Python's main thread.
func (in *Interpreter) OnMain() bool { return running() == nil && bool(C.pyh_on_main_thread()) }

// HaveMain runs loop on Python's main thread, for as long as it likes: what then is
// called there costs no hand-over to another thread. What others give RunOnMain waits
// meanwhile, until loop calls ServeMain, which it does when it has nothing to do and
// MainWaiting is true; wake is called, on any goroutine, when that may have become so.
// The error is RunOnMain's.
func (in *Interpreter) HaveMain(wake, loop func()) error {
	return in.RunOnMain(context.Background(), func() { in.WhileMain(wake, loop) })
}

// WhileMain, on Python's main thread, is HaveMain for a loop inside another.
func (in *Interpreter) WhileMain(wake, loop func()) {
	former := in.main.has(wake)
	defer func() { in.main.has(former) }()
	loop()
}

// MainWaiting says whether somebody has something to run on Python's main thread.
func (in *Interpreter) MainWaiting() bool { return in.main.length.Load() > 0 }

// ServeMain, by HaveMain's loop, runs that.
func (in *Interpreter) ServeMain() { in.main.serve() }
