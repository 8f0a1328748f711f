#include "invoke.h"

#include "hot_path.h"
#include "interrupt.h"
#include "object.h"
#include "pending.h"
#include "signals.h"
#include "threadstate.h"

#include <pthread.h>
#include <string.h>

// sort_value sorts the value of a future that is done, a new reference; NULL: it
// failed.
static void sort_value(PyObject *value, const pyh_invocation *inv, pyh_result *out) {
  out->changed = inv != NULL && !inv->kind->unchanged(inv, value);
  if (value == NULL) {
    out->outcome = PYH_FAILED;
  } else if (inv != NULL && value == inv->own && !out->changed) {
    pyh.Py_DecRef(value);
    out->outcome = PYH_SAME;
  } else {
    out->outcome = PYH_VALUE;
    out->object = value;
  }
}

static PyObject *value_of(const pyh_torch_api *t, PyObject *future, const pyh_invocation *inv) {
  PyObject *value = inv != NULL && inv->value != NULL ? inv->value : t->value;
  return pyh.vectorcall(value, &future, 1, NULL);
}

void pyh_take_value(const pyh_torch_api *t, PyObject *future, const pyh_invocation *inv,
                    pyh_result *out) {
  PyObject *value = value_of(t, future, inv);
  if (value == NULL) {
    out->error = pyh_raised();
  }
  sort_value(value, inv, out);
}

static void ask(const pyh_torch_api *t, PyObject *future, const pyh_invocation *inv,
                pyh_result *out) {
  switch (pyh_is_done(t, future)) {
  case 0:
    out->pending = pyh_pending_new(t, future, inv);
    if (out->pending != NULL) {
      out->outcome = PYH_PENDING;
      return;
    }
    break;
  case 1:
    pyh_take_value(t, future, inv, out);
    return;
  }
  out->outcome = PYH_FAILED;
  out->error = pyh_raised();
}

void pyh_ask_future(const pyh_torch_api *t, PyObject *future, pyh_result *out) {
  memset(out, 0, sizeof *out);
  pyh_enter();
  ask(t, future, NULL, out);
  pyh_leave();
}

// sort_future sorts the future that the callable returned. It takes the value
// optimistically, without asking first, where hot_path.h expects that to work.
static void sort_future(pyh_invocation *inv, PyObject *future) {
  const pyh_torch_api *t = inv->torch;
  pyh_result *out = &inv->result;
  if (!pyh_will_be_done(inv->done_in_a_row)) {
    ask(t, future, inv, out);
    inv->done_in_a_row = pyh_next_in_a_row(inv->done_in_a_row, out->outcome == PYH_PENDING);
    return;
  }
  PyObject *value = value_of(t, future, inv);
  if (value != NULL) {
    sort_value(value, inv, out);
    return;
  }
  // It is not done, or has failed; and what was not done may be by now: ask.
  pyh.PyErr_Clear();
  inv->done_in_a_row = PYH_WAS_PENDING;
  ask(t, future, inv, out);
}

// call makes the arguments, calls, and drops the arguments. It returns a new reference, or NULL
// with an exception set.
static PyObject *call(pyh_invocation *inv, PyObject *callable, PyObject *first) {
  PyObject *args[1 + PYH_MAX_ARGUMENTS] = {first};
  int n = inv->kind->arguments(inv, args + 1);
  if (n < 0) {
    return NULL;
  }
  PyObject *returned = pyh.vectorcall(callable, args, 1 + (size_t)n, NULL);
  for (int i = 1; i <= n; i++) {
    pyh.Py_DecRef(args[i]);
  }
  return returned;
}

void pyh_invoke(uintptr_t invocation, uintptr_t callable, uintptr_t first) {
  pyh_invocation *inv = (pyh_invocation *)invocation;
  const pyh_torch_api *t = inv->torch;
  pyh_result *out = &inv->result;
  memset(out, 0, sizeof *out);
  pyh_enter();
  bool grad = pyh_grad_off(&t->grad);
  __atomic_store_n(&inv->thread, (unsigned long)pthread_self(), __ATOMIC_RELAXED);
  inv->calls++;
  PyObject *returned = call(inv, (PyObject *)callable, (PyObject *)first);
  if (returned == NULL) {
    out->outcome = PYH_RAISED;
    out->error = pyh_raised();
    out->changed = !inv->kind->unchanged(inv, NULL);
  } else if (!pyh_is_future(t, returned)) {
    out->outcome = PYH_PLAIN;
    out->object = returned;
    out->changed = !inv->kind->unchanged(inv, returned);
  } else {
    sort_future(inv, returned);
    pyh.Py_DecRef(returned);
  }
  __atomic_store_n(&inv->thread, 0, __ATOMIC_RELAXED);
  if (inv->interrupted) { // it may come too late: not in the next call
    inv->interrupted = 0;
    pyh_take_back();
  }
  pyh_grad_back(&t->grad, grad);
  pyh_leave();
  if (pyh_check_signals(inv->calls)) {
    pyh_keep_faults();
  }
}

unsigned long pyh_thread_of(const pyh_invocation *inv) {
  return __atomic_load_n(&inv->thread, __ATOMIC_RELAXED);
}
