// DLPack in and out. A deleter runs on whatever thread drops the last use,
// without the GIL: it is pure C.

#include "dlpack.h"

#include "threadstate.h"

#include <stdlib.h>
#include <string.h>

static void (*retain)(void *owner), (*release)(void *owner);

void pyh_set_memory(void (*retain_owner)(void *owner), void (*release_owner)(void *owner)) {
  retain = retain_owner;
  release = release_owner;
}

static const char legacy_name[] = "dltensor";
static const char versioned_name[] = "dltensor_versioned";

// One block: the managed tensor, then its shape and strides.
typedef struct {
  DLManagedTensor managed;
  void *owner;
  int64_t dims[];
} legacy_block;

typedef struct {
  DLManagedTensorVersioned managed;
  void *owner;
  int64_t dims[];
} versioned_block;

static void free_legacy(DLManagedTensor *m) {
  legacy_block *b = m->manager_ctx;
  release(b->owner);
  free(b);
}

static void free_versioned(DLManagedTensorVersioned *m) {
  versioned_block *b = m->manager_ctx;
  release(b->owner);
  free(b);
}

static _Alignas(64) char nothing[64]; // where tensors without elements are

// describe copies t, with its shape and strides to dims.
static void describe(DLTensor *d, int64_t *dims, const DLTensor *t) {
  size_t n = (size_t)t->ndim;
  if (n > 0) { // else they are NULL
    memcpy(dims, t->shape, n * sizeof *dims);
    memcpy(dims + n, t->strides, n * sizeof *dims);
  }
  *d = *t;
  d->shape = dims;
  d->strides = dims + n;
  if (t->data == NULL) { // torch 1.13 never calls the deleter of no memory
    d->data = nothing;
  }
}

static size_t dims_bytes(const DLTensor *t) { return 2 * (size_t)t->ndim * sizeof(int64_t); }

static DLManagedTensor *export_legacy(const DLTensor *t, void *owner) {
  legacy_block *b = malloc(sizeof *b + dims_bytes(t));
  describe(&b->managed.dl_tensor, b->dims, t);
  b->managed.manager_ctx = b;
  b->managed.deleter = free_legacy;
  b->owner = owner;
  retain(owner);
  return &b->managed;
}

static DLManagedTensorVersioned *export_versioned(const DLTensor *t, void *owner) {
  versioned_block *b = malloc(sizeof *b + dims_bytes(t));
  describe(&b->managed.dl_tensor, b->dims, t);
  b->managed.version = (DLPackVersion){DLPACK_MAJOR, DLPACK_MINOR};
  b->managed.manager_ctx = b;
  b->managed.deleter = free_versioned;
  b->managed.flags = 0;
  b->owner = owner;
  retain(owner);
  return &b->managed;
}

// A capsule that nobody consumed keeps its name, and the tensor with it.
static void drop_legacy(PyObject *capsule) {
  if (pyh.PyCapsule_IsValid(capsule, legacy_name)) {
    free_legacy(pyh.PyCapsule_GetPointer(capsule, legacy_name));
  }
}

PyObject *pyh_dlpack_capsule(const DLTensor *t, void *owner) {
  DLManagedTensor *m = export_legacy(t, owner);
  PyObject *capsule = pyh.PyCapsule_New(m, legacy_name, drop_legacy);
  if (capsule == NULL) {
    free_legacy(m);
  }
  return capsule;
}

const DLPackExchangeAPI *pyh_exchange_api(PyObject *type) {
  PyObject *capsule =
      pyh.PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
  if (capsule == NULL) {
    pyh.PyErr_Clear();
    return NULL;
  }
  const DLPackExchangeAPI *x =
      pyh.PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  if (x == NULL) {
    pyh.PyErr_Clear();
  }
  pyh.Py_DecRef(capsule); // the struct lives as long as the process
  if (x == NULL || x->version.major != DLPACK_MAJOR || x->to_py_object == NULL ||
      x->from_py_object == NULL) {
    return NULL;
  }
  return x;
}

PyObject *pyh_exchange_export(const DLPackExchangeAPI *x, const DLTensor *t, void *owner) {
  void *obj = NULL;
  // The managed tensor is theirs from here on, also on failure (dlpack.h 1.3).
  if (x->to_py_object(export_versioned(t, owner), &obj) != 0) {
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
static void free_imported_legacy(void *managed) { pyh_defer_call(delete_legacy, managed); }
static void free_imported_versioned(void *managed) { pyh_defer_call(delete_versioned, managed); }

static int take_versioned(DLManagedTensorVersioned *m, pyh_import *out, uint32_t *major) {
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
  out->managed = m;
  out->free = free_imported_versioned;
  return 0;
}

int pyh_dlpack_import(PyObject *capsule, pyh_import *out, uint32_t *major) {
  *major = 0;
  if (pyh.PyCapsule_IsValid(capsule, versioned_name)) {
    DLManagedTensorVersioned *m =
        pyh.PyCapsule_GetPointer(capsule, versioned_name);
    if (pyh.PyCapsule_SetName(capsule, "used_dltensor_versioned") != 0) {
      return -1;
    }
    return take_versioned(m, out, major);
  }
  if (!pyh.PyCapsule_IsValid(capsule, legacy_name)) {
    return 1;
  }
  DLManagedTensor *m = pyh.PyCapsule_GetPointer(capsule, legacy_name);
  if (pyh.PyCapsule_SetName(capsule, "used_dltensor") != 0) {
    return -1;
  }
  out->tensor = m->dl_tensor;
  out->read_only = 0;
  out->managed = m;
  out->free = free_imported_legacy;
  return 0;
}

const DLPackExchangeAPI *pyh_exchange_api_of(PyObject *obj) {
  PyObject *type = pyh.PyObject_Type(obj);
  const DLPackExchangeAPI *x = pyh_exchange_api(type);
  pyh.Py_DecRef(type);
  return x;
}

int pyh_exchange_import(const DLPackExchangeAPI *x, PyObject *obj, pyh_import *out,
                        uint32_t *major) {
  DLManagedTensorVersioned *m = NULL;
  if (x->from_py_object(obj, &m) != 0) {
    return -1;
  }
  return take_versioned(m, out, major);
}

// torch's own __dlpack__ refuses the first two; its exchange API refuses none.
const char *pyh_torch_objection(PyObject *tensor_type, PyObject *obj, bool *is_tensor) {
  static const struct { const char *name; int method; const char *why; } checks[] = {
      {"requires_grad", 0, "the tensor requires grad: detach it first"},
      {"is_conj", 1, "the tensor has its conjugate bit set: resolve_conj it first"},
      {"is_neg", 1, "the tensor has its negative bit set: resolve_neg it first"}};
  *is_tensor = pyh.PyObject_IsInstance(obj, tensor_type) > 0;
  if (!*is_tensor) {
    return NULL;
  }
  for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
    PyObject *value = pyh.PyObject_GetAttrString(obj, checks[i].name);
    if (value != NULL && checks[i].method) {
      PyObject *method = value;
      value = pyh.vectorcall(method, NULL, 0, NULL);
      pyh.Py_DecRef(method);
    }
    if (value == NULL) {
      return NULL;
    }
    int yes = pyh.PyObject_IsTrue(value);
    pyh.Py_DecRef(value);
    if (yes != 0) {
      return yes > 0 ? checks[i].why : NULL;
    }
  }
  return NULL;
}
