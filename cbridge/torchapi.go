package cbridge

// #include <stdlib.h>
// #include "bucket_object.h"
// #include "torch_api.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// TorchAPI holds the parts of torch that hook calls use, looked up once. It is safe for concurrent
// use.
type TorchAPI struct {
	c       *C.pyh_torch_api // C memory: a call passes addresses in it
	objects []*Object        // own what c refers to
}

// NewTorchAPI looks up torch, which must be imported. The caller closes the result.
func NewTorchAPI() (*TorchAPI, error) {
	t := &TorchAPI{c: (*C.pyh_torch_api)(C.calloc(1, C.sizeof_pyh_torch_api))}
	if err := t.find(); err != nil {
		t.Close()
		return nil, fmt.Errorf("looking up torch's futures and tensors: %w", err)
	}
	return t, nil
}

// Close drops the references. The C memory stays, since a callback on a thread of torch may still
// read it.
func (t *TorchAPI) Close() {
	for _, o := range t.objects {
		o.Close()
	}
}

func (t *TorchAPI) find() error {
	if err := t.keep("torch._C", "Future",
		slot{&t.c.future_class, ""}, slot{&t.c.done, "done"}, slot{&t.c.value, "value"},
		slot{&t.c.add_done_callback, "add_done_callback"}); err != nil {
		return err
	}
	if err := t.keep("torch.futures", "Future", slot{&t.c.python_future, ""}); err != nil {
		return err
	}
	if err := t.keep("torch", "Tensor",
		slot{&t.c.tensor_class, ""}, slot{&t.c.data_ptr, "data_ptr"}, slot{&t.c.numel, "numel"}, slot{&t.c.dim, "dim"},
		slot{&t.c.is_contiguous, "is_contiguous"}, slot{&t.c.detach, "detach_"}); err != nil {
		return err
	}
	if err := check(func() bool { return bool(C.pyh_torch_api_init(t.c)) }); err != nil {
		return err
	}
	return t.findGradMode()
}

// findGradMode looks up what turns autograd off.
func (t *TorchAPI) findGradMode() error {
	if err := t.keep("torch", "is_grad_enabled", slot{&t.c.grad.py_enabled, ""}); err != nil {
		return err
	}
	if err := t.keep("torch._C", "_set_grad_enabled", slot{&t.c.grad.py_set, ""}); err != nil {
		return err
	}
	module, err := Import("torch._C")
	if err != nil {
		return err
	}
	defer module.Close()
	file, err := module.Attr("__file__")
	if err != nil {
		return err
	}
	defer file.Close()
	path, err := file.Str()
	if err != nil {
		return err
	}
	text := C.CString(path)
	defer C.free(unsafe.Pointer(text))
	return check(func() bool { return bool(C.pyh_grad_mode_find(&t.c.grad, text)) })
}

// slot is a field of the C struct, for an attribute; "" is the object itself.
type slot struct {
	field **C.PyObject
	name  string
}

// keep stores attributes of a module's object.
func (t *TorchAPI) keep(module, name string, slots ...slot) error {
	m, err := Import(module)
	if err != nil {
		return err
	}
	defer m.Close()
	o, err := m.Attr(name)
	if err != nil {
		return err
	}
	t.objects = append(t.objects, o)
	for _, s := range slots {
		kept := o
		if s.name != "" {
			if kept, err = t.attribute(o, s.name); err != nil {
				return err
			}
		}
		*s.field = kept.ptr
	}
	return nil
}

func (t *TorchAPI) attribute(o *Object, name string) (*Object, error) {
	attr, err := o.Attr(name)
	if err != nil {
		return nil, err
	}
	t.objects = append(t.objects, attr)
	// pybind11 wraps its methods in an instancemethod: called without it, they are
	// quicker.
	inner, err := attr.Attr("__func__")
	if err != nil {
		return attr, nil
	}
	t.objects = append(t.objects, inner)
	return inner, nil
}

// MakeBucketType makes, once in a process, the type of the bucket objects that hooks
// are called with: a subclass of methods (pyhook._runtime.bucket.BucketMethods) that says it
// is bucket (pyhook._runtime.bucket.Bucket).
func MakeBucketType(methods, bucket *Object) error {
	return using(func() error {
		return check(func() bool { return bool(C.pyh_make_bucket_type(methods.ptr, bucket.ptr)) })
	}, methods, bucket)
}

// using keeps the objects' references alive while f runs.
func using(f func() error, objects ...*Object) error {
	for _, o := range objects {
		if err := o.use(); err != nil {
			return err
		}
		defer o.done()
	}
	return f()
}
