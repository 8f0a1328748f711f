package pyhook

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/ctxerr"
)

// HookConfig is what a hook is made with.
type HookConfig struct {
	// State is the hook's first argument: a StateSpec, which says how to make it, a
	// Go value (see cbridge.Convert), an *Object such as NewState returns, or a
	// *TorchGroup. nil is None, which PyTorch's stateless hooks take for the default
	// group; PyTorch's PowerSGD then gets its state with PyTorch's defaults, and a
	// hook that an object registers the state that it is registered with.
	State any
	// Group is given as process_group to states and hooks that are made here and
	// take one. nil: the default group.
	Group *TorchGroup
	// Parameters of the model, in the order of ddp.NewReducer's, are given to states
	// and hooks that are made here and take parameters: see Runtime.Parameters.
	Parameters []*c10d.Parameter
	// Futures: FutureFormsNCCL for a hook that indexes futures as NCCL gives them.
	Futures FutureForms
}

// PythonCommHook is a Python hook and its state: c10d::PythonCommHook
// (torch/csrc/distributed/c10d/python_comm_hook.h).
type PythonCommHook struct {
	rt          *Runtime
	name        string
	description string // see Description
	hook        *Object
	state       *slot
	callable    *Object // what RunHook calls: the hook, or what the following have around it
	ncclForms   bool    // see FutureFormsNCCL
	report      *Object // see TraceCollectives; nil: its collectives are not reported
	checks      bool    // see CheckCollectives

	stateless bool // the state is None
	usesForms bool // it did not ask for NCCL's forms, and names collectives that have others

	interruptible sync.Mutex // held during a call that interrupter may interrupt
	interrupter   atomic.Pointer[interrupter]

	legacy  legacyNames
	buckets hookBuckets
	kept    snapshot
}

// LoadHook finds a hook by "package.module:name", "path/file.py:name", a short
// name of PyTorch's own (allreduce, fp16, bf16, powersgd, batched_powersgd,
// noop, quantize_pertensor, quantize_perchannel, post_localsgd) or a wrapper
// around others, "fp16_wrapper(powersgd)". It may be any callable that takes
// (state, bucket). Arguments are Python literals and specs, also with keywords:
// "my_hooks.py:make(rank=2, inner=fp16)". An object or a class that registers a hook
// with a DDP model, "gns.py:Stats(ddp)", gives that hook: see Capture. Its module is
// imported on Python's main thread. The caller closes the result. The error is a *c10d.Error.
//
// The end of ctx interrupts the Python code that runs meanwhile, as it does a hook's call
// (RunHook); the error is then c10d.ErrInterrupted and the context's. A context that has ended
// before keeps everything from being called. So it is with NewState, NewHook, WrapHook and Capture.
func (rt *Runtime) LoadHook(ctx context.Context, spec string) (*Object, error) {
	return rt.loadHook(ctx, spec, ofTrainer{})
}

// NewState makes a hook's state from a class (a spec as LoadHook's, or the
// short names powersgd, post_localsgd) and keyword arguments, on Python's main thread. A parameter
// process_group is filled with group (nil: the default group) unless kwargs
// has it, and a parameter `parameters` takes what Parameters returns, or a
// *c10d.Parameter is any argument. The caller closes the result. The error is a
// *c10d.Error. A StateSpec in HookConfig.State does the same.
func (rt *Runtime) NewState(ctx context.Context, spec string, kwargs map[string]any, group *TorchGroup) (*Object, error) {
	return rt.newState(ctx, StateSpec{Spec: spec, Args: kwargs}, ofTrainer{group: group})
}

// NewHook loads a hook by its spec, makes its state if cfg.State says how, and puts
// both together.
func (rt *Runtime) NewHook(ctx context.Context, spec string, cfg HookConfig) (*PythonCommHook, error) {
	trainer, err := rt.ofTrainer(cfg)
	if err != nil {
		return nil, err
	}
	defer trainer.close()
	hook, err := rt.loadHook(ctx, spec, trainer)
	if err != nil {
		return nil, err
	}
	defer hook.Close()
	return rt.wrapHook(ctx, hook, cfg.State, trainer)
}

// WrapHook makes a hook of any Python callable. hook and cfg.State stay the
// caller's.
func (rt *Runtime) WrapHook(ctx context.Context, hook *Object, cfg HookConfig) (*PythonCommHook, error) {
	trainer, err := rt.ofTrainer(cfg)
	if err != nil {
		return nil, err
	}
	defer trainer.close()
	return rt.wrapHook(ctx, hook, cfg.State, trainer)
}

// Name returns the hook's qualified Python name.
func (h *PythonCommHook) Name() string { return h.name }

// Hook returns the hook's Python callable; it belongs to the hook.
func (h *PythonCommHook) Hook() *Object { return h.hook }

// State returns the hook's state; it belongs to the hook.
func (h *PythonCommHook) State() *Object { return h.state.get() }

// Close drops the hook and its state. Calls that are inside finish. Idempotent.
func (h *PythonCommHook) Close() {
	h.hook.Close()
	h.state.close()
	h.callable.Close()
	h.report.Close()
	h.buckets.last.Store(nil)
	h.releaseInterrupter()
}

func (h *PythonCommHook) fail(b *c10d.GradBucket, code c10d.Code, err error) error {
	index := -1
	if b != nil {
		index = b.Index()
	}
	return h.failAt(index, code, err)
}

