// DLPack: its structs, and tensors in and out.
#ifndef PYHOOK_DLPACK_H
#define PYHOOK_DLPACK_H

#include <stdint.h>

#include "pyapi.h"

// DLPack 1.3, dlpack.h: layouts are ABI.
typedef struct { int32_t type, id; } DLDevice;
typedef struct { uint8_t code, bits; uint16_t lanes; } DLDataType;
typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensor *);
} DLManagedTensor;
typedef struct { uint32_t major, minor; } DLPackVersion;
typedef struct DLManagedTensorVersioned {
  DLPackVersion version;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned *);
  uint64_t flags;
  DLTensor dl_tensor;
} DLManagedTensorVersioned;
enum { DLPACK_READ_ONLY = 1, DLPACK_MAJOR = 1, DLPACK_MINOR = 0 };

// The C exchange API (torch 2.10 and later).
typedef struct {
  DLPackVersion version;
  void *prev_api;
  int (*allocator)(DLTensor *, DLManagedTensorVersioned **, void *,
                   void (*)(void *, const char *, const char *));
  int (*from_py_object)(void *, DLManagedTensorVersioned **);
  int (*to_py_object)(DLManagedTensorVersioned *, void **);
  int (*dltensor_from_py_object)(void *, DLTensor *);
  int (*current_work_stream)(int32_t, int32_t, void **);
} DLPackExchangeAPI;

// pyh_set_memory says how exported tensors hold their memory: by two functions
// that may be called on any thread. Before the first export.
void pyh_set_memory(void (*retain)(void *owner), void (*release)(void *owner));

// What follows is called attached.

// A capsule "dltensor" over the tensor, which holds a reference of its own on owner; new reference.
PyObject *pyh_dlpack_capsule(const DLTensor *, void *owner);
// The exchange API of a Python type; NULL if it has none.
const DLPackExchangeAPI *pyh_exchange_api(PyObject *type);
const DLPackExchangeAPI *pyh_exchange_api_of(PyObject *obj);
// An object of that API's library over the tensor; new reference.
PyObject *pyh_exchange_export(const DLPackExchangeAPI *, const DLTensor *, void *owner);
// A managed tensor that was imported: free(managed) in the end, on any thread.
typedef struct {
  void *managed;
  void (*free)(void *managed);
  DLTensor tensor;
  bool read_only;
} pyh_import;
// 0: done. 1: not DLPack of a version that we know (*major says). -1: Python error.
int pyh_dlpack_import(PyObject *capsule, pyh_import *out, uint32_t *major);
// The same for an object whose type has that exchange API.
int pyh_exchange_import(const DLPackExchangeAPI *, PyObject *obj, pyh_import *out,
                        uint32_t *major);
// Why a torch tensor's memory is not its values, or NULL: it is, or obj is not
// an instance of tensor_type (*is_tensor says). A Python error may be set.
const char *pyh_torch_objection(PyObject *tensor_type, PyObject *obj, bool *is_tensor);

#endif
