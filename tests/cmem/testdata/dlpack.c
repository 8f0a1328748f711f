#include <string.h>

#include "cmem.h"

static DLTensor describe(void *base, const int64_t *shape, const int64_t *strides, int ndim) {
  return (DLTensor){.data = base, .device = {1, 0}, .ndim = ndim, .dtype = {2, 32, 1}, .shape = (int64_t *)shape, .strides = (int64_t *)strides};
}

static void run_deferred(void) { // does what was deferred
  pyh_leave();
  pyh_enter();
}

static void check_capsules(void) {
  const int64_t shape[] = {2, 3}, strides[] = {3, 1};
  for (int ndim = 0; ndim <= 2; ndim += 2) {
    void *base;
    pyh_owner *o = pyh_owner_alloc(24, 64, &base);
    DLTensor t = describe(base, ndim ? shape : NULL, ndim ? strides : NULL, ndim);
    PyObject *dropped = pyh_dlpack_capsule(&t, o), *used = pyh_dlpack_capsule(&t, o);
    pyh_owner_release(o);
    pyh.Py_DecRef(dropped); // nobody consumed it
    pyh_import in;
    uint32_t major;
    CHECK(pyh_dlpack_import(used, &in, &major) == 0);
    CHECK(in.tensor.ndim == ndim && in.read_only == 0 && memcmp(in.tensor.shape, shape, 8 * (size_t)ndim) == 0);
    CHECK(((float *)in.tensor.data)[5] == 0);
    CHECK(pyh_dlpack_import(used, &in, &major) == 1 && major == 0); // once only
    pyh.Py_DecRef(used);
    in.free(in.managed);
    CHECK(pyh_owners() == 1); // its deleter waits for the next enter
    run_deferred();
    CHECK(pyh_owners() == 0);
  }
  pyh_import in;
  uint32_t major;
  CHECK(pyh_dlpack_import(pyh.None, &in, &major) == 1);
}

static int deleted;
static void delete_versioned(DLManagedTensorVersioned *m) {
  deleted++;
  free(m);
}

static DLManagedTensorVersioned *managed(uint32_t major) {
  DLManagedTensorVersioned *m = calloc(1, sizeof *m);
  m->version.major = major;
  m->flags = DLPACK_READ_ONLY;
  m->deleter = delete_versioned;
  return m;
}

static void check_foreign(void) {
  pyh_import in;
  uint32_t major;
  PyObject *newer = pyh.PyCapsule_New(managed(2), "dltensor_versioned", NULL);
  CHECK(pyh_dlpack_import(newer, &in, &major) == 1 && major == 2 && deleted == 1);
  PyObject *fixed = pyh.PyCapsule_New(managed(1), "dltensor_versioned", NULL);
  CHECK(pyh_dlpack_import(fixed, &in, &major) == 0 && in.read_only);
  in.free(in.managed);
  run_deferred();
  CHECK(deleted == 2);
  DLManagedTensor *nobody = calloc(1, sizeof *nobody); // without a deleter
  PyObject *legacy = pyh.PyCapsule_New(nobody, "dltensor", NULL);
  CHECK(pyh_dlpack_import(legacy, &in, &major) == 0);
  in.free(in.managed);
  run_deferred();
  free(nobody);
  pyh.Py_DecRef(newer);
  pyh.Py_DecRef(fixed);
  pyh.Py_DecRef(legacy);
}

// An exchange API as torch's: here its tensors are capsules.
static int export(DLManagedTensorVersioned *m, void **out) {
  *out = pyh.PyCapsule_New(m, "exchanged", NULL);
  return *out != NULL ? 0 : -1;
}

static int import(void *obj, DLManagedTensorVersioned **out) {
  *out = pyh.PyCapsule_GetPointer(obj, "exchanged");
  return *out != NULL ? 0 : -1;
}

static void check_exchange(void) {
  static DLPackExchangeAPI api = {.version = {1, 3}, .from_py_object = import, .to_py_object = export};
  PyObject *dict = python("class Plain: pass\nclass Tensor: pass\nclass Odd: __dlpack_c_exchange_api__ = 5");
  PyObject *plain = from(dict, "Plain"), *tensor = from(dict, "Tensor"), *odd = from(dict, "Odd");
  PyObject *capsule = pyh.PyCapsule_New(&api, "dlpack_exchange_api", NULL);
  CHECK(pyh.PyObject_SetAttrString(tensor, "__dlpack_c_exchange_api__", capsule) == 0);
  CHECK(pyh_exchange_api(plain) == NULL && pyh_exchange_api(odd) == NULL);
  CHECK(pyh_exchange_api(tensor) == &api);
  api.version.major = 2;
  CHECK(pyh_exchange_api(tensor) == NULL);
  api.version.major = 1;

  const int64_t shape[] = {6}, strides[] = {1};
  void *base;
  pyh_owner *o = pyh_owner_alloc(24, 64, &base);
  DLTensor t = describe(base, shape, strides, 1);
  PyObject *obj = pyh_exchange_export(&api, &t, o);
  pyh_owner_release(o);
  pyh_import in;
  uint32_t major;
  CHECK(pyh_exchange_import(&api, obj, &in, &major) == 0 && in.tensor.shape[0] == 6);
  CHECK(pyh_exchange_import(&api, plain, &in, &major) == -1);
  pyh.PyErr_Clear();
  in.free(in.managed);
  run_deferred();
  PyObject *all[] = {obj, capsule, plain, tensor, odd, dict};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    pyh.Py_DecRef(all[i]);
  }
}

static void check_objections(void) {
  PyObject *dict = python("class T:\n requires_grad = False\n def is_conj(self): return False\n def is_neg(self): return False\n"
                          "class G(T): requires_grad = True\n"
                          "class C(T):\n def is_conj(self): return True\n"
                          "class E(T):\n def is_neg(self): raise ValueError\n"
                          "t, g, c, e, o = T(), G(), C(), E(), object()");
  const struct { const char *name, *part; int is, raises; } cases[] = {
      {"t", NULL, 1, 0}, {"g", "requires grad", 1, 0}, {"c", "conjugate", 1, 0}, {"e", NULL, 1, 1}, {"o", NULL, 0, 0}};
  PyObject *kind = from(dict, "T");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    PyObject *obj = from(dict, cases[i].name);
    bool is;
    const char *why = pyh_torch_objection(kind, obj, &is);
    CHECK(is == cases[i].is && (why != NULL) == (cases[i].part != NULL));
    CHECK(why == NULL || strstr(why, cases[i].part) != NULL);
    CHECK((pyh.PyErr_Occurred() != NULL) == cases[i].raises);
    pyh.PyErr_Clear();
    pyh.Py_DecRef(obj);
  }
  pyh.Py_DecRef(kind);
  pyh.Py_DecRef(dict);
}

void check_dlpack(void) {
  pyh_set_memory(pyh_owner_retain, pyh_owner_release);
  pyh_enter();
  check_capsules();
  check_foreign();
  check_exchange();
  check_objections();
  pyh_leave();
}
