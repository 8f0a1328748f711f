#include "bridge.h"

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
    pyh.defer_decref(frames); // that may run any code, and the caller holds a lock
  }
  pyh.PyErr_Clear();
  return struck;
}
