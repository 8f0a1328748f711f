package pyhook

// #include <stdlib.h>
// #include "hookcall.h"
import "C"

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"pyhook/cbridge"
	"pyhook/internal/ctxerr"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// CommHook reduces a bucket of gradients over the ranks: c10d::CommHookInterface
// (torch/csrc/distributed/c10d/comm.hpp).
type CommHook interface {
	// RunHook starts the reduction of b and returns the future of its result.
	// It does not wait. The buffer must stay until the future is done.
	RunHook(ctx context.Context, b *GradBucket) (*Future, error)
	// ParseHookResult makes the reduced gradients of a future's value: a flat
	// tensor of as many elements as the bucket, whose dtype may differ from
	// the bucket's. The caller closes it. It writes nothing.
	ParseHookResult(v Value) (*tensor.Tensor, error)
}

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
	Parameters []*Parameter
	// Futures: NCCL for a hook that indexes futures as NCCL gives them.
	Futures FutureForms
}

// PythonCommHook is a Python hook and its state: c10d::PythonCommHook
// (torch/csrc/distributed/c10d/python_comm_hook.h).
type PythonCommHook struct {
	rt    *Runtime
	name  string
	hook  *Object
	state *Object
	// formed is hook, given NCCL's forms of futures; nil: it did not ask for them.
	formed *Object
	// observed is hook or formed, watched for its collectives; nil: nobody does.
	observed *Object
	// watched is hook, or observed, with its collectives noted: see WatchCollectives.
	watched *Object

	stateless bool // the state is None
	usesForms bool // it did not ask for NCCL's forms, and names collectives that have others

	watching sync.Mutex // a call is inside that watcher watches
	watcher  atomic.Pointer[watcher]

	legacy  legacyNames
	buckets hookBuckets
}

// LoadHook finds a hook by "package.module:name", "path/file.py:name", a short
// name of PyTorch's own (allreduce, fp16, bf16, powersgd, batched_powersgd,
// noop, quantize_pertensor, quantize_perchannel, post_localsgd) or a wrapper
// around others, "fp16_wrapper(powersgd)". It may be any callable that takes
// (state, bucket). Arguments are Python literals and specs, also with keywords:
// "my_hooks.py:make(rank=2, inner=fp16)". An object or a class that registers a hook
// with a DDP model, "gns.py:Stats(ddp)", gives that hook: see Capture. Its module is
// imported on Python's main thread. The caller closes the result. The error is a *HookError.
func (rt *Runtime) LoadHook(spec string) (*Object, error) { return rt.loadHook(spec, ofTrainer{}) }

// NewState makes a hook's state from a class (a spec as LoadHook's, or the
// short names powersgd, post_localsgd) and keyword arguments, on Python's main thread. A parameter
// process_group is filled with group (nil: the default group) unless kwargs
// has it, and a parameter `parameters` takes what Parameters returns, or a
// *Parameter is any argument. The caller closes the result. The error is a
// *HookError. A StateSpec in HookConfig.State does the same.
func (rt *Runtime) NewState(spec string, kwargs map[string]any, group *TorchGroup) (*Object, error) {
	return rt.newState(StateSpec{Spec: spec, Args: kwargs}, ofTrainer{group: group})
}

// NewHook loads a hook by its spec, makes its state if cfg.State says how, and puts
// both together.
func (rt *Runtime) NewHook(spec string, cfg HookConfig) (*PythonCommHook, error) {
	trainer, err := rt.ofTrainer(cfg)
	if err != nil {
		return nil, err
	}
	defer trainer.close()
	hook, err := rt.loadHook(spec, trainer)
	if err != nil {
		return nil, err
	}
	defer hook.Close()
	return rt.wrapHook(hook, cfg.State, trainer)
}

// WrapHook makes a hook of any Python callable. hook and cfg.State stay the
// caller's.
func (rt *Runtime) WrapHook(hook *Object, cfg HookConfig) (*PythonCommHook, error) {
	trainer, err := rt.ofTrainer(cfg)
	if err != nil {
		return nil, err
	}
	defer trainer.close()
	return rt.wrapHook(hook, cfg.State, trainer)
}

// Name returns the hook's qualified Python name.
func (h *PythonCommHook) Name() string { return h.name }

