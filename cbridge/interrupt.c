#include "interrupt.h"

#include "threadstate.h"

#include <pthread.h>

// innermost returns the frame that a thread is in, borrowed from frames. No bytecode runs here:
// with a GIL the thread cannot go on.
static PyObject *innermost(PyObject *frames, unsigned long thread) {
  PyObject *get = pyh.PyObject_GetAttrString(frames, "get");
  PyObject *ident = pyh.PyLong_FromUnsignedLongLong(thread);
  PyObject *frame = NULL;
  if (get != NULL && ident != NULL) {
    frame = pyh.vectorcall(get, &ident, 1, NULL);
  }
  if (get != NULL) {
    pyh.Py_DecRef(get);
  }
  if (ident != NULL) {
    pyh.Py_DecRef(ident);
  }
  if (frame != NULL) {
    pyh.Py_DecRef(frame); // frames holds it
  }
  return frame;
}

static int strike(PyObject *point, unsigned long thread, PyObject *exception) {
  PyObject *other = pyh.PyTuple_GetItem(point, 1);
  if (other == pyh.None) {
    return pyh.PyThreadState_SetAsyncExc(thread, exception) == 1;
  }
  PyObject *none = pyh.vectorcall(other, &exception, 1, NULL);
  if (none == NULL) {
    return 0;
  }
  pyh.Py_DecRef(none);
  return 1;
}

int pyh_strike(PyObject *point, PyObject *current_frames, unsigned long thread,
               PyObject *exception) {
  if (pyh.free_threaded) { // the thread runs on while we look
    return strike(point, thread, exception);
  }
  int struck = 0;
  PyObject *frames = pyh.vectorcall(current_frames, NULL, 0, NULL);
  if (frames != NULL && innermost(frames, thread) == pyh.PyTuple_GetItem(point, 0)) {
    struck = strike(point, thread, exception);
  }
  if (frames != NULL) {
    pyh_defer_decref(frames); // that may run any code, and the caller holds a lock
  }
  pyh.PyErr_Clear();
  return struck;
}

static PyObject *absorb, *interrupted; // interrupt.py's function, and the exception

void pyh_set_absorb(PyObject *function, PyObject *exception) {
  pyh.Py_IncRef(function);
  pyh.Py_IncRef(exception);
  absorb = function;
  interrupted = exception;
}

// pyh_take_back has the exception come, in a function that does nothing. Before CPython 3.13
// PyThreadState_SetAsyncExc(thread, NULL) takes the exception away and leaves the interpreter's
// flag set that one is there (ceval.c: UNSIGNAL_ASYNC_EXC is called only where one was found).
// Every thread then looks for it at each turn of a loop, for ever; and on 3.11 a traced function
// never gets past its first line.
void pyh_take_back(void) {
  unsigned long thread = (unsigned long)pthread_self();
  pyh.PyThreadState_SetAsyncExc(thread, interrupted);
  PyObject *none = pyh.vectorcall(absorb, NULL, 0, NULL);
  if (none == NULL) {
    pyh.PyErr_Clear();
    return;
  }
  pyh.Py_DecRef(none); // it did not come
  pyh.PyThreadState_SetAsyncExc(thread, NULL);
}
