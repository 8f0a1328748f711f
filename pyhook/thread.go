package pyhook

import (
	"context"
	"runtime"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/ctxerr"
)

// BindThread gives the first caller Python's main thread, on which modules are imported
// and states are made, as in a plain Python trainer. A caller that comes while another has it
// gets a thread of its own: if the calls of two reducers shared one, a hook that waits
// for another rank in the one could keep that rank's turn in the other from coming. So does
// a caller on the main thread itself, inside RunOnMain, which would wait for itself.
func (h *PythonCommHook) BindThread() c10d.BoundThread { return h.rt.BindThread() }

// BindThread is PythonCommHook.BindThread, for all hooks of the runtime.
func (rt *Runtime) BindThread() c10d.BoundThread {
	if rt.interpreter.OnMain() || !rt.bound.CompareAndSwap(false, true) {
		return ownThread{}
	}
	return mainThread{rt}
}

type mainThread struct{ rt *Runtime }

func (m mainThread) Run(wake, loop func()) {
	defer m.rt.bound.Store(false)
	if m.rt.interpreter.HaveMain(wake, loop) != nil {
		loop() // Python is closed, and whatever it calls says so
	}
}

func (m mainThread) Waiting() bool { return m.rt.interpreter.MainWaiting() }
func (m mainThread) Serve()        { m.rt.interpreter.ServeMain() }

func (m mainThread) Wait(ctx context.Context, f *c10d.Future[c10d.Result]) (c10d.Result, error) {
	return m.rt.wait(ctx, f)
}

// wait is f.Wait(ctx). On Python's main thread it runs meanwhile what others gave RunOnMain.
func (rt *Runtime) wait(ctx context.Context, f *c10d.Future[c10d.Result]) (r c10d.Result, err error) {
	in := rt.interpreter
	if !in.OnMain() {
		return f.Wait(ctx)
	}
	for {
		here, wake := context.WithCancel(ctx)
		in.WhileMain(wake, func() { r, err = f.Wait(here) })
		woken := here.Err() != nil && ctx.Err() == nil
		wake()
		if !woken {
			return r, err
		}
		in.ServeMain()
	}
}

// ownThread locks the goroutine that calls Run to its thread. The thread's Python state is freed
// when the thread ends, which may be later.
type ownThread struct{}

func (ownThread) Run(_, loop func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	loop()
}

func (ownThread) Waiting() bool { return false }
func (ownThread) Serve()        {}

func (ownThread) Wait(ctx context.Context, f *c10d.Future[c10d.Result]) (c10d.Result, error) {
	return f.Wait(ctx)
}

// RunOnMain runs f on Python's main thread, an OS thread of its own, and returns when f
// has. LoadHook, NewState, Import and SaveState do so themselves, and ddp.Reducer calls
// hooks there. RunHook and the methods of an Object run on the calling thread: put such calls
// in f where they need what is bound to a thread. f waits while a hook's call is inside
// there, and must not wait for a Reducer itself. A ctx that ends before f began keeps f from
// running; later it does not stop f. The error is c10d.ErrClosed or the context's, and f did
// not run.
func (rt *Runtime) RunOnMain(ctx context.Context, f func()) error {
	return rt.interpreter.RunOnMain(ctx, f)
}

// callOnMain calls a function of _runtime/bridge.py as interruptibleOnMain does.
func (rt *Runtime) callOnMain(ctx context.Context, function string, args ...any) (o *Object, err error) {
	err = rt.interruptibleOnMain(ctx, func() (err error) {
		o, err = rt.bridge.Call(function, args...)
		return err
	})
	return o, err
}

// interruptibleOnMain calls f, which calls Python code, on Python's main thread. If ctx ends
// meanwhile, that code gets the exception pyhook.Interrupted, and the error is an
// *interruptedError unless the code caught it and returned. If ctx ends before, f is not called.
func (rt *Runtime) interruptibleOnMain(ctx context.Context, f func() error) (err error) {
	var stacks string
	var interrupted bool
	if notRun := rt.RunOnMain(ctx, func() {
		stacks, interrupted = rt.interpreter.Interruptible(ctx, func() { err = f() })
	}); notRun != nil {
		return notRun
	}
	cbridge.KeepFaults() // the code may have loaded libraries that took Go's signals
	if interrupted && isInterrupted(err) {
		return &interruptedError{err: ctxerr.While(ctx, "interrupted"), python: err, stacks: stacks}
	}
	return err
}

var _ c10d.ThreadBound = (*PythonCommHook)(nil)