// State returns the hook's state; it belongs to the hook.
func (h *PythonCommHook) State() *Object { return h.state }

// Close drops the hook and its state. Calls that are inside finish. Idempotent.
func (h *PythonCommHook) Close() {
	h.hook.Close()
	h.state.Close()
	h.formed.Close()
	h.observed.Close()
	h.watched.Close()
	h.buckets.last.Store(nil)
	h.unwatch()
}

func (h *PythonCommHook) fail(b *GradBucket, kind, err error) error {
	index := -1
	if b != nil {
		index = b.Index()
	}
	return h.failAt(index, kind, err)
}

func (h *PythonCommHook) failAt(bucket int, kind, err error) error {
	var known *HookError
	if errors.As(err, &known) {
		return err
	}
	return h.advise(hookError(h.name, h.rt.Rank(), bucket, kind, err))
}

// RunHook calls hook(state, bucket) and returns its future without waiting
// (PythonCommHook::runHook). Every call gets a bucket object of its own, so
// what the hook does to that (set_buffer) does not show in the next. The future
// of a hook that is done at once, with the bucket's own buffer, is the same
// *Future at each call: it costs nothing. After an error the bucket and the hook
// may be used again, but where there are several ranks, others may wait in the
// collectives of the call that failed. The error is a *HookError: ErrStateBuckets,
// ErrRaised, ErrNotFuture, ErrNoneResult, ErrClosed, or the context's. When ctx
// ends during the call the hook gets the exception pyhook.Interrupted, again if
// it catches it, and the error is ErrInterrupted and the context's. What blocks
// in C, a collective that is waited for perhaps, gets it when it returns.
//
// Its callbacks run as PyTorch runs them: on gloo on gloo's threads, as soon as a
// collective is done. A callback that waits there for the work whose callback it is
// (work.wait()) waits for itself, in PyTorch too. RunHookChained has neither.
func (h *PythonCommHook) RunHook(ctx context.Context, b *GradBucket) (*Future, error) {
	return h.run(ctx, b, h.callable())
}

