// The hot path: one call of a Python hook, in one crossing from Go.
#ifndef PYHOOK_HOOKCALL_H
#define PYHOOK_HOOKCALL_H

#include "../cbridge/pyapi.h"
#include "../tensorconv/dlpack.h"
#include "gradmode.h"

struct pyh_result;

// What every call needs, looked up once. All references are owned.
typedef struct {
  const pyh_api *py;
  PyObject *future_class; // torch._C.Future
  PyObject *python_future; // torch.futures.Future, which subclasses it
  PyObject *done;         // torch._C.Future.done, unbound
  PyObject *value;        // torch._C.Future.value, unbound
  PyObject *add_done_callback; // torch._C.Future.add_done_callback, unbound
  // Tells Go of a pending future that is done; attached, on any thread.
  void (*tell)(uintptr_t id, struct pyh_result *);
  PyObject *data_ptr;     // torch.Tensor.data_ptr, unbound
  PyObject *numel;        // torch.Tensor.numel, unbound
  PyObject *dim;          // torch.Tensor.dim, unbound
  // Fills in a DLTensor of a torch.Tensor that it does not keep; NULL before
  // torch 2.10. Not 0: exception set.
  int (*describe)(void *tensor, DLTensor *);
  PyObject *is_contiguous; // torch.Tensor.is_contiguous, unbound
  PyObject *has_names;     // torch.Tensor.has_names, unbound; NULL where torch has none
  PyObject *detach;        // torch.Tensor.detach_, unbound
  PyObject *tensor_class;  // torch.Tensor
  PyObject *bucket_methods; // pyhook._bucket.BucketMethods
  PyObject *bucket_class;   // pyhook._bucket.Bucket
  PyObject *shell_type;     // of shell.c
  PyObject *dtype;          // "dtype", interned
  PyObject *requires_grad;  // "requires_grad", interned
  pyh_grad_mode grad;
} pyh_tools;

enum pyh_outcome {
  PYH_SAME,       // done: the bucket's own buffer, untouched in shape
  PYH_VALUE,      // done: object is the value
  PYH_PENDING,    // pending is what waits for the future
  PYH_NOT_FUTURE, // object is what the hook returned
  PYH_RAISED,     // error: the hook raised
  PYH_FAILED      // error: the future's
};

// A future that is pending, and whom to tell: pending.c.
typedef struct pyh_pending pyh_pending;

// object and error are new references for the caller, or NULL.
typedef struct pyh_result {
  int outcome;
  int touched; // the hook changed the bucket's kept tensor itself, in place
  PyObject *object;
  PyObject *error;
  pyh_pending *pending;
} pyh_result;

// A bucket's kept Python objects, borrowed, and what came of the last call. It
// is C memory: a call passes its address and nothing else of the bucket.
typedef struct {
  PyObject *layout;
  PyObject *tensor;
  PyObject *dtype; // tensor's
  PyObject *value; // asks a future that is done; NULL: tools->value does
  uintptr_t data; // where tensor's memory is
  int64_t len;    // its elements
  int streak;     // calls in a row whose future was done at return
  unsigned calls; // since the objects were made
  int described;  // 1: form is tensor's dtype, as tools->describe tells it; -1: it cannot
  DLDataType form;
  unsigned long thread; // that runs the hook now, as Python names it; 0: none
  int interrupted; // something was raised there: set by Go, with the GIL
  pyh_result result;
} pyh_bucket;

// Fills the rest of tools from its classes; attached. False: exception set.
int pyh_tools_init(pyh_tools *);
// Calls hook(state, bucket). What came of it is in the bucket's result: cgo
// needs longer for a function that returns something. The arguments are the
// addresses of a pyh_tools, two PyObjects and a pyh_bucket: as integers, Go
// passes them without looking up whether they are Go's.
void pyh_run_hook(uintptr_t tools, uintptr_t hook, uintptr_t state, uintptr_t bucket);
// The thread that runs the hook of that bucket now; 0: none, or not yet.
unsigned long pyh_thread_of(const pyh_bucket *);
// The same for any future, which stays the caller's; attached or not.
void pyh_watch(const pyh_tools *, PyObject *future, pyh_result *out);

// Takes the value of a future that is done; attached.
void pyh_take_value(const pyh_tools *, PyObject *future, const pyh_bucket *, pyh_result *out);
// Has pending made of a future and hung on it as a callback; attached. NULL:
// exception set. The bucket's objects must stay until it is done or abandoned;
// NULL: the future is no hook's.
pyh_pending *pyh_listen(const pyh_tools *, PyObject *future, const pyh_bucket *);
// From now on tools->tell(id, result) is called when the future is done. 1: it is
// done already, out is the result, and nobody will be told. Once, and it calls
// nothing of Python.
int pyh_arm(pyh_pending *, uintptr_t id, pyh_result *out);
// Blocks the calling thread, detached, until the armed future is done: 1, out is
// the result, and Go is not told if it was done after this call began. 0: it was
// abandoned, or pyh_wake was called, perhaps before. One thread at a time.
int pyh_block(pyh_pending *, pyh_result *out);
void pyh_wake(pyh_pending *);
// Nobody will be told, and the bucket's objects may go: 1. 0: too late, the
// value has been or is being taken. Needs no attached thread.
int pyh_abandon(pyh_pending *);
// One more reference; and one less, of this or of pyh_listen.
void pyh_pending_retain(pyh_pending *);
void pyh_pending_release(pyh_pending *);
// How many there are. torch keeps the callback of a future that never completes.
int64_t pyh_pendings(void);

#endif
