#include "hookcall.h"
#include "shell.h"

#include <pthread.h>
#include <string.h>

int pyh_tools_init(pyh_tools *t) {
  const pyh_api *py = t->py;
  t->shell_type = pyh_shell_type(py, t->bucket_methods, t->bucket_class);
  t->dtype = py->PyUnicode_InternFromString("dtype");
  t->requires_grad = py->PyUnicode_InternFromString("requires_grad");
  return t->shell_type != NULL && t->dtype != NULL && t->requires_grad != NULL;
}

static PyObject *call1(const pyh_api *py, PyObject *f, PyObject *arg) {
  return py->vectorcall(f, &arg, 1, NULL);
}

// number calls a method of the bucket's tensor that returns an int; -1: it
// raised.
static int64_t number(const pyh_tools *t, PyObject *method, const pyh_bucket *b) {
  const pyh_api *py = t->py;
  PyObject *result = call1(py, method, b->tensor);
  if (result == NULL) {
    py->PyErr_Clear();
    return -1;
  }
  int overflow;
  int64_t value = py->PyLong_AsLongLongAndOverflow(result, &overflow);
  py->Py_DecRef(result);
  return value;
}

// answers whether what gave result (new, or NULL) is want.
static int answers(const pyh_tools *t, PyObject *result, PyObject *want) {
  if (result == NULL) {
    t->py->PyErr_Clear();
    return 0;
  }
  t->py->Py_DecRef(result); // only its address is looked at
  return result == want;
}

// learn_form notes how the kept tensor is described, before a hook has seen it.
static void learn_form(const pyh_tools *t, pyh_bucket *b) {
  DLTensor seen;
  b->described = -1;
  if (t->describe == NULL) {
    return;
  }
  if (t->describe(b->tensor, &seen) != 0) {
    t->py->PyErr_Clear(); // a dtype that DLPack does not know
    return;
  }
  b->described = 1;
  b->form = seen.dtype;
}

// same_memory: the kept tensor's elements are those of the bucket, in order.
static int same_memory(const pyh_tools *t, const pyh_bucket *b) {
  DLTensor seen;
  if (b->described == 1) {
    if (t->describe(b->tensor, &seen) == 0) {
      return memcmp(&seen.dtype, &b->form, sizeof b->form) == 0 &&
             seen.ndim == 1 && seen.shape[0] == b->len &&
             (b->len == 0 || (uintptr_t)seen.data == b->data) &&
             (b->len < 2 || seen.strides[0] == 1);
    }
    t->py->PyErr_Clear();
    return 0; // it could be described before
  }
  // Not PyObject_Size: len() of a tensor is Python code.
  // An empty tensor has no address to compare.
  return number(t, t->numel, b) == b->len &&
         (b->len == 0 || number(t, t->data_ptr, b) == (int64_t)b->data) &&
         answers(t, call1(t->py, t->is_contiguous, b->tensor), t->py->True) &&
         answers(t, t->py->PyObject_GetAttr(b->tensor, t->dtype), b->dtype);
}

// same_manner: what is no part of a result, but shows in the next step.
static int same_manner(const pyh_tools *t, const pyh_bucket *b) {
  const pyh_api *py = t->py;
  return answers(t, py->PyObject_Type(b->tensor), t->tensor_class) && number(t, t->dim, b) == 1 &&
         (t->has_names == NULL || answers(t, call1(py, t->has_names, b->tensor), py->False));
}

// same_graph: it requires no grad. One that does holds a graph, which would grow:
// it is let go. With a parameter in it the two hold each other, by its grad.
static int same_graph(const pyh_tools *t, const pyh_bucket *b) {
  if (answers(t, t->py->PyObject_GetAttr(b->tensor, t->requires_grad), t->py->False)) {
    return 1;
  }
  if (t->detach != NULL) {
    answers(t, call1(t->py, t->detach, b->tensor), NULL);
  }
  return 0;
}

// Calls between two looks of a steady hook, at its manner and at its graph. A
// look at the graph is 4 % of a noop call.
enum { MANNER_EACH = 64, GRAPH_EACH = 8 };

// untouched: the hook did not give the kept tensor other memory, or another form
// of it, in place (resize_, set_, .data=, unsqueeze_, as_strided_,
// requires_grad_, rename_, .__class__=). A hook that has left alone in its first
// calls what does not change the result is not looked at for it each time; for a
// graph only one whose value is the kept tensor itself, at return, is not.
static int untouched(const pyh_tools *t, const pyh_bucket *b, const PyObject *value) {
  int first = b->calls < MANNER_EACH;
  int graph = first || value != b->tensor || b->calls % GRAPH_EACH == 0;
  int manner = first || b->calls % MANNER_EACH == 0;
  return same_memory(t, b) && (!graph || same_graph(t, b)) && (!manner || same_manner(t, b));
}

