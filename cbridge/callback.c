// Go functions as Python callables. C refers to the Go function by a cgo.Handle,
// never by pointer.

#include "callback.h"

#include "threadstate.h"

#include <stdlib.h>
#include <string.h>

// Exported by callback.go.
extern PyObject *pyhookGoCall(uintptr_t handle, PyObject *args);
extern void pyhookGoDrop(uintptr_t handle);

static const char capsule_name[] = "pyhook.go_function";

typedef struct {
  PyMethodDef def; // CPython keeps a pointer to it as long as the function lives
  uintptr_t handle;
  char name[];
} go_function;

static PyObject *trampoline(PyObject *self, PyObject *args) {
  go_function *f = pyh.PyCapsule_GetPointer(self, capsule_name);
  if (f == NULL || !pyh_callback_enter()) {
    return NULL;
  }
  PyObject *result = pyhookGoCall(f->handle, args);
  pyh_callback_leave();
  return result;
}

static void release(void *arg) {
  go_function *f = arg;
  pyhookGoDrop(f->handle);
  free(f);
}

static void drop(PyObject *capsule) {
  go_function *f = pyh.PyCapsule_GetPointer(capsule, capsule_name);
  if (pyh_thread_is_ending()) {
    pyh_defer_call(release, f);
  } else {
    release(f);
  }
}

PyObject *pyh_func(const char *name, uintptr_t handle) {
  go_function *f = calloc(1, sizeof *f + strlen(name) + 1);
  strcpy(f->name, name);
  f->handle = handle;
  f->def.name = f->name;
  f->def.meth = trampoline;
  f->def.flags = PYH_METH_VARARGS;
  PyObject *self = pyh.PyCapsule_New(f, capsule_name, drop);
  if (self == NULL) {
    pyhookGoDrop(handle);
    free(f);
    return NULL;
  }
  PyObject *callable = pyh.PyCFunction_NewEx(&f->def, self, NULL);
  pyh.Py_DecRef(self); // the callable holds it
  return callable;
}
