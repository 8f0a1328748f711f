#include "bucket_call.h"

#include "bucket_object.h"
#include "hot_path.h"

#include <stdlib.h>
#include <string.h>

static int arguments(pyh_invocation *inv, PyObject **args) {
  const pyh_bucket_call *b = (const pyh_bucket_call *)inv;
  args[0] = pyh_new_bucket(b->layout, b->tensor);
  return args[0] != NULL ? 1 : -1;
}

static PyObject *call1(PyObject *f, PyObject *arg) { return pyh.vectorcall(f, &arg, 1, NULL); }

// number calls a method of the tensor that returns an int; -1: it raised.
static int64_t number(PyObject *method, const pyh_bucket_call *b) {
  PyObject *result = call1(method, b->tensor);
  if (result == NULL) {
    pyh.PyErr_Clear();
    return -1;
  }
  int overflow;
  int64_t value = pyh.PyLong_AsLongLongAndOverflow(result, &overflow);
  pyh.Py_DecRef(result);
  return value;
}

// is says whether result (new, or NULL after an exception) is that object.
static bool is(PyObject *result, PyObject *want) {
  if (result == NULL) {
    pyh.PyErr_Clear();
    return false;
  }
  pyh.Py_DecRef(result); // only its address is looked at
  return result == want;
}

// same_form checks by one call of torch that the tensor has one dimension and the
// bucket's memory, in order, as elements of its dtype.
static bool same_form(const pyh_bucket_call *b) {
  DLTensor seen;
  if (b->call.torch->describe(b->tensor, &seen) != 0) {
    pyh.PyErr_Clear();
    return false; // it could be described before
  }
  return memcmp(&seen.dtype, &b->form, sizeof b->form) == 0 && seen.ndim == 1 &&
         seen.shape[0] == b->len && (b->len == 0 || (uintptr_t)seen.data == b->data) &&
         (b->len < 2 || seen.strides[0] == 1);
}

// same_memory checks the same where torch has no describe. An empty tensor has no address to
// compare. Not PyObject_Size: len() of a tensor is Python code.
static bool same_memory(const pyh_bucket_call *b) {
  const pyh_torch_api *t = b->call.torch;
  return number(t->numel, b) == b->len && number(t->dim, b) == 1 &&
         (b->len == 0 || number(t->data_ptr, b) == (int64_t)b->data) &&
         is(call1(t->is_contiguous, b->tensor), pyh.True) &&
         is(pyh.PyObject_GetAttr(b->tensor, t->dtype), b->dtype);
}

// same_graph checks requires_grad. A tensor that requires grad holds a graph, and with a parameter
// in it the two hold each other by the parameter's grad: it is detached.
static bool same_graph(const pyh_bucket_call *b) {
  const pyh_torch_api *t = b->call.torch;
  if (is(pyh.PyObject_GetAttr(b->tensor, t->requires_grad), pyh.False)) {
    return true;
  }
  is(call1(t->detach, b->tensor), NULL);
  return false;
}

static bool unnamed(const pyh_bucket_call *b) {
  PyObject *has_names = b->call.torch->has_names;
  return has_names == NULL || is(call1(has_names, b->tensor), pyh.False);
}

// unchanged: the hook did not give the tensor other memory, or another form of it, in place
// (resize_, set_, .data=, unsqueeze_, as_strided_, requires_grad_, rename_, .__class__=). What the
// result does not depend on would leak into the next calls.
static bool unchanged(const pyh_invocation *inv, const PyObject *value) {
  const pyh_bucket_call *b = (const pyh_bucket_call *)inv;
  return (b->described ? same_form(b) : same_memory(b)) &&
         is(pyh.PyObject_Type(b->tensor), inv->torch->tensor_class) &&
         (!pyh_check_graph_and_names(inv->calls, value == b->tensor) || (same_graph(b) && unnamed(b)));
}

static const pyh_call_kind kind = {sizeof(pyh_bucket_call), arguments, unchanged};

pyh_bucket_call *pyh_bucket_call_new(const pyh_torch_api *t, PyObject *layout, PyObject *tensor,
                                     PyObject *dtype, uintptr_t data, int64_t len) {
  pyh_bucket_call *b = calloc(1, sizeof *b);
  if (b == NULL) {
    return NULL;
  }
  b->call.torch = t;
  b->call.kind = &kind;
  b->call.own = tensor;
  b->layout = layout;
  b->tensor = tensor;
  b->dtype = dtype;
  b->data = data;
  b->len = len;
  DLTensor seen;
  if (t->describe != NULL) {
    b->described = t->describe(tensor, &seen) == 0;
    if (b->described) {
      b->form = seen.dtype;
    } else {
      pyh.PyErr_Clear(); // a dtype that DLPack does not know
    }
  }
  return b;
}

pyh_bucket_call *pyh_bucket_call_copy(const pyh_bucket_call *b) {
  pyh_bucket_call *copy = malloc(sizeof *copy);
  if (copy == NULL) {
    return NULL;
  }
  // Not *copy = *b: the call that is inside writes to the rest.
  *copy = (pyh_bucket_call){.call = {.torch = b->call.torch, .kind = b->call.kind, .own = b->call.own, .value = b->call.value},
                            .layout = b->layout, .tensor = b->tensor, .dtype = b->dtype,
                            .data = b->data, .len = b->len, .described = b->described, .form = b->form};
  return copy;
}
