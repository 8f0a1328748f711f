// DLPack in and out. A deleter runs on whatever thread drops the last use,
// without the GIL: it is pure C.

#include "dlpack.h"

#include <stdlib.h>
#include <string.h>

// Destructors have no way to the table but this; it is the same for all of the process.
static const pyh_api *api;

static const char legacy_name[] = "dltensor";
static const char versioned_name[] = "dltensor_versioned";

// One block: the managed tensor, then its shape and strides.
typedef struct {
  DLManagedTensor managed;
  const pyh_memory *memory;
  void *owner;
  int64_t dims[];
} legacy_block;

typedef struct {
  DLManagedTensorVersioned managed;
  const pyh_memory *memory;
  void *owner;
  int64_t dims[];
} versioned_block;

static void free_legacy(DLManagedTensor *m) {
  legacy_block *b = m->manager_ctx;
  b->memory->release(b->owner);
  free(b);
}

static void free_versioned(DLManagedTensorVersioned *m) {
  versioned_block *b = m->manager_ctx;
  b->memory->release(b->owner);
  free(b);
}

static _Alignas(64) char nothing[64]; // where tensors without elements are

static void describe(DLTensor *d, int64_t *dims, const pyh_tensor *t) {
  size_t n = (size_t)t->ndim;
  if (n > 0) { // else they are NULL
    memcpy(dims, t->shape, n * sizeof *dims);
    memcpy(dims + n, t->strides, n * sizeof *dims);
  }
  // torch 1.13 never calls the deleter of no memory.
  d->data = t->data != NULL ? t->data : nothing;
  d->device = (DLDevice){t->device_type, t->device_id};
  d->ndim = t->ndim;
  d->dtype = (DLDataType){t->code, t->bits, 1};
  d->shape = dims;
  d->strides = dims + n;
  d->byte_offset = 0;
}

static size_t dims_bytes(const pyh_tensor *t) {
  return 2 * (size_t)t->ndim * sizeof(int64_t);
}

static DLManagedTensor *export_legacy(const pyh_tensor *t) {
  legacy_block *b = malloc(sizeof *b + dims_bytes(t));
  describe(&b->managed.dl_tensor, b->dims, t);
  b->managed.manager_ctx = b;
  b->managed.deleter = free_legacy;
  b->memory = t->memory;
  b->owner = t->owner;
  t->memory->retain(t->owner);
  return &b->managed;
}

static DLManagedTensorVersioned *export_versioned(const pyh_tensor *t) {
  versioned_block *b = malloc(sizeof *b + dims_bytes(t));
  describe(&b->managed.dl_tensor, b->dims, t);
  b->managed.version = (DLPackVersion){DLPACK_MAJOR, DLPACK_MINOR};
  b->managed.manager_ctx = b;
  b->managed.deleter = free_versioned;
  b->managed.flags = 0;
  b->memory = t->memory;
  b->owner = t->owner;
  t->memory->retain(t->owner);
  return &b->managed;
}

// A capsule that nobody consumed keeps its name, and the tensor with it.
static void drop_legacy(PyObject *capsule) {
  if (api->PyCapsule_IsValid(capsule, legacy_name)) {
    free_legacy(api->PyCapsule_GetPointer(capsule, legacy_name));
  }
}

static void drop_versioned(PyObject *capsule) {
  if (api->PyCapsule_IsValid(capsule, versioned_name)) {
    free_versioned(api->PyCapsule_GetPointer(capsule, versioned_name));
  }
}

PyObject *pyh_dlpack_capsule(const pyh_api *py, const pyh_tensor *t, int versioned) {
  api = py;
  if (versioned) {
    DLManagedTensorVersioned *m = export_versioned(t);
    PyObject *capsule = py->PyCapsule_New(m, versioned_name, drop_versioned);
    if (capsule == NULL) {
      free_versioned(m);
    }
    return capsule;
  }
  DLManagedTensor *m = export_legacy(t);
  PyObject *capsule = py->PyCapsule_New(m, legacy_name, drop_legacy);
  if (capsule == NULL) {
    free_legacy(m);
  }
  return capsule;
}

