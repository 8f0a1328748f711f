package pyhook

// #include "hookcall.h"
import "C"

import (
	"unsafe"

	"pyhook/cbridge"
)

// await makes the Go future of a torch future that is pending: a callback on
// it, run by whatever thread of torch completes it, takes the value and wakes
// Go. It takes future over. wrap names an error's place.
func (rt *Runtime) await(future *Object, b *GradBucket, python *pythonBucket, wrap func(error) error) (*Future, error) {
	f, complete := NewFuture()
	callback, err := cbridge.NewFunc("pyhook_done", func([]*Object) (any, error) {
		// The returned object itself, not the callback's argument: an
		// exception given to set_exception is unwrapped only through that one.
		defer future.Close()
		complete(rt.valueOfDone(future, b, python, wrap))
		return nil, nil
	})
	if err != nil {
		future.Close()
		return nil, err
	}
	defer callback.Close()
	none, err := rt.tools.addCallback.Invoke([]any{future, callback}, nil)
	if err != nil {
		future.Close()
		return nil, wrap(err)
	}
	none.Close()
	return f, nil
}

func (rt *Runtime) valueOfDone(future *Object, b *GradBucket, python *pythonBucket, wrap func(error) error) (Value, error) {
	var result C.pyh_result
	take := func(bucket *C.pyh_bucket) error {
		return future.Pointer(func(p unsafe.Pointer) error {
			C.pyh_future_value(rt.tools.c, (*C.PyObject)(p), bucket, &result)
			return nil
		})
	}
	var err error
	if python == nil {
		err = take(nil)
	} else {
		var inner error
		err = firstError(python.pointers(func(bucket *C.pyh_bucket) { inner = take(bucket) }), inner)
	}
	if err != nil {
		return Value{}, wrap(err)
	}
	if result.outcome == C.PYH_FAILED {
		return Value{}, wrap(taken(result.error))
	}
	return valueOf(result, b), nil
}
