// Who owns a tensor's memory, and DLPack's structs.
#ifndef PYHOOK_MEMORY_H
#define PYHOOK_MEMORY_H

#include <stdatomic.h>
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

// pyh_owner is memory that tensors share: counted, released with the last one,
// on whatever thread that is, attached to Python or not.
typedef struct pyh_owner {
  _Atomic int64_t refs;
  enum { PYH_OWN_MALLOC, PYH_OWN_FOREIGN, PYH_OWN_LEGACY, PYH_OWN_VERSIONED } kind;
  void *base;             // what to free, or the managed tensor to delete
  uintptr_t id;           // FOREIGN: Go's release function
  const pyh_api *py;      // LEGACY, VERSIONED: their deleters run attached
  struct pyh_owner *next; // in the list of the released
} pyh_owner;

pyh_owner *pyh_owner_alloc(size_t bytes, size_t align); // zeroed; NULL: out of memory
pyh_owner *pyh_owner_foreign(uintptr_t id);
void pyh_owner_retain(pyh_owner *);
void pyh_owner_release(pyh_owner *);
int64_t pyh_owners(void); // alive in the process
// The released FOREIGN owners' ids, one a call; 0: no more.
uintptr_t pyh_owner_next_released(void);
// A byte is written to fd for each of them.
void pyh_owner_notify(int fd);

// A tensor as Go hands it to C.
typedef struct {
  void *data;
  pyh_owner *owner;
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
// An imported managed tensor, owned by the returned owner (one reference).
typedef struct {
  pyh_owner *owner;
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

// tensorconv.DType, in its order.
enum {
  T_INVALID, T_F64, T_F32, T_F16, T_BF16, T_I64, T_I32, T_I16, T_I8, T_U8,
  T_U16, T_U32, T_U64, T_BOOL, T_C64, T_C128, T_E4M3FN, T_E4M3FNUZ, T_E5M2,
  T_E5M2FNUZ, T_END
};

// copy.c. dst and src are CPU memory; 0, or -1 where the dtypes have no conversion.
int pyh_copy(void *dst, int dst_type, const int64_t *dst_strides, const void *src,
             int src_type, const int64_t *src_strides, int ndim, const int64_t *shape);
int pyh_divide(void *data, int type, int64_t n, double divisor);
int pyh_scale(void *dst, const void *src, int type, int64_t n, double factor);
// finite.c. The index of the first element that is NaN or infinite; -1: none is.
int64_t pyh_first_nonfinite(const void *data, int type, int64_t n);

#endif
