package pyhook

// #cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra -Wno-unused-parameter -DPYHOOK_PYAPI=0xb781325bde93
// #include <stdlib.h>
// #include "hookcall.h"
// extern void pyhookFutureDone(uintptr_t id, pyh_result *result);
import "C"

import (
	"fmt"
	"unsafe"

	"pyhook/cbridge"
	"pyhook/tensorconv"
)

// tools are the Python objects of the hot path. They live in C memory, since C
// keeps their address for a call, and hold handles so that Go owns the
// references.
type tools struct {
	c       *C.pyh_tools
	address C.uintptr_t // of c
	objects []*Object
	// Of _bridge.py, for what the hot path leaves to Python.
	newLayout     *Object
	parseValue    *Object
	requireFuture *Object
	newChain      *Object // pyhook._ordered.Chain
	onStream      *Object // pyhook._device.on_stream
	none          *Object
}

func newTools(bridge *Object) (*tools, error) {
	t := &tools{c: (*C.pyh_tools)(C.calloc(1, C.sizeof_pyh_tools))}
	t.c.py = (*C.pyh_api)(cbridge.API())
	t.address = C.uintptr_t(uintptr(unsafe.Pointer(t.c)))
	torchC, err := cbridge.Import("torch._C")
	if err != nil {
		return nil, err
	}
	defer torchC.Close()
	future, err := torchC.Attr("Future")
	if err != nil {
		return nil, err
	}
	torch, err := cbridge.Import("torch")
	if err != nil {
		return nil, err
	}
	defer torch.Close()
	tensor, err := torch.Attr("Tensor")
	if err != nil {
		return nil, err
	}
	t.objects = append(t.objects, tensor)
	futures, err := cbridge.Import("torch.futures")
	if err != nil {
		return nil, err
	}
	defer futures.Close()
	t.objects = append(t.objects, future)
	describe, err := tensorconv.TorchDescriber()
	if err != nil {
		return nil, err
	}
	t.c.describe = (*[0]byte)(describe)
	t.c.tell = (*[0]byte)(C.pyhookFutureDone)
	err = firstError(
		t.keep(&t.c.future_class, future, ""),
		t.keepTensor(tensor),
		t.keep(&t.c.done, future, "done"),
		t.keep(&t.c.value, future, "value"),
		t.keep(&t.c.add_done_callback, future, "add_done_callback"),
		t.keep(&t.c.python_future, futures, "Future"),
		t.keep(&t.c.bucket_methods, bridge, "BucketMethods"),
		t.keep(&t.c.bucket_class, bridge, "Bucket"),
		cbridge.Check(func() bool { return C.pyh_tools_init(t.c) == 1 }),
		t.keepGradMode(torch, torchC),
	)
	if err != nil {
		return nil, fmt.Errorf("looking up torch's future: %w", err)
	}
	if t.none, err = cbridge.Convert(nil); err != nil {
		return nil, err
	}
	t.objects = append(t.objects, t.none)
	for _, f := range []struct {
		slot **Object
		of   *Object
		name string
	}{
		{&t.newLayout, bridge, "new_layout"},
		{&t.parseValue, bridge, "parse_value"},
		{&t.requireFuture, bridge, "require_future"},
		{&t.newChain, bridge, "Chain"},
		{&t.onStream, bridge, "on_stream"},
	} {
		if *f.slot, err = f.of.Attr(f.name); err != nil {
			return nil, err
		}
		t.objects = append(t.objects, *f.slot)
	}
	return t, nil
}

// keepTensor keeps torch.Tensor and what tells that a tensor was changed in place.
func (t *tools) keepTensor(tensor *Object) error {
	err := firstError(
		t.keep(&t.c.tensor_class, tensor, ""),
		t.keep(&t.c.data_ptr, tensor, "data_ptr"),
		t.keep(&t.c.numel, tensor, "numel"),
		t.keep(&t.c.dim, tensor, "dim"),
		t.keep(&t.c.is_contiguous, tensor, "is_contiguous"),
		t.keep(&t.c.detach, tensor, "detach_"),
	)
	names, absent := tensor.Attr("has_names") // torch 2.15 has no names
	if err != nil || absent != nil {
		return err
	}
	defer names.Close()
	return t.keep(&t.c.has_names, tensor, "has_names")
}

// keepGradMode keeps what tells autograd's mode.
func (t *tools) keepGradMode(torch, torchC *Object) error {
	file, err := torchC.Attr("__file__")
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
	return firstError(
		t.keep(&t.c.grad.py_enabled, torch, "is_grad_enabled"),
		t.keep(&t.c.grad.py_set, torchC, "_set_grad_enabled"),
		cbridge.Check(func() bool { return bool(C.pyh_grad_mode_find(t.c.py, &t.c.grad, text)) }),
	)
}

// keep puts attribute name of o (o itself for "") into a slot of the C struct.
func (t *tools) keep(slot **C.PyObject, o *Object, name string) error {
	if name != "" {
		attr, err := o.Attr(name)
		if err != nil {
			return err
		}
		t.objects = append(t.objects, attr)
		// pybind11 wraps its methods in an instancemethod: called without it,
		// they are quicker.
		if inner, err := attr.Attr("__func__"); err == nil {
			t.objects = append(t.objects, inner)
			attr = inner
		}
		o = attr
	}
	return o.Pointer(func(p unsafe.Pointer) error {
		*slot = (*C.PyObject)(p)
		return nil
	})
}

// close drops the handles. The C struct stays: a callback on one of torch's
// threads may still look at it.
func (t *tools) close() {
	for _, o := range t.objects {
		o.Close()
	}
}
