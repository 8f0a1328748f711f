// The parts of torch that hook calls use, looked up once.
#ifndef PYHOOK_TORCH_API_H
#define PYHOOK_TORCH_API_H

#include "dlpack.h"
#include "grad_mode.h"

// The objects are borrowed: Go's TorchAPI owns them. pybind11's methods are without its wrapper,
// and take their object as the first argument.
typedef struct {
  PyObject *future_class;      // torch._C.Future
  PyObject *python_future;     // torch.futures.Future, which subclasses it
  PyObject *done;              // torch._C.Future.done
  PyObject *value;             // torch._C.Future.value
  PyObject *add_done_callback; // torch._C.Future.add_done_callback
  PyObject *tensor_class;      // torch.Tensor
  PyObject *data_ptr;          // torch.Tensor.data_ptr
  PyObject *numel;             // torch.Tensor.numel
  PyObject *dim;               // torch.Tensor.dim
  PyObject *is_contiguous;     // torch.Tensor.is_contiguous
  PyObject *detach;            // torch.Tensor.detach_
  PyObject *has_names;         // torch.Tensor.has_names; owned; NULL where torch has none
  PyObject *dtype;             // "dtype", interned; owned
  PyObject *requires_grad;     // "requires_grad", interned; owned
  // Fills in a DLTensor of a torch.Tensor that it does not keep; NULL before
  // torch 2.10. Not 0: exception set. Attached.
  int (*describe)(void *tensor, DLTensor *);
  pyh_grad_mode grad;
} pyh_torch_api;

// Fills in what the struct owns; attached. False: exception set.
bool pyh_torch_api_init(pyh_torch_api *);

// pyh_is_future says whether o is a torch future; attached.
bool pyh_is_future(const pyh_torch_api *, PyObject *o);
// pyh_is_done says whether a future is done: 1 or 0; -1: exception set. Attached.
int pyh_is_done(const pyh_torch_api *, PyObject *future);

#endif
