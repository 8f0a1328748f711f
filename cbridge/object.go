package cbridge

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"pyhook/internal/debuggc"
)

// ErrObjectClosed: the Object was used after its Close.
var ErrObjectClosed = errors.New("python object used after Close")

var liveObjects atomic.Int64

// LiveObjects returns how many Objects are open in the process.
func LiveObjects() int64 { return liveObjects.Load() }

// Object owns one reference to a Python object. Any goroutine may call its methods. Close never
// waits: it takes effect when the last method that runs returns.
type Object struct {
	ptr     *C.PyObject
	uses    atomic.Int32 // 1 while it is open, and 1 for each method that runs
	closed  atomic.Bool
	cleanup runtime.Cleanup
}

// own makes an Object of a new reference; of NULL it returns the error that is set. The calling
// thread is attached.
func own(ptr *C.PyObject) (*Object, error) {
	if ptr == nil {
		return nil, raised()
	}
	return wrap(ptr), nil
}

func wrap(ptr *C.PyObject) *Object {
	o := &Object{ptr: ptr}
	o.uses.Store(1)
	liveObjects.Add(1)
	o.cleanup = runtime.AddCleanup(o, func(ptr *C.PyObject) {
		// On the runtime's cleanup goroutine, where waiting for the GIL would delay all other
		// cleanups: the next pyh_enter drops the reference.
		liveObjects.Add(-1)
		C.pyh_defer_decref(ptr)
	}, ptr)
	return o
}

// Close gives the reference back. Idempotent; nil is allowed.
func (o *Object) Close() {
	if o == nil || !o.closed.CompareAndSwap(false, true) {
		return
	}
	o.cleanup.Stop()
	liveObjects.Add(-1)
	o.done()
}

// use keeps the reference alive until done.
func (o *Object) use() error {
	debuggc.Collect()
	if o == nil {
		return ErrObjectClosed
	}
	if err := running(); err != nil {
		return err
	}
	for {
		n := o.uses.Load()
		if n == 0 || o.closed.Load() {
			return ErrObjectClosed
		}
		if o.uses.CompareAndSwap(n, n+1) {
			return nil
		}
	}
}

func (o *Object) done() {
	if o.uses.Add(-1) > 0 {
		return
	}
	if running() != nil {
		// No thread enters Python again: the end of the process frees it.
		return
	}
	attached(func() { C.pyhDecRef(o.ptr) })
}

// Pointer runs f with the PyObject*, which is valid during f.
func (o *Object) Pointer(f func(unsafe.Pointer) error) error {
	if err := o.use(); err != nil {
		return err
	}
	defer o.done()
	return f(unsafe.Pointer(o.ptr))
}

// Clone returns a second handle on the same Python object, closed on its own.
func (o *Object) Clone() (*Object, error) {
	if err := o.use(); err != nil {
		return nil, err
	}
	defer o.done()
	var clone *Object
	attached(func() {
		C.pyhIncRef(o.ptr)
		clone = wrap(o.ptr)
	})
	return clone, nil
}

// Attr returns attribute name; the caller owns the result.
func (o *Object) Attr(name string) (*Object, error) {
	if err := o.use(); err != nil {
		return nil, err
	}
	defer o.done()
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	var result *Object
	var err error
	attached(func() { result, err = own(C.pyhGetAttr(o.ptr, cname)) })
	return result, err
}

// SetAttr sets attribute name to a Go value (see Convert).
func (o *Object) SetAttr(name string, value any) error {
	if err := o.use(); err != nil {
		return err
	}
	defer o.done()
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	var err error
	attached(func() {
		var ref *C.PyObject
		if ref, err = toPython(value); err != nil {
			return
		}
		if C.pyhSetAttr(o.ptr, cname, ref) != 0 {
			err = raised()
		}
		C.pyhDecRef(ref)
	})
	return err
}

// With calls f with attribute name and closes it afterwards.
func (o *Object) With(name string, f func(*Object) error) error {
	attr, err := o.Attr(name)
	if err != nil {
		return err
	}
	defer attr.Close()
	return f(attr)
}

// Invoke calls o itself with Go values (see Convert); kwargs may be nil. The
// caller owns the result. A raised exception is a *PythonError.
func (o *Object) Invoke(args []any, kwargs map[string]any) (*Object, error) {
	if err := o.use(); err != nil {
		return nil, err
	}
	defer o.done()
	var result *Object
	var err error
	attached(func() { result, err = invoke(o.ptr, args, kwargs) })
	return result, err
}

// Call calls method (or any callable attribute) name with Go values. The
// caller owns the result.
func (o *Object) Call(name string, args ...any) (*Object, error) {
	method, err := o.Attr(name)
	if err != nil {
		return nil, err
	}
	defer method.Close()
	return method.Invoke(args, nil)
}

// CallValue is Call, with the result converted by Value.
func (o *Object) CallValue(name string, args ...any) (any, error) {
	result, err := o.Call(name, args...)
	if err != nil {
		return nil, err
	}
	defer result.Close()
	return result.Value()
}

func invoke(f *C.PyObject, args []any, kwargs map[string]any) (*Object, error) {
	refs := make([]*C.PyObject, 0, len(args)+1)
	defer func() {
		for _, ref := range refs {
			C.pyhDecRef(ref)
		}
	}()
	for i, arg := range args {
		ref, err := toPython(arg)
		if err != nil {
			return nil, fmt.Errorf("argument %d: %w", i, err)
		}
		refs = append(refs, ref)
	}
	var dict *C.PyObject
	if len(kwargs) > 0 {
		var err error
		if dict, err = toPython(kwargs); err != nil {
			return nil, fmt.Errorf("keyword arguments: %w", err)
		}
		defer C.pyhDecRef(dict)
	}
	var first **C.PyObject
	if len(refs) > 0 {
		first = &refs[0]
	}
	return own(C.pyh_call(f, first, C.size_t(len(args)), dict))
}

// IsNone reports whether o is None.
func (o *Object) IsNone() bool {
	if o.use() != nil {
		return false
	}
	defer o.done()
	return bool(C.pyhIsNone(o.ptr))
}

// Same reports whether o and other, both open, are one Python object ("is").
func (o *Object) Same(other *Object) bool {
	if o.use() != nil {
		return false
	}
	defer o.done()
	if other.use() != nil {
		return false
	}
	defer other.done()
	return o.ptr == other.ptr
}

// Repr returns Python's repr(o).
func (o *Object) Repr() (string, error) { return o.text(true) }

// Str returns Python's str(o).
func (o *Object) Str() (string, error) { return o.text(false) }

func (o *Object) text(repr bool) (string, error) {
	if err := o.use(); err != nil {
		return "", err
	}
	defer o.done()
	var s string
	var err error
	attached(func() {
		var obj *Object
		if obj, err = own(C.pyhText(o.ptr, C.bool(repr))); err != nil {
			return
		}
		s, err = goString(obj.ptr)
		obj.Close()
	})
	return s, err
}
