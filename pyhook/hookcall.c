#include "hookcall.h"

#include <string.h>

int pyh_tools_init(pyh_tools *t) {
  const pyh_api *py = t->py;
  t->bucket_new = (PyObject * (*)(PyObject *, PyObject *, PyObject *))
                      py->PyType_GetSlot(t->bucket_class, PYH_TP_NEW);
  t->empty = py->PyTuple_New(0);
  t->layout = py->PyUnicode_InternFromString("_layout");
  t->buffer = py->PyUnicode_InternFromString("_buffer");
  return t->bucket_new != NULL && t->empty != NULL && t->layout != NULL &&
         t->buffer != NULL;
}

// fresh_bucket is _bucket.py's fresh(): each call gets a shell of its own.
static PyObject *fresh_bucket(const pyh_tools *t, const pyh_bucket *b) {
  const pyh_api *py = t->py;
  PyObject *shell = t->bucket_new(t->bucket_class, t->empty, NULL);
  if (shell == NULL) {
    return NULL;
  }
  if (py->PyObject_SetAttr(shell, t->layout, b->layout) != 0 ||
      py->PyObject_SetAttr(shell, t->buffer, b->tensor) != 0) {
    py->Py_DecRef(shell);
    return NULL;
  }
  return shell;
}

static PyObject *call1(const pyh_api *py, PyObject *f, PyObject *arg) {
  return py->vectorcall(f, &arg, 1, NULL);
}

// untouched: the hook returned the very tensor it was given, and did not give
// it other memory in place (resize_, set_, .data=).
static int untouched(const pyh_tools *t, const pyh_bucket *b) {
  const pyh_api *py = t->py;
  PyObject *address = call1(py, t->data_ptr, b->tensor);
  if (address == NULL) {
    py->PyErr_Clear();
    return 0;
  }
  uintptr_t now = (uintptr_t)py->PyLong_AsVoidPtr(address);
  py->Py_DecRef(address);
  Py_ssize_t len = py->PyObject_Size(b->tensor); // the first dimension
  if (len < 0) {
    py->PyErr_Clear();
  }
  // An empty tensor has no address to compare.
  return len == b->len && (now == b->data || len == 0);
}

static void take_value(const pyh_tools *t, PyObject *future, const pyh_bucket *b,
                       pyh_result *out) {
  const pyh_api *py = t->py;
  PyObject *value = call1(py, t->value, future);
  if (value == NULL) {
    out->outcome = PYH_FAILED;
    out->error = py->raised();
  }
  out->touched = b != NULL && !untouched(t, b);
  if (value == NULL) {
    return;
  }
  if (b != NULL && value == b->tensor && !out->touched) {
    py->Py_DecRef(value);
    out->outcome = PYH_SAME;
    return;
  }
  out->outcome = PYH_VALUE;
  out->object = value;
}

static void watch(const pyh_tools *t, PyObject *future, const pyh_bucket *b,
                  pyh_result *out) {
  const pyh_api *py = t->py;
  PyObject *done = call1(py, t->done, future);
  if (done == NULL) {
    out->outcome = PYH_FAILED;
    out->error = py->raised();
    return;
  }
  int is_done = done == py->True;
  py->Py_DecRef(done);
  if (is_done) {
    take_value(t, future, b, out);
  } else {
    out->outcome = PYH_PENDING;
  }
}

void pyh_run_hook(const pyh_tools *t, PyObject *hook, PyObject *state,
                  const pyh_bucket *b, pyh_result *out) {
  const pyh_api *py = t->py;
  memset(out, 0, sizeof *out);
  py->enter();
  PyObject *bucket = fresh_bucket(t, b);
  PyObject *future = NULL;
  if (bucket != NULL) {
    PyObject *args[] = {state, bucket};
    future = py->vectorcall(hook, args, 2, NULL);
    py->Py_DecRef(bucket);
  }
  if (future == NULL) {
    out->outcome = PYH_RAISED;
    out->error = py->raised();
    out->touched = !untouched(t, b);
  } else if (py->PyObject_IsInstance(future, t->future_class) != 1) {
    py->PyErr_Clear();
    out->outcome = PYH_NOT_FUTURE;
    out->object = future;
    out->touched = !untouched(t, b);
  } else {
    watch(t, future, b, out);
    if (out->outcome == PYH_PENDING) {
      out->object = future;
    } else {
      py->Py_DecRef(future);
    }
  }
  py->leave();
}

void pyh_future_value(const pyh_tools *t, PyObject *future, const pyh_bucket *b,
                      pyh_result *out) {
  memset(out, 0, sizeof *out);
  t->py->enter();
  take_value(t, future, b, out);
  t->py->leave();
}

void pyh_watch(const pyh_tools *t, PyObject *future, const pyh_bucket *b, pyh_result *out) {
  memset(out, 0, sizeof *out);
  t->py->enter();
  watch(t, future, b, out);
  t->py->leave();
}
