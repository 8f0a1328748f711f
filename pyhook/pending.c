// Futures that are pending when a hook returns. A callback on the future takes
// its value, in C, on whatever thread of torch completes it, and tells Go then.

#include "hookcall.h"

#include <stdatomic.h>
#include <stdlib.h>

enum stage { UNTOLD, ARMED, DONE };

struct pyh_pending {
  const pyh_tools *tools;
  PyObject *future;  // dropped by who claims
  pyh_bucket bucket; // as of the call
  int of_hook;       // the bucket counts
  uintptr_t id;      // once armed
  pyh_result result; // once done
  _Atomic int stage;
  _Atomic int claimed; // by the callback, which takes the value, or by pyh_abandon
  _Atomic int refs;    // the callback's and the caller's
};

static _Atomic int64_t live;

// A capsule's destructor is handed the capsule and nothing else.
static const pyh_api *py;
static const char capsule_name[] = "pyhook.pending";

void pyh_pending_release(pyh_pending *p) {
  if (atomic_fetch_sub(&p->refs, 1) == 1) {
    free(p);
    atomic_fetch_sub(&live, 1);
  }
}

int64_t pyh_pendings(void) { return atomic_load(&live); }

static void drop(PyObject *capsule) {
  pyh_pending_release(py->PyCapsule_GetPointer(capsule, capsule_name));
}

// done takes the value from the future itself and not from its argument: an
// exception given to set_exception is unwrapped only through that one.
static PyObject *done(PyObject *self, PyObject *argument) {
  pyh_pending *p = py->PyCapsule_GetPointer(self, capsule_name);
  if (p == NULL) {
    return NULL;
  }
  if (!atomic_exchange(&p->claimed, 1)) {
    pyh_take_value(p->tools, p->future, p->of_hook ? &p->bucket : NULL, &p->result);
    py->Py_DecRef(p->future);
    if (atomic_exchange(&p->stage, DONE) == ARMED) {
      if (!py->callback_enter()) {
        return NULL;
      }
      p->tools->tell(p->id, &p->result);
      py->callback_leave();
    }
  }
  py->Py_IncRef(py->None);
  return py->None;
}

static PyObject *callback(pyh_pending *p) {
  static PyMethodDef def = {"pyhook_done", done, PYH_METH_O, NULL};
  PyObject *capsule = py->PyCapsule_New(p, capsule_name, drop);
  if (capsule == NULL) {
    pyh_pending_release(p); // as drop would
    return NULL;
  }
  PyObject *callable = py->PyCFunction_NewEx(&def, capsule, NULL);
  py->Py_DecRef(capsule); // the callable holds it
  return callable;
}

pyh_pending *pyh_listen(const pyh_tools *t, PyObject *future, const pyh_bucket *b) {
  pyh_pending *p = calloc(1, sizeof *p);
  py = t->py;
  atomic_fetch_add(&live, 1);
  p->tools = t;
  p->future = future;
  py->Py_IncRef(future);
  if (b != NULL) {
    p->bucket = *b;
    p->of_hook = 1;
  }
  p->refs = 2;
  PyObject *args[] = {future, callback(p)};
  PyObject *none = args[1] == NULL ? NULL : py->vectorcall(t->add_done_callback, args, 2, NULL);
  if (args[1] != NULL) {
    py->Py_DecRef(args[1]);
  }
  if (none == NULL) {
    if (pyh_abandon(p)) {
      pyh_pending_release(p);
      return NULL;
    }
    py->PyErr_Clear(); // done in spite of it
    return p;
  }
  py->Py_DecRef(none);
  return p;
}

int pyh_arm(pyh_pending *p, uintptr_t id, pyh_result *out) {
  p->id = id;
  int stage = UNTOLD;
  if (atomic_compare_exchange_strong(&p->stage, &stage, ARMED)) {
    return 0;
  }
  *out = p->result;
  return 1;
}

int pyh_abandon(pyh_pending *p) {
  if (atomic_exchange(&p->claimed, 1)) {
    return 0;
  }
  py->defer_decref(p->future);
  return 1;
}
