package pyhook

import (
	"errors"
	"strings"
	"sync/atomic"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// pythonResult is the c10d.Result of a Python hook, or the value of any torch future: the Python
// object that it completed with. Of a hook that completed with the bucket's own buffer it is a
// c10d.TensorResult instead.
type pythonResult struct {
	object   *Object
	python   *pythonBucket // what the hook was called with, to read object by; nil for other futures
	released atomic.Bool
}

// Release: see c10d.Result.
func (r *pythonResult) Release() {
	if r.released.CompareAndSwap(false, true) {
		r.object.Close()
		r.python.release()
	}
}

// resultOf makes the result, or the error, of a future that is done. A pythonResult holds a
// reference to python.
func resultOf(result *cbridge.Result, b *c10d.GradBucket, python *pythonBucket, wrapErr func(error) error) (c10d.Result, error) {
	if result.Changed {
		b.Detach(pythonKey, python)
	}
	switch result.Outcome {
	case cbridge.Failed:
		return nil, wrapErr(result.TakeError())
	case cbridge.Same:
		return c10d.TensorResult{Tensor: python.buffer}, nil
	}
	if python != nil {
		python.refs.Add(1)
	}
	return &pythonResult{object: result.TakeObject(), python: python}, nil
}

// ParseHookResult makes the flat reduced tensor of a value
// (PythonCommHook::parseHookResult). Better than PyTorch's: views with an
// offset or strides are read right, results that are too short, sparse, on
// another device or no tensor at all are refused with a *c10d.Error
// (c10d.ErrBadResult) before any gradient is touched. Surplus elements are left off,
// as in PyTorch; a list of one tensor (torch <= 1.9) is taken for the tensor.
// The bucket's own buffer comes as its Alias: open as long as the buffer is.
func (h *PythonCommHook) ParseHookResult(b *c10d.GradBucket, r c10d.Result) (*tensor.Tensor, error) {
	if own, ok := r.(c10d.TensorResult); ok && own.Tensor != nil {
		t, err := own.Tensor.Alias()
		if err != nil {
			return nil, h.fail(b, c10d.ErrBadResult, err)
		}
		return t, nil
	}
	result, ok := r.(*pythonResult)
	if !ok || result.python == nil {
		return nil, h.fail(b, c10d.ErrBadResult, errors.New("not the result of a future of a hook"))
	}
	python := result.python
	parse := h.rt.torchAPI.parseValue
	if python.stream != nil {
		parse = python.stream.parse
	}
	flat, err := parse.Invoke([]any{result.object, python.layout}, nil)
	if err != nil {
		return nil, h.fail(b, codeOfValue(result.object), err)
	}
	defer flat.Close()
	h.legacy.note(python.layout)
	t, err := tensorconv.FromPython(flat)
	if err != nil {
		return nil, h.fail(b, c10d.ErrLayout, err)
	}
	return t, nil
}

// codeOfValue returns the code of a value that is no result: an exception that is the
// value (a C++ future keeps one that was given to set_exception so) is the
// hook's failure.
func codeOfValue(value *Object) c10d.Code {
	code := c10d.ErrBadResult
	_ = value.With("__class__", func(class *Object) error {
		return class.With("__mro__", func(bases *Object) error {
			if text, err := bases.Str(); err == nil && strings.Contains(text, "<class 'BaseException'>") {
				code = c10d.ErrFutureFailed
			}
			return nil
		})
	})
	return code
}
