package cbridge

// #include "shim.h"
import "C"

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
)

// PythonError is a Python exception, copied out: it holds no reference and may
// be kept.
type PythonError struct {
	Type      string            // qualified: "ValueError", "torch.cuda.OutOfMemoryError"
	Message   string            // str(exception)
	Traceback string            // as python prints it, this exception alone
	Notes     []string          // PEP 678
	Bases     []string          // qualified names of the type and all its bases
	Fields    map[string]string // the exception's own attributes that are text
	Cause     *PythonError
}

func (e *PythonError) Error() string {
	text := e.Type
	if e.Message != "" {
		text += ": " + e.Message
	}
	for _, note := range e.Notes {
		text += "\n" + note
	}
	return text
}

// Unwrap returns the exception's __cause__ or __context__.
func (e *PythonError) Unwrap() error {
	if e.Cause == nil {
		return nil
	}
	return e.Cause
}

// Is reports whether target is a *PythonError that names this exception's type
// or one of its bases: errors.Is(err, cbridge.Exception("OSError")) is what
// `except OSError` is in Python.
func (e *PythonError) Is(target error) bool {
	t, ok := target.(*PythonError)
	if !ok || t.Message != "" || t.Type == "" {
		return false
	}
	return e.Type == t.Type || slices.Contains(e.Bases, t.Type)
}

// Exception names an exception type, as a target for errors.Is.
func Exception(qualifiedName string) *PythonError { return &PythonError{Type: qualifiedName} }

// FullTraceback returns the tracebacks of the whole chain, oldest first, as
// python prints them.
func (e *PythonError) FullTraceback() string {
	var parts []string
	for at := e; at != nil; at = at.Cause {
		parts = append(parts, at.Traceback)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "\nThe above exception led to the following one:\n\n")
}

// describer is bootstrap.py's describe, once there is one.
var describer atomic.Pointer[Object]

var errNoException = errors.New("python reported an error without raising an exception")

// raised takes the exception that is set on the attached calling thread.
func raised() error {
	exc := C.pyh_raised()
	if exc == nil {
		return errNoException
	}
	defer C.pyhDecRef(exc)
	return describeError(exc)
}

func describeError(exc *C.PyObject) error {
	if f := describer.Load(); f != nil && f.use() == nil {
		defer f.done()
		args := []*C.PyObject{exc}
		if tuple := C.pyh_call(f.ptr, &args[0], 1, nil); tuple != nil {
			v, err := toGo(tuple, 0)
			C.pyhDecRef(tuple)
			if err == nil {
				if described := fromTuple(v); described != nil {
					return described
				}
			}
		}
		C.pyhErrClear()
	}
	// While Python starts, or when describing fails (out of memory, deep in a
	// recursion): the bare type and text.
	e := &PythonError{Type: typeName(exc)}
	if text := C.pyhText(exc, false); text != nil {
		e.Message, _ = goString(text)
		C.pyhDecRef(text)
	}
	C.pyhErrClear()
	return e
}

func fromTuple(v any) *PythonError {
	t, ok := v.([]any)
	if !ok || len(t) != 7 {
		return nil
	}
	e := &PythonError{Notes: texts(t[3]), Bases: texts(t[4]), Fields: textFields(t[5]), Cause: fromTuple(t[6])}
	e.Type, _ = t[0].(string)
	e.Message, _ = t[1].(string)
	e.Traceback, _ = t[2].(string)
	return e
}

func textFields(v any) map[string]string {
	m, _ := v.(map[any]any)
	fields := make(map[string]string, len(m))
	for name, value := range m {
		n, _ := name.(string)
		fields[n], _ = value.(string)
	}
	return fields
}

func texts(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, item := range list {
		if s, ok := item.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// TakeError makes the error of an exception that a sibling package's C code
// fetched (pyh_raised's counterpart): it takes the reference over. The exception loses its
// traceback: a failed future raises it anew for each who asks, in a frame that holds it, and so
// all that its frames hold would stay until Python's collector comes.
func TakeError(exc *Object) error {
	if err := exc.use(); err != nil {
		return err
	}
	defer exc.Close()
	defer exc.done()
	var err error
	attached(func() {
		err = describeError(exc.ptr)
		C.pyhDropTraceback(exc.ptr)
	})
	return err
}
