package pyhook

import (
	"context"
	"errors"
	"sync"
	"time"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/ctxerr"
)

// interruptedType is what Python raises in a hook whose context ended.
const interruptedType = "pyhook.Interrupted"

// givenUpType is what a chain that is closed early gives its futures.
const givenUpType = "pyhook._runtime.give_up.GivenUp"

// interrupter interrupts a hook's call when a context ends. A hook keeps it for its next calls
// with the same context, as those of a step: context.AfterFunc costs half a microsecond.
type interrupter struct {
	h    *PythonCommHook
	ctx  context.Context
	stop func() bool

	mu          sync.Mutex          // taken without the GIL, or inside it for a moment
	call        *cbridge.Invocation // that is inside; nil: none
	running     bool                // a goroutine is in run
	interrupted bool
	stacks      string
}

// callUntil is call, with the hook interrupted when ctx ends.
func (h *PythonCommHook) callUntil(ctx context.Context, python *pythonBucket, alone bool, hook *Object, result *cbridge.Result) (stacks string, interrupted bool, err error) {
	// Without a GIL a call may end while it is being interrupted: that is for
	// Interruptible, and so are calls at the same time.
	if h.rt.interpreter.Python.FreeThreaded || !h.interruptible.TryLock() {
		var out cbridge.Result
		stacks, interrupted = h.rt.interpreter.Interruptible(ctx, func() { err = h.call(python, alone, hook, nil, &out) })
		*result = out
		return stacks, interrupted, err
	}
	defer h.interruptible.Unlock()
	w := h.interrupter.Load()
	if w == nil || w.ctx != ctx {
		w = &interrupter{h: h, ctx: ctx}
		w.stop = context.AfterFunc(ctx, w.run)
		if former := h.interrupter.Swap(w); former != nil {
			former.stop()
		}
	}
	err = h.call(python, alone, hook, w, result)
	return w.stacks, w.interrupted, err
}

// releaseInterrupter drops the last context.
func (h *PythonCommHook) releaseInterrupter() {
	if w := h.interrupter.Swap(nil); w != nil {
		w.stop()
	}
}

func (w *interrupter) enter(call *cbridge.Invocation) {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.call, w.interrupted, w.stacks = call, false, ""
	w.mu.Unlock()
	if w.ctx.Err() != nil { // it ended before the call was there to be seen
		go w.run()
	}
}

func (w *interrupter) leave() {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.call = nil
	w.mu.Unlock()
}

// run is called when the context has ended.
func (w *interrupter) run() {
	w.mu.Lock()
	idle := !w.running && w.call != nil
	w.running = w.running || idle
	w.mu.Unlock()
	if idle {
		w.h.rt.interpreter.Interrupt(w)
	}
}

// Thread: see cbridge.Target. The call sets the thread, which Strike looks at again.
func (w *interrupter) Thread() (uint64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.call == nil {
		w.running = false
		return 0, false
	}
	return w.call.Thread(), true
}

// Strike: see cbridge.Target.
func (w *interrupter) Strike(thread uint64, stacks string, strike func() bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.call == nil || w.call.Thread() != thread || !strike() {
		return false
	}
	w.call.SetInterrupted()
	w.interrupted, w.stacks = true, stacks
	return true
}

// Pause: see cbridge.Target.
func (w *interrupter) Pause(d time.Duration) { time.Sleep(d) }

// isInterrupted says whether a hook failed because it was interrupted. Of an exception in a
// callback that torch runs itself only the text is left: nameOrigin.
func isInterrupted(err error) bool {
	return raisedBy(err, interruptedType) || raisedBy(err, "Interrupted")
}

// raisedBy says whether an exception of that type is what was raised, or a cause of it.
func raisedBy(err error, kind string) bool {
	var python *PythonError
	if !errors.As(err, &python) {
		return false
	}
	for ; python != nil; python = python.Cause {
		if python.Type == kind {
			return true
		}
	}
	return false
}

// futureCode is the code of the error that a hook's future failed with.
func futureCode(err error) c10d.Code {
	switch {
	case isInterrupted(err):
		return c10d.ErrInterrupted
	case raisedBy(err, givenUpType):
		return c10d.ErrClosed
	}
	return c10d.ErrFutureFailed
}

// interrupted is the error of a hook that its context ended: err is what came
// of it, stacks is where every Python thread was.
func (h *PythonCommHook) interrupted(ctx context.Context, bucket int, stacks string, err error) error {
	cause := context.Cause(ctx)
	var python *PythonError
	if errors.As(err, &python) {
		err = python // and not that the hook raised, or its future failed
	}
	return &c10d.Error{Op: "hook " + h.name, Rank: h.rt.Rank(), Bucket: bucket, Code: c10d.ErrInterrupted, Also: []c10d.Code{contextCode(ctx)},
		Detail: cause.Error(), Err: errors.Join(cause, err), Stacks: stacks,
		Hint: "Stacks says where it was; what it had started goes on; " + c10d.UsableAgain}
}

// interruptedError is the error of Python code, other than a hook's call, that the end of a
// context interrupted: an import, the making of a hook or state, a state's own functions.
// newError makes a *c10d.Error of it.
type interruptedError struct {
	err    *ctxerr.Error
	python error
	stacks string // of every Python thread, when it was interrupted
}

func (e *interruptedError) Error() string { return e.err.Error() }

// Unwrap returns c10d.ErrInterrupted, the context's error and Python's.
func (e *interruptedError) Unwrap() []error { return []error{c10d.ErrInterrupted, e.err, e.python} }

const interruptedHint = "Stacks says where Python was; call it again with a context that lasts longer: a module " +
	"whose import was interrupted is imported anew"

// interruption returns the error of a call that failed because it was interrupted, in itself or in
// a callback that ran in it: err, or the future's. nil: it did not.
func interruption(future *c10d.Future[c10d.Result], err error) error {
	if err == nil && future != nil && future.IsDone() {
		_, err = future.Wait(context.Background())
	}
	if isInterrupted(err) {
		return err
	}
	return nil
}
