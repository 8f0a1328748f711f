package cbridge

// #include <stdlib.h>
// #include "bucket_call.h"
import "C"

import (
	"errors"
	"runtime"
	"unsafe"
)

// Outcome is how a call, or a future, ended.
type Outcome int

// The outcomes of a call of a Python callable.
const (
	Same    Outcome = C.PYH_SAME    // done: the value is the invocation's own object, left as it was
	Done    Outcome = C.PYH_VALUE   // done: Result.TakeObject is the value
	Waiting Outcome = C.PYH_PENDING // Result.Pending waits for the future
	Plain   Outcome = C.PYH_PLAIN   // Result.TakeObject was returned, and is no future
	Raised  Outcome = C.PYH_RAISED  // the callable raised Result.TakeError
	Failed  Outcome = C.PYH_FAILED  // the future failed with Result.TakeError
)

// Result is the result of a call. The caller must take the object, error or Pending, once.
type Result struct {
	Outcome Outcome
	// Changed: the callable changed in place what the invocation keeps. Do not call it again.
	Changed bool
	object  *C.PyObject // a new reference
	pending *C.pyh_pending
}

func resultOf(c *C.pyh_result) Result {
	object := c.object
	if object == nil {
		object = c.error
	}
	return Result{Outcome: Outcome(c.outcome), Changed: c.changed != 0, object: object, pending: c.pending}
}

// TakeObject returns what was returned, or the future's value. The caller closes it.
func (r *Result) TakeObject() *Object { return wrap(r.object) }

// TakeError returns what was raised, a *PythonError.
func (r *Result) TakeError() error {
	if r.object == nil {
		return errors.New("python failed without an exception")
	}
	return TakeError(wrap(r.object))
}

// Invocation calls Python callables, one at a time, each in a single crossing into C. Its objects
// are the caller's and must stay open until the last call and the last future of one are done.
type Invocation struct {
	c *C.pyh_invocation // C memory: a call passes its address and nothing else
}

// NewBucketCall returns an Invocation that calls DDP's communication hooks, hook(state, bucket),
// with a new bucket object at each call. tensor is the flat torch.Tensor of that dtype over len
// elements at data; no hook has seen it yet. A Result is Changed if a hook gave the tensor other
// memory, another form or another type; requires_grad and names are checked now and then:
// hot_path.h.
func (t *TorchAPI) NewBucketCall(layout, tensor, dtype *Object, data unsafe.Pointer, len int64) (*Invocation, error) {
	var c *C.pyh_bucket_call
	err := using(func() error {
		return Attached(func() {
			c = C.pyh_bucket_call_new(t.c, layout.ptr, tensor.ptr, dtype.ptr, C.uintptr_t(uintptr(data)), C.int64_t(len))
		})
	}, layout, tensor, dtype)
	if err != nil {
		return nil, err
	}
	return newInvocation(c)
}

// newInvocation takes C memory over; nil means out of memory.
func newInvocation(c *C.pyh_bucket_call) (*Invocation, error) {
	if c == nil {
		return nil, errors.New("out of memory")
	}
	i := &Invocation{c: &c.call}
	runtime.AddCleanup(i, func(c unsafe.Pointer) { C.free(c) }, unsafe.Pointer(c))
	return i, nil
}

// Copy returns another Invocation over the same objects, for a call while i is in one.
func (i *Invocation) Copy() (*Invocation, error) {
	defer runtime.KeepAlive(i)
	return newInvocation(C.pyh_bucket_call_copy((*C.pyh_bucket_call)(unsafe.Pointer(i.c))))
}

// AskBy makes value, a callable that takes the future, return the value of a future that is done,
// in place of the future's own method. Call it before the first call.
func (i *Invocation) AskBy(value *Object) { i.c.value = value.ptr }

// Invoke calls callable(first, ...), with autograd off as in backward(), and stores the result in
// r, a zero Result. It waits only for the callable itself. With an error, ErrObjectClosed or
// ErrClosed, nothing was called.
func (i *Invocation) Invoke(callable, first *Object, r *Result) error {
	if err := callable.use(); err != nil {
		return err
	}
	if err := first.use(); err != nil {
		callable.done()
		return err
	}
	C.pyh_invoke(C.uintptr_t(uintptr(unsafe.Pointer(i.c))), C.uintptr_t(uintptr(unsafe.Pointer(callable.ptr))), C.uintptr_t(uintptr(unsafe.Pointer(first.ptr))))
	if i.c.result.outcome == C.PYH_SAME { // nothing else is set
		r.Outcome = Same
	} else {
		*r = resultOf(&i.c.result)
	}
	first.done()
	callable.done()
	return nil
}

// Thread returns the thread that is in i's call, by Python's identifier, or 0. The caller keeps the
// call from ending meanwhile, or may get the thread of a call that is over.
func (i *Invocation) Thread() uint64 { return uint64(C.pyh_thread_of(i.c)) }

// SetInterrupted marks that Interpreter.Interrupt raised an exception in i's call, which takes it
// back if it comes too late. Attached.
func (i *Invocation) SetInterrupted() { i.c.interrupted = 1 }
