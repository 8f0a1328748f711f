// The hot path: one call of a Python hook, in one crossing from Go.
#ifndef PYHOOK_HOOKCALL_H
#define PYHOOK_HOOKCALL_H

#include "../cbridge/pyapi.h"

// What every call needs, looked up once. All references are owned.
typedef struct {
  const pyh_api *py;
  PyObject *future_class; // torch._C.Future
  PyObject *done;         // torch._C.Future.done, unbound
  PyObject *value;        // torch._C.Future.value, unbound
  PyObject *data_ptr;     // torch.Tensor.data_ptr, unbound
  PyObject *bucket_class; // pyhook._bucket.Bucket
  PyObject *(*bucket_new)(PyObject *, PyObject *, PyObject *);
  PyObject *empty;   // ()
  PyObject *layout;  // "_layout", interned
  PyObject *buffer;  // "_buffer", interned
} pyh_tools;

// A bucket's kept Python objects, borrowed for the call.
typedef struct {
  PyObject *layout;
  PyObject *tensor;
  uintptr_t data; // where tensor's memory is
  int64_t len;    // its elements
} pyh_bucket;

enum pyh_outcome {
  PYH_SAME,       // done: the bucket's own buffer, untouched in shape
  PYH_VALUE,      // done: object is the value
  PYH_PENDING,    // object is the future
  PYH_NOT_FUTURE, // object is what the hook returned
  PYH_RAISED,     // error: the hook raised
  PYH_FAILED      // error: the future's
};

// object and error are new references for the caller, or NULL.
typedef struct {
  int outcome;
  int touched; // the hook changed the bucket's kept tensor itself, in place
  PyObject *object;
  PyObject *error;
} pyh_result;

// Fills the rest of tools from its classes; attached. False: exception set.
int pyh_tools_init(pyh_tools *);
void pyh_run_hook(const pyh_tools *, PyObject *hook, PyObject *state,
                  const pyh_bucket *, pyh_result *out);
// The value of a future that is done, attached or not.
void pyh_future_value(const pyh_tools *, PyObject *future, const pyh_bucket *, pyh_result *out);
// pyh_watch looks at any future: pyh_future_value if it is done, else PENDING
// (object NULL).
void pyh_watch(const pyh_tools *, PyObject *future, const pyh_bucket *, pyh_result *out);

#endif
