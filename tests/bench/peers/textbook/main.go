//go:build textbook

// Command textbook is a hook's call by cgo as textbooks have it: libpython linked at build time,
// PyGILState_Ensure around each call, the C API's functions one by one, new objects each time. The
// benchmark builds it with the flags of the Python that it measures.
//
// usage: textbook PYTHON FOLDER   the interpreter, and the folder of hooks.py
package main

/*
#cgo CFLAGS: -O2
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>

// start starts Python as the interpreter of this name would be, and lets the GIL go. NULL, or what
// went wrong.
static const char *start(char *program) {
	PyConfig config;
	PyConfig_InitPythonConfig(&config);
	config.install_signal_handlers = 0;
	PyStatus status = PyConfig_SetBytesString(&config, &config.program_name, program);
	if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
	PyConfig_Clear(&config);
	if (PyStatus_Exception(status)) return status.err_msg ? status.err_msg : "Python has ended";
	PyEval_SaveThread();
	return NULL;
}
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"pyhook/tests/bench/peers/side"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "textbook:", err)
		os.Exit(1)
	}
}

type object = *C.PyObject

// python is what is kept of Python between calls.
type python struct {
	frombuffer, dtype object // torch.frombuffer and its keyword arguments
	hooks, newBucket  object
	empty             object // a tuple
}

func run(program, folder string) error {
	name := C.CString(program)
	defer C.free(unsafe.Pointer(name))
	if what := C.start(name); what != nil {
		return fmt.Errorf("starting Python: %s", C.GoString(what))
	}
	var p python
	if err := p.load(folder); err != nil {
		return err
	}
	return side.Serve(context.Background(), 0, func(_ context.Context, c side.Case) (side.Bench, error) { return p.open(c) })
}

// gil runs f with the GIL, on a thread of its own.
func gil(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	state := C.PyGILState_Ensure()
	defer C.PyGILState_Release(state)
	return f()
}

func (p *python) load(folder string) error {
	return gil(func() (err error) {
		line := C.CString(fmt.Sprintf("import sys; sys.path.insert(0, %q)", folder))
		defer C.free(unsafe.Pointer(line))
		if C.PyRun_SimpleString(line) != 0 {
			return errors.New("sys.path was not set")
		}
		torch, err := imported("torch")
		if err != nil {
			return err
		}
		if p.hooks, err = imported("hooks"); err != nil {
			return err
		}
		if p.newBucket, err = attribute(p.hooks, "Bucket"); err != nil {
			return err
		}
		if p.frombuffer, err = attribute(torch, "frombuffer"); err != nil {
			return err
		}
		float32, err := attribute(torch, "float32")
		if err != nil {
			return err
		}
		p.empty, p.dtype = C.PyTuple_New(0), C.PyDict_New()
		key := C.CString("dtype")
		defer C.free(unsafe.Pointer(key))
		C.PyDict_SetItemString(p.dtype, key, float32)
		return nil
	})
}

func imported(name string) (object, error) {
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	return checked(C.PyImport_ImportModule(c))
}

func attribute(o object, name string) (object, error) {
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	return checked(C.PyObject_GetAttrString(o, c))
}

// checked prints Python's exception, if there is one.
func checked(o object) (object, error) {
	if o == nil {
		C.PyErr_Print()
		return nil, errors.New("Python raised an exception; see above")
	}
	return o, nil
}

// call calls a callable with arguments that it takes over.
func call(callable, keywords object, args ...object) (object, error) {
	tuple := C.PyTuple_New(C.Py_ssize_t(len(args)))
	for i, a := range args {
		C.PyTuple_SetItem(tuple, C.Py_ssize_t(i), a)
	}
	defer C.Py_DecRef(tuple)
	return checked(C.PyObject_Call(callable, tuple, keywords))
}

// bench is a case: buckets in C's memory.
type bench struct {
	*python
	hook    object
	bytes   int
	buckets []unsafe.Pointer
	copied  int64
}

func (p *python) open(c side.Case) (_ *bench, err error) {
	b := &bench{python: p, bytes: c.Bytes}
	for range c.Callers {
		b.buckets = append(b.buckets, C.calloc(1, C.size_t(c.Bytes)))
	}
	return b, gil(func() (err error) {
		b.hook, err = attribute(p.hooks, c.Hook)
		return err
	})
}

func (b *bench) Bucket(caller int) []float32 {
	return unsafe.Slice((*float32)(b.buckets[caller]), b.bytes/4)
}

func (b *bench) Call(caller int) error {
	return gil(func() error {
		view, err := checked(C.PyMemoryView_FromMemory((*C.char)(b.buckets[caller]), C.Py_ssize_t(b.bytes), C.PyBUF_WRITE))
		if err != nil {
			return err
		}
		tensor, err := call(b.frombuffer, b.dtype, view)
		if err != nil {
			return err
		}
		bucket, err := call(b.newBucket, nil, tensor)
		if err != nil {
			return err
		}
		C.Py_IncRef(b.empty)
		future, err := call(b.hook, nil, b.empty, bucket) // an empty tuple in place of a state
		if err != nil {
			return err
		}
		defer C.Py_DecRef(future)
		result, err := b.method(future, "wait")
		if err != nil {
			return err
		}
		defer C.Py_DecRef(result)
		return b.takeResult(result, b.buckets[caller])
	})
}

// takeResult copies a result that is in other memory to the bucket.
func (b *bench) takeResult(result object, bucket unsafe.Pointer) error {
	number, err := b.method(result, "data_ptr")
	if err != nil {
		return err
	}
	defer C.Py_DecRef(number)
	data := C.PyLong_AsVoidPtr(number)
	if data != bucket {
		copy(unsafe.Slice((*byte)(bucket), b.bytes), unsafe.Slice((*byte)(data), b.bytes))
		b.copied = int64(b.bytes)
	}
	return nil
}

func (b *bench) method(o object, name string) (object, error) {
	method, err := attribute(o, name)
	if err != nil {
		return nil, err
	}
	defer C.Py_DecRef(method)
	return checked(C.PyObject_Call(method, b.empty, nil))
}

func (b *bench) Copied() (int64, bool) { return b.copied, false }

func (b *bench) Close() error {
	for _, bucket := range b.buckets {
		C.free(bucket)
	}
	return gil(func() error {
		C.Py_DecRef(b.hook)
		return nil
	})
}
