package pyhook

// #include "hookcall.h"
import "C"

import (
	"context"
	"errors"
	"sync"
	"time"

	"pyhook/cbridge"
	"pyhook/internal/ctxerr"
)

// interruptedType is what Python raises in a hook whose context ended.
const interruptedType = "pyhook.Interrupted"

// watcher interrupts a hook's call when a context ends. It is kept over calls
// with the same context, as those of a step: what a context asks of those that
// wait for its end costs half a microsecond.
type watcher struct {
	h    *PythonCommHook
	ctx  context.Context
	stop func() bool

	mu          sync.Mutex    // taken without the GIL, or inside it for a moment
	c           *C.pyh_bucket // of the call that is inside; nil: none
	interrupted bool
	stacks      string
}

// callUntil is call, interrupted when ctx ends.
func (h *PythonCommHook) callUntil(ctx context.Context, python *pythonBucket, hook *Object, result *C.pyh_result) (stacks string, interrupted bool, err error) {
	// Without a GIL a call may end while it is being interrupted: that is for
	// Interruptible, and so are calls at the same time.
	if h.rt.interpreter.Python.FreeThreaded || !h.watching.TryLock() {
		var out C.pyh_result
		stacks, interrupted = h.rt.interpreter.Interruptible(ctx, func() { err = h.call(python, hook, nil, &out) })
		*result = out
		return stacks, interrupted, err
	}
	defer h.watching.Unlock()
	w := h.watcher.Load()
	if w == nil || w.ctx != ctx {
		w = &watcher{h: h, ctx: ctx}
		w.stop = context.AfterFunc(ctx, w.run)
		if former := h.watcher.Swap(w); former != nil {
			former.stop()
		}
	}
	err = h.call(python, hook, w, result)
	return w.stacks, w.interrupted, err
}

// unwatch lets go of the last context.
func (h *PythonCommHook) unwatch() {
	if w := h.watcher.Swap(nil); w != nil {
		w.stop()
	}
}

func (w *watcher) enter(c *C.pyh_bucket) {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.c, w.interrupted, w.stacks = c, false, ""
	w.mu.Unlock()
	if w.ctx.Err() != nil { // it ended before the call was there to be seen
		go w.run()
	}
}

func (w *watcher) leave() {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.c = nil
	w.mu.Unlock()
}

func (w *watcher) inside() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.c != nil
}

// run is called when the context has ended.
func (w *watcher) run() {
	if !w.inside() {
		return
	}
	in := w.h.rt.interpreter
	class, err := in.InterruptedClass()
	if err != nil {
		return
	}
	defer class.Close()
	exception, err := class.Hold()
	if err != nil {
		return
	}
	defer class.Release()
	stacks, _ := in.Stacks()
	for w.inside() {
		err := cbridge.Attached(func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.c != nil && C.pyh_interrupt(w.h.rt.tools.c, w.c, C.uintptr_t(uintptr(exception))) != 0 {
				w.interrupted, w.stacks = true, stacks
			}
		})
		if err != nil {
			return
		}
		time.Sleep(cbridge.RaiseAgain)
	}
}

// isInterrupted says whether a hook failed because it was interrupted.
func isInterrupted(err error) bool {
	var python *PythonError
	if !errors.As(err, &python) {
		return false
	}
	for ; python != nil; python = python.Cause {
		if python.Type == interruptedType {
			return true
		}
	}
	return false
}

// interrupted is the error of a hook that its context ended: err is what came
// of it, stacks is where every Python thread was.
func (h *PythonCommHook) interrupted(ctx context.Context, bucket int, stacks string, err error) error {
	cause := context.Cause(ctx)
	return &HookError{Hook: h.name, Rank: h.rt.Rank(), Bucket: bucket, Kind: ctxerr.As(ctx, ErrInterrupted),
		Detail: cause.Error(), Err: errors.Join(cause, err), Stacks: stacks,
		Hint: "Stacks says where it was; hook and bucket can be used again, and what it had started goes on"}
}