const DLPackExchangeAPI *pyh_exchange_api(const pyh_api *py, PyObject *type) {
  PyObject *capsule =
      py->PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
  if (capsule == NULL) {
    py->PyErr_Clear();
    return NULL;
  }
  const DLPackExchangeAPI *x =
      py->PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  if (x == NULL) {
    py->PyErr_Clear();
  }
  py->Py_DecRef(capsule); // the struct lives as long as the process
  if (x == NULL || x->version.major != DLPACK_MAJOR || x->to_py_object == NULL ||
      x->from_py_object == NULL) {
    return NULL;
  }
  return x;
}

PyObject *pyh_exchange_export(const DLPackExchangeAPI *x, const pyh_tensor *t) {
  void *obj = NULL;
  // The managed tensor is theirs from here on, also on failure (dlpack.h 1.3).
  if (x->to_py_object(export_versioned(t), &obj) != 0) {
    return NULL;
  }
  return obj;
}

static void delete_legacy(void *managed) {
  DLManagedTensor *m = managed;
  if (m->deleter != NULL) {
    m->deleter(m);
  }
}

static void delete_versioned(void *managed) {
  DLManagedTensorVersioned *m = managed;
  if (m->deleter != NULL) {
    m->deleter(m);
  }
}

// Producers' deleters may need the GIL (numpy's do), and the thread that drops the last reference
// may not have it.
static void free_imported_legacy(void *managed) { api->defer_call(delete_legacy, managed); }
static void free_imported_versioned(void *managed) { api->defer_call(delete_versioned, managed); }

static int take_versioned(const pyh_api *py, DLManagedTensorVersioned *m,
                          pyh_import *out, uint32_t *major) {
  *major = m->version.major;
  if (m->version.major != DLPACK_MAJOR) {
    // Nothing else of the struct may be touched, says the specification.
    if (m->deleter != NULL) {
      m->deleter(m);
    }
    return 1;
  }
  out->tensor = m->dl_tensor;
  out->read_only = (m->flags & DLPACK_READ_ONLY) != 0;
  api = py;
  out->managed = m;
  out->free = free_imported_versioned;
  return 0;
}

int pyh_dlpack_import(const pyh_api *py, PyObject *capsule, pyh_import *out, uint32_t *major) {
  *major = 0;
  if (py->PyCapsule_IsValid(capsule, versioned_name)) {
    DLManagedTensorVersioned *m =
        py->PyCapsule_GetPointer(capsule, versioned_name);
    if (py->PyCapsule_SetName(capsule, "used_dltensor_versioned") != 0) {
      return -1;
    }
    return take_versioned(py, m, out, major);
  }
  if (!py->PyCapsule_IsValid(capsule, legacy_name)) {
    return 1;
  }
  DLManagedTensor *m = py->PyCapsule_GetPointer(capsule, legacy_name);
  if (py->PyCapsule_SetName(capsule, "used_dltensor") != 0) {
    return -1;
  }
  out->tensor = m->dl_tensor;
  out->read_only = 0;
  api = py;
  out->managed = m;
  out->free = free_imported_legacy;
  return 0;
}

int pyh_exchange_import(const pyh_api *py, const DLPackExchangeAPI *x, PyObject *obj,
                        pyh_import *out, uint32_t *major) {
  DLManagedTensorVersioned *m = NULL;
  if (x->from_py_object(obj, &m) != 0) {
    return -1;
  }
  return take_versioned(py, m, out, major);
}

// torch's own __dlpack__ refuses the first two; its exchange API refuses none.
const char *pyh_torch_objection(const pyh_api *py, PyObject *tensor_type, PyObject *obj,
                                int *is_tensor) {
  static const struct { const char *name; int method; const char *why; } checks[] = {
      {"requires_grad", 0, "the tensor requires grad: detach it first"},
      {"is_conj", 1, "the tensor has its conjugate bit set: resolve_conj it first"},
      {"is_neg", 1, "the tensor has its negative bit set: resolve_neg it first"}};
  *is_tensor = py->PyObject_IsInstance(obj, tensor_type) > 0;
  if (!*is_tensor) {
    return NULL;
  }
  for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
    PyObject *value = py->PyObject_GetAttrString(obj, checks[i].name);
    if (value != NULL && checks[i].method) {
      PyObject *method = value;
      value = py->vectorcall(method, NULL, 0, NULL);
      py->Py_DecRef(method);
    }
    if (value == NULL) {
      return NULL;
    }
    int yes = py->PyObject_IsTrue(value);
    py->Py_DecRef(value);
    if (yes != 0) {
      return yes > 0 ? checks[i].why : NULL;
    }
  }
  return NULL;
}