func (h *PythonCommHook) failAt(bucket int, code c10d.Code, err error) error {
	var known *c10d.Error
	if errors.As(err, &known) {
		return err
	}
	return h.advise(hookError(h.name, h.rt.Rank(), bucket, code, err))
}

// RunHook calls hook(state, bucket) and returns its future without waiting
// (PythonCommHook::runHook). Every call gets a bucket object of its own, so
// what the hook does to that (set_buffer) does not show in the next. The future
// of a hook that is done at once, with the bucket's own buffer, is the same
// *c10d.Future[c10d.Result] at each call: it costs nothing. After an error the bucket and the hook
// may be used again, but where there are several ranks, others may wait in the
// collectives of the call that failed. The error is a *c10d.Error: c10d.ErrStateBuckets,
// c10d.ErrRaised, c10d.ErrNotFuture, c10d.ErrNoneResult, c10d.ErrClosed, or the context's. When ctx
// ends during the call the hook gets the exception pyhook.Interrupted, again if
// it catches it, and the error is c10d.ErrInterrupted and the context's. What blocks
// in C, a collective that is waited for perhaps, gets it when it returns.
//
// Its callbacks run as PyTorch runs them: on gloo on gloo's threads, as soon as a
// collective is done. A callback that waits there for the work whose callback it is
// (work.wait()) waits for itself, in PyTorch too. RunHookChained has neither.
func (h *PythonCommHook) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	return h.run(ctx, b, h.callable)
}

// run calls hook, which is h.callable or a chain around it.
func (h *PythonCommHook) run(ctx context.Context, b *c10d.GradBucket, hook *Object) (*c10d.Future[c10d.Result], error) {
	if b.Sparse() != nil {
		return h.runSparse(ctx, b, hook)
	}
	if ctx.Err() != nil {
		return nil, h.fail(b, contextCode(ctx), ctxerr.While(ctx, notCalled))
	}
	if err := h.buckets.check(b); err != nil {
		e := hookError(h.name, h.rt.Rank(), b.Index(), c10d.ErrStateBuckets, err)
		e.Hint = bucketsHint
		return nil, e
	}
	python, alone, err := pythonBucketOf(h.rt.torchAPI, b)
	if err != nil {
		return nil, h.fail(b, c10d.ErrBucket, err)
	}
	if python.buffer.DType().IsComplex() {
		if _, err := h.rt.bridge.CallValue("check_complex", h.hook); err != nil {
			python.release()
			return nil, h.fail(b, c10d.ErrComplex, err)
		}
	}
	callable := hook
	if python.stream != nil {
		if callable, err = python.stream.around(hook); err != nil {
			python.release()
			return nil, h.fail(b, c10d.ErrBucket, err)
		}
	}
	var result cbridge.Result
	stacks, interrupted := "", false
	if ctx.Done() == nil {
		err = h.call(python, alone, callable, nil, &result)
	} else {
		stacks, interrupted, err = h.callUntil(ctx, python, alone, callable, &result)
	}
	if callable != hook {
		callable.Close()
	}
	if err != nil {
		python.release()
		return nil, h.fail(b, c10d.ErrClosed, err)
	}
	if result.Outcome == cbridge.Same { // nothing of Python is left to look at
		future := python.same
		python.release()
		return future, nil
	}
	future, err := h.futureOf(b, python, &result)
	if !interrupted {
		return future, err
	}
	if failed := interruption(future, err); failed != nil {
		if future != nil {
			future.Close()
		}
		return nil, h.interrupted(ctx, b.Index(), stacks, failed)
	}
	return future, err
}

// call is the one crossing into C.
func (h *PythonCommHook) call(python *pythonBucket, alone bool, callable *Object, w *interrupter, result *cbridge.Result) error {
	call := python.invocation
	if !alone { // a call inside a call, by a Go function that the hook called, or a result is still open
		var err error
		if call, err = call.Copy(); err != nil {
			return err
		}
	}
	w.enter(call)
	state := h.state.get()
	err := call.Invoke(callable, state, result)
	for errors.Is(err, cbridge.ErrObjectClosed) && state != h.state.get() { // retired or renewed just then
		state = h.state.get()
		err = call.Invoke(callable, state, result)
	}
	w.leave()
	return err
}

// futureOf makes the future, or the error, of a call's result. It takes python's
// reference over.
func (h *PythonCommHook) futureOf(b *c10d.GradBucket, python *pythonBucket, result *cbridge.Result) (*c10d.Future[c10d.Result], error) {
	wrapErr := func(err error) error { return h.fail(b, futureCode(err), err) }
	if result.Outcome == cbridge.Waiting {
		return h.rt.newPendingFuture(result.Pending(), b, python, wrapErr), nil
	}
	defer python.release()
	if result.Outcome != cbridge.Raised && result.Outcome != cbridge.Plain {
		return c10d.CompletedFuture(resultOf(result, b, python, wrapErr)), nil
	}
	if result.Changed {
		b.Detach(pythonKey, python)
	}
	if result.Outcome == cbridge.Raised {
		return nil, h.fail(b, c10d.ErrRaised, result.TakeError())
	}
	object := result.TakeObject()
	defer object.Close()
	accepted, err := h.rt.torchAPI.requireFuture.Invoke([]any{object}, nil)
	if err == nil {
		accepted.Close()
		err = errors.New("no torch future")
	}
	return nil, h.fail(b, c10d.ErrNotFuture, err)
}