static int is_future(const pyh_tools *t, PyObject *o) {
  const pyh_api *py = t->py;
  PyObject *kind = py->PyObject_Type(o);
  py->Py_DecRef(kind); // the object keeps its type
  if (kind == t->python_future || kind == t->future_class) {
    return 1;
  }
  int is = py->PyObject_IsInstance(o, t->future_class) == 1;
  py->PyErr_Clear();
  return is;
}

static void sort_value(const pyh_tools *t, PyObject *value, const pyh_bucket *b,
                       pyh_result *out) {
  out->touched = b != NULL && !untouched(t, b, value);
  if (value == NULL) {
    out->outcome = PYH_FAILED;
  } else if (b != NULL && value == b->tensor && !out->touched) {
    t->py->Py_DecRef(value);
    out->outcome = PYH_SAME;
  } else {
    out->outcome = PYH_VALUE;
    out->object = value;
  }
}

static PyObject *value_of(const pyh_tools *t, PyObject *future, const pyh_bucket *b) {
  return call1(t->py, b != NULL && b->value != NULL ? b->value : t->value, future);
}

void pyh_take_value(const pyh_tools *t, PyObject *future, const pyh_bucket *b,
                    pyh_result *out) {
  PyObject *value = value_of(t, future, b);
  if (value == NULL) {
    out->error = t->py->raised();
  }
  sort_value(t, value, b, out);
}

// ask returns whether a future is done; -1: exception set.
static int ask(const pyh_tools *t, PyObject *future) {
  PyObject *done = call1(t->py, t->done, future);
  if (done == NULL) {
    return -1;
  }
  int is_done = done == t->py->True;
  t->py->Py_DecRef(done);
  return is_done;
}

static void watch(const pyh_tools *t, PyObject *future, const pyh_bucket *b,
                  pyh_result *out) {
  switch (ask(t, future)) {
  case 0:
    out->pending = pyh_listen(t, future, b);
    if (out->pending != NULL) {
      out->outcome = PYH_PENDING;
      return;
    }
    break;
  case 1:
    pyh_take_value(t, future, b, out);
    return;
  }
  out->outcome = PYH_FAILED;
  out->error = t->py->raised();
}

enum {
  STREAK_TRUSTED = 8,  // so many calls in a row were done: the next will be
  STREAK_BROKEN = -256 // calls until a wrong guess may be made again
};

// guess takes the value without asking first, which saves a call, when the
// hook's futures have been done at return. A wrong guess costs a C++ exception.
static void guess(const pyh_tools *t, PyObject *future, pyh_bucket *b) {
  const pyh_api *py = t->py;
  pyh_result *out = &b->result;
  if (b->streak < STREAK_TRUSTED) {
    watch(t, future, b, out);
    b->streak = out->outcome == PYH_PENDING && b->streak > 0 ? 0 : b->streak + 1;
    return;
  }
  PyObject *value = value_of(t, future, b);
  if (value == NULL) {
    // Not done, or failed; and what was not done may be by now. Ask.
    py->PyErr_Clear();
    b->streak = STREAK_BROKEN;
    watch(t, future, b, out);
    return;
  }
  sort_value(t, value, b, out);
}

void pyh_run_hook(uintptr_t tools, uintptr_t hook, uintptr_t state, uintptr_t bucket) {
  const pyh_tools *t = (const pyh_tools *)tools;
  pyh_bucket *b = (pyh_bucket *)bucket;
  pyh_result *out = &b->result;
  const pyh_api *py = t->py;
  memset(out, 0, sizeof *out);
  py->enter();
  bool grad = pyh_grad_off(py, &t->grad);
  __atomic_store_n(&b->thread, (unsigned long)pthread_self(), __ATOMIC_RELAXED);
  b->calls++;
  if (b->described == 0) {
    learn_form(t, b);
  }
  PyObject *shell = pyh_shell(b->layout, b->tensor);
  PyObject *future = NULL;
  if (shell != NULL) {
    PyObject *args[] = {(PyObject *)state, shell};
    future = py->vectorcall((PyObject *)hook, args, 2, NULL);
    py->Py_DecRef(shell);
  }
  if (future == NULL) {
    out->outcome = PYH_RAISED;
    out->error = py->raised();
    out->touched = !untouched(t, b, NULL);
  } else if (!is_future(t, future)) {
    out->outcome = PYH_NOT_FUTURE;
    out->object = future;
    out->touched = !untouched(t, b, future);
  } else {
    guess(t, future, b);
    py->Py_DecRef(future);
  }
  __atomic_store_n(&b->thread, 0, __ATOMIC_RELAXED);
  if (b->interrupted) { // too late perhaps: not for the next call
    b->interrupted = 0;
    py->take_back();
  }
  pyh_grad_back(py, &t->grad, grad);
  py->leave();
}

unsigned long pyh_thread_of(const pyh_bucket *b) {
  return __atomic_load_n(&b->thread, __ATOMIC_RELAXED);
}

void pyh_watch(const pyh_tools *t, PyObject *future, pyh_result *out) {
  memset(out, 0, sizeof *out);
  t->py->enter();
  watch(t, future, NULL, out);
  t->py->leave();
}
