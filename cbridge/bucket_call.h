// Calls of DDP's communication hooks: hook(state, bucket). Every call gets a new bucket object over
// a kept layout and a kept tensor. After the call that tensor must be unchanged, since the next
// call gets it too.
#ifndef PYHOOK_BUCKET_CALL_H
#define PYHOOK_BUCKET_CALL_H

#include "invoke.h"

typedef struct {
  pyh_invocation call; // its own object is the tensor
  PyObject *layout;    // pyhook._runtime.bucket.BucketLayout
  PyObject *tensor;    // the flat torch.Tensor over the bucket's memory
  PyObject *dtype;     // the tensor's
  uintptr_t data;      // where the tensor's memory is
  int64_t len;         // its elements
  bool described;      // torch->describe accepts the tensor; form is its dtype
  DLDataType form;
} pyh_bucket_call;

// Makes one in C memory, which the caller frees; NULL: out of memory. Attached, before a hook has
// seen the tensor. The objects are borrowed.
pyh_bucket_call *pyh_bucket_call_new(const pyh_torch_api *, PyObject *layout, PyObject *tensor,
                                     PyObject *dtype, uintptr_t data, int64_t len);
// Makes another one over the same objects, for a call at the same time; attached or not.
pyh_bucket_call *pyh_bucket_call_copy(const pyh_bucket_call *);

#endif
