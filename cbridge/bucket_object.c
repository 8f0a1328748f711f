#include "bucket_object.h"

#include <string.h>

// The fields of an object, behind its base's part, whose size is known only at run time: the
// attributes that BucketMethods expects, and the list of weak references.
typedef struct {
  PyObject *layout;
  PyObject *buffer;
  PyObject *weakrefs;
} fields;

// There is one type in a process, since a type's functions get only the object.
static PyObject *type;   // this type
static PyObject *class;  // Bucket
static Py_ssize_t before; // bytes of an object before its fields

static fields *of(PyObject *o) { return (fields *)((char *)o + before); }

static PyObject *held(PyObject *o) {
  pyh.Py_IncRef(o);
  return o;
}

static PyObject *buffer(PyObject *self, PyObject *none) {
  PyObject *o = of(self)->buffer;
  if (o == NULL) { // deleted: the member's own error
    return pyh.PyObject_GetAttrString(self, "_buffer");
  }
  return held(o);
}

static PyObject *get_class(PyObject *self, void *closure) { return held(class); }

static int traverse(PyObject *self, int (*visit)(PyObject *, void *), void *arg) {
  PyObject *refs[] = {type, of(self)->layout, of(self)->buffer};
  for (size_t i = 0; i < sizeof refs / sizeof *refs; i++) {
    int stop = refs[i] == NULL ? 0 : visit(refs[i], arg);
    if (stop != 0) {
      return stop;
    }
  }
  return 0;
}

static void drop(PyObject **slot) {
  PyObject *o = *slot;
  *slot = NULL; // before the reference goes: that may run any code
  if (o != NULL) {
    pyh.Py_DecRef(o);
  }
}

static int clear(PyObject *self) {
  drop(&of(self)->layout);
  drop(&of(self)->buffer);
  return 0;
}

static void dealloc(PyObject *self) {
  pyh.PyObject_GC_UnTrack(self);
  if (of(self)->weakrefs != NULL) {
    pyh.PyObject_ClearWeakRefs(self);
  }
  clear(self);
  pyh.PyObject_GC_Del(self);
  pyh.Py_DecRef(type); // the object's reference
}

static PyMethodDef methods_with_gil[] = {{"buffer", buffer, PYH_METH_NOARGS, NULL}, {0}};
static PyMethodDef no_methods[] = {{0}};
static PyGetSetDef getset[] = {{"__class__", get_class, NULL, NULL, NULL}, {0}};

static int basicsize(PyObject *o, Py_ssize_t *size) {
  PyObject *n = pyh.PyObject_GetAttrString(o, "__basicsize__");
  if (n == NULL) {
    return 0;
  }
  int overflow;
  *size = pyh.PyLong_AsLongLongAndOverflow(n, &overflow);
  pyh.Py_DecRef(n);
  return 1;
}

bool pyh_make_bucket_type(PyObject *methods, PyObject *bucket) {
  if (type != NULL) { // a Runtime before this one made it
    return true;
  }
  if (!basicsize(methods, &before)) {
    return false;
  }
  static PyMemberDef members[4];
  members[0] = (PyMemberDef){"_layout", PYH_T_OBJECT_EX, before + offsetof(fields, layout), 0, NULL};
  members[1] = (PyMemberDef){"_buffer", PYH_T_OBJECT_EX, before + offsetof(fields, buffer), 0, NULL};
  members[2] = (PyMemberDef){"__weaklistoffset__", PYH_T_PYSSIZET,
                             before + offsetof(fields, weakrefs), PYH_READONLY, NULL};
  // Without a GIL, reading a field beside a thread that sets it needs what only
  // CPython's own members do: buffer() stays BucketMethods' there.
  PyType_Slot slots[] = {
      {PYH_TP_DEALLOC, (void *)dealloc},
      {PYH_TP_TRAVERSE, (void *)traverse},
      {PYH_TP_CLEAR, (void *)clear},
      {PYH_TP_METHODS, pyh.free_threaded ? no_methods : methods_with_gil},
      {PYH_TP_MEMBERS, members},
      {PYH_TP_GETSET, getset},
      {0},
  };
  PyType_Spec spec = {"pyhook._runtime.bucket.Bucket", (int)(before + sizeof(fields)), 0,
                      PYH_TPFLAGS_DEFAULT | PYH_TPFLAGS_HAVE_GC, slots};
  PyObject *bases = pyh.PyTuple_New(1);
  if (bases == NULL || pyh.PyTuple_SetItem(bases, 0, held(methods)) != 0) {
    return false;
  }
  type = pyh.PyType_FromSpecWithBases(&spec, bases);
  pyh.Py_DecRef(bases);
  if (type != NULL) {
    class = held(bucket);
  }
  return type != NULL;
}

PyObject *pyh_new_bucket(PyObject *layout, PyObject *buffer) {
  PyObject *o = pyh.PyType_GenericAlloc(type, 0);
  if (o != NULL) {
    *of(o) = (fields){held(layout), held(buffer), NULL};
  }
  return o;
}
