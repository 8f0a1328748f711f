package pyhook

// #include "hookcall.h"
import "C"

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"pyhook/cbridge"
)

// awaited is a torch future that is pending, and the Go future of it.
//
// A torch future that never completes is never freed once it has a callback:
// torch's own callback holds it (torch/csrc/jit/python/pybind_utils.h,
// PythonFutureWrapper::add_done_callback). Closing the Go future, or the
// Runtime, frees all that hangs on it here.
type awaited struct {
	rt       *Runtime
	future   *Object
	bucket   *GradBucket   // of the hook call; nil for other futures
	python   *pythonBucket // a reference, or nil
	place    func(error) error
	result   *Future
	finished atomic.Bool
	self     *atomic.Pointer[awaited] // what the callback holds; nil when finished
}

// await makes the Go future of a torch future that is pending: a callback on
// it, run by whatever thread of torch completes it, takes the value and wakes
// Go. It takes future over, and python, which may be nil. place says where an
// error was.
func (rt *Runtime) await(future *Object, b *GradBucket, python *pythonBucket, place func(error) error) (*Future, error) {
	a := &awaited{rt: rt, future: future, bucket: b, python: python, place: place, self: &atomic.Pointer[awaited]{}}
	a.self.Store(a)
	a.result = &Future{place: place, abandon: a.abandon}
	rt.pending.Store(a, nil)
	if err := a.listen(); err != nil {
		a.finish()
		return nil, place(err)
	}
	if rt.closed.Load() {
		a.abandon() // Close may have gone through the pending ones before
	}
	return a.result, nil
}

func (a *awaited) listen() error {
	self := a.self
	callback, err := cbridge.NewFunc("pyhook_done", func([]*Object) (any, error) {
		if a := self.Load(); a != nil {
			a.complete()
		}
		return nil, nil
	})
	if err != nil {
		return err
	}
	defer callback.Close()
	none, err := a.rt.tools.addCallback.Invoke([]any{a.future, callback}, nil)
	none.Close()
	return err
}

// complete runs on a thread of torch, which holds the GIL: it must not wait
// for a lock that somebody holds who waits for the GIL.
func (a *awaited) complete() {
	value, err := a.value()
	if !a.result.complete(value, err) {
		value.close()
	}
	a.finish()
}

// abandon is for a result that nobody will read.
func (a *awaited) abandon() {
	a.result.complete(Value{}, a.place(fmt.Errorf("the future: %w", ErrClosed)))
	a.finish()
}

func (a *awaited) finish() {
	if a.finished.CompareAndSwap(false, true) {
		a.self.Store(nil)
		a.rt.pending.Delete(a)
		a.future.Close()
		a.python.release()
	}
}

// value takes the value from the returned future itself and not from the
// callback's argument: an exception given to set_exception is unwrapped only
// through that one.
func (a *awaited) value() (Value, error) {
	var result C.pyh_result
	var bucket *C.pyh_bucket
	if a.python != nil {
		bucket = a.python.c
	}
	err := a.future.Pointer(func(p unsafe.Pointer) error {
		C.pyh_future_value(a.rt.tools.c, (*C.PyObject)(p), bucket, &result)
		return nil
	})
	if err != nil {
		return Value{}, a.place(err)
	}
	return valueOf(result, a.bucket, a.python, a.place)
}

// valueOf makes the value, or the error, of a future that is done. A value that
// is Python's holds a reference of python.
func valueOf(result C.pyh_result, b *GradBucket, python *pythonBucket, place func(error) error) (Value, error) {
	if result.touched != 0 {
		b.forget(python)
	}
	switch result.outcome {
	case C.PYH_FAILED:
		return Value{}, place(taken(result.error))
	case C.PYH_SAME:
		return Value{tensor: python.buffer, bucket: b}, nil
	}
	if python != nil {
		python.refs.Add(1)
	}
	object := cbridge.Own(unsafe.Pointer(result.object))
	return Value{bucket: b, held: &held{object: object, python: python}}, nil
}