// run calls hook, which is h.callable() or a chain around it.
func (h *PythonCommHook) run(ctx context.Context, b *GradBucket, hook *Object) (*Future, error) {
	if err := ctx.Err(); err != nil {
		return nil, h.fail(b, err, ctxerr.While(ctx, notCalled))
	}
	if err := h.buckets.check(b); err != nil {
		e := hookError(h.name, h.rt.Rank(), b.Index(), ErrStateBuckets, err)
		e.Hint = bucketsHint
		return nil, e
	}
	python, err := b.forPython(h.rt.tools)
	if err != nil {
		return nil, h.fail(b, ErrBucket, err)
	}
	if python.buffer.DType().IsComplex() {
		if _, err := h.rt.bridge.CallValue("check_complex", h.hook); err != nil {
			python.release()
			return nil, h.fail(b, ErrComplex, err)
		}
	}
	callable := hook
	if python.stream != nil {
		if callable, err = python.stream.around(hook); err != nil {
			python.release()
			return nil, h.fail(b, ErrBucket, err)
		}
	}
	var result C.pyh_result
	stacks, interrupted := "", false
	if ctx.Done() == nil {
		err = h.call(python, callable, nil, &result)
	} else {
		stacks, interrupted, err = h.callUntil(ctx, python, callable, &result)
	}
	if callable != hook {
		callable.Close()
	}
	if err != nil {
		python.release()
		return nil, h.fail(b, ErrClosed, err)
	}
	if result.outcome == C.PYH_SAME { // nothing of Python is left to look at
		future := python.same
		python.release()
		return future, nil
	}
	future, err := h.settle(b, python, result)
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

// faultsEach: after so many calls with a bucket, and after each of the first ones, it is
// looked at whether a library of C that the hook uses has taken Go's signals.
const faultsEach = 64

// call is the one crossing into C.
func (h *PythonCommHook) call(python *pythonBucket, callable *Object, w *watcher, result *C.pyh_result) error {
	hook, err := callable.Hold()
	if err != nil {
		return err
	}
	state, err := h.state.Hold()
	if err != nil {
		callable.Release()
		return err
	}
	c := python.c
	alone := python.call.TryLock()
	if !alone { // a call inside a call, by a Go function that the hook called
		c = (*C.pyh_bucket)(C.malloc(C.sizeof_pyh_bucket))
		*c = C.pyh_bucket{layout: python.c.layout, tensor: python.c.tensor, dtype: python.c.dtype, value: python.c.value, data: python.c.data, len: python.c.len,
			described: python.c.described, form: python.c.form}
	}
	w.enter(c)
	C.pyh_run_hook(h.rt.tools.address, C.uintptr_t(uintptr(hook)), C.uintptr_t(uintptr(state)), C.uintptr_t(uintptr(unsafe.Pointer(c))))
	w.leave()
	if calls := python.c.calls; calls < faultsEach || calls%faultsEach == 0 {
		cbridge.KeepFaults()
	}
	*result = c.result
	if alone {
		python.call.Unlock()
	} else {
		C.free(unsafe.Pointer(c))
	}
	h.state.Release()
	callable.Release()
	return nil
}

// settle makes the future, or the error, of a call's result. It takes python's
// reference over.
func (h *PythonCommHook) settle(b *GradBucket, python *pythonBucket, result C.pyh_result) (*Future, error) {
	place := func(err error) error { return h.fail(b, futureKind(err), err) }
	if result.outcome == C.PYH_PENDING {
		return h.rt.await(result.pending, b, python, place), nil
	}
	defer python.release()
	if result.outcome != C.PYH_RAISED && result.outcome != C.PYH_NOT_FUTURE {
		return CompletedFuture(valueOf(result, b, python, place)), nil
	}
	if result.touched != 0 {
		b.forget(python)
	}
	if result.outcome == C.PYH_RAISED {
		return nil, h.fail(b, ErrRaised, taken(result.error))
	}
	object := cbridge.Own(unsafe.Pointer(result.object))
	defer object.Close()
	accepted, err := h.rt.tools.requireFuture.Invoke([]any{object}, nil)
	if err == nil {
		accepted.Close()
		err = errors.New("no torch future")
	}
	return nil, h.fail(b, ErrNotFuture, err)
}

func taken(exc *C.PyObject) error {
	if exc == nil {
		return errors.New("python failed without an exception")
	}
	return cbridge.TakeError(cbridge.Own(unsafe.Pointer(exc)))
}

// ParseHookResult makes the flat reduced tensor of a value
// (PythonCommHook::parseHookResult). Better than PyTorch's: views with an
// offset or strides are read right, results that are too short, sparse, on
// another device or no tensor at all are refused with a *HookError
// (ErrBadResult) before any gradient is touched. Surplus elements are left off,
// as in PyTorch; a list of one tensor (torch <= 1.9) is taken for the tensor.
// The bucket's own buffer comes as its Alias: open as long as the buffer is.
func (h *PythonCommHook) ParseHookResult(v Value) (*tensor.Tensor, error) {
	if v.tensor != nil {
		t, err := v.tensor.Alias()
		if err != nil {
			return nil, h.fail(v.bucket, ErrBadResult, err)
		}
		return t, nil
	}
	if v.bucket == nil || v.held == nil {
		return nil, h.fail(nil, ErrBadResult, errors.New("not the value of a future of a hook"))
	}
	python := v.held.python
	parse := h.rt.tools.parseValue
	if python.stream != nil {
		parse = python.stream.parse
	}
	flat, err := parse.Invoke([]any{v.held.object, python.layout}, nil)
	if err != nil {
		return nil, h.fail(v.bucket, kindOf(v.held.object), err)
	}
	defer flat.Close()
	h.legacy.note(python.layout)
	t, err := tensorconv.FromPython(flat)
	if err != nil {
		return nil, h.fail(v.bucket, ErrLayout, err)
	}
	return t, nil
}

// kindOf tells the kind of error that a value is: an exception that is the
// value (a C++ future keeps one that was given to set_exception so) is the
// hook's failure.
func kindOf(value *Object) error {
	kind := ErrBadResult
	_ = value.With("__class__", func(class *Object) error {
		return class.With("__mro__", func(bases *Object) error {
			if text, err := bases.Str(); err == nil && strings.Contains(text, "<class 'BaseException'>") {
				kind = ErrFutureFailed
			}
			return nil
		})
	})
	return kind
}
