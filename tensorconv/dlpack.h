// DLPack: its structs, and tensors in and out.
#ifndef PYHOOK_DLPACK_H
#define PYHOOK_DLPACK_H

#include <stdint.h>

#include "../cbridge/pyapi.h"

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

// How exported tensors hold their memory: the two functions of package internal/memory.
typedef struct {
  void (*retain)(void *owner);
  void (*release)(void *owner);
} pyh_memory;

// A tensor as Go hands it to C.
typedef struct {
  void *data;
  const pyh_memory *memory;
  void *owner;
  int32_t device_type, device_id;
  uint8_t code, bits;
  int32_t ndim;
  const int64_t *shape, *strides; // in elements
} pyh_tensor;

// dlpack.c. All expect an attached thread.
// A capsule "dltensor" or "dltensor_versioned" over the tensor; new reference.
PyObject *pyh_dlpack_capsule(const pyh_api *, const pyh_tensor *, int versioned);
// The exchange API of a Python type; NULL if it has none.
const DLPackExchangeAPI *pyh_exchange_api(const pyh_api *, PyObject *type);
PyObject *pyh_exchange_export(const DLPackExchangeAPI *, const pyh_tensor *);
// A managed tensor that was imported. Go hands it to free in the end, on any thread.
typedef struct {
  void *managed;
  void (*free)(void *managed);
  DLTensor tensor;
  int read_only;
} pyh_import;
// 0: done. 1: not DLPack of a version that we know (*major says). -1: Python error.
int pyh_dlpack_import(const pyh_api *, PyObject *capsule, pyh_import *out, uint32_t *major);
int pyh_exchange_import(const pyh_api *, const DLPackExchangeAPI *, PyObject *obj,
                        pyh_import *out, uint32_t *major);
// Why a torch tensor's memory is not its values, or NULL: it is, or obj is not
// an instance of tensor_type (*is_tensor says). A Python error may be set.
const char *pyh_torch_objection(const pyh_api *, PyObject *tensor_type, PyObject *obj,
                                int *is_tensor);

#endif
