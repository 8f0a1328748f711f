#include "object.h"

PyObject *pyh_string(const char *s, size_t n) {
  // surrogateescape: a Go string is bytes, and file names need not be UTF-8.
  return pyh.PyUnicode_DecodeUTF8(s, (Py_ssize_t)n, "surrogateescape");
}

PyObject *pyh_call(PyObject *f, PyObject **args, size_t n, PyObject *kwargs) {
  return pyh.PyObject_VectorcallDict(f, args, n, kwargs);
}

PyObject *pyh_raised(void) {
  if (pyh.PyErr_GetRaisedException != NULL) {
    return pyh.PyErr_GetRaisedException();
  }
  PyObject *type = NULL, *value = NULL, *traceback = NULL;
  pyh.PyErr_Fetch(&type, &value, &traceback);
  if (type == NULL) {
    return NULL;
  }
  pyh.PyErr_NormalizeException(&type, &value, &traceback);
  if (value != NULL && traceback != NULL) {
    pyh.PyException_SetTraceback(value, traceback);
  }
  pyh.Py_DecRef(type);
  if (traceback != NULL) {
    pyh.Py_DecRef(traceback);
  }
  return value;
}

static int kind_of(PyObject *type) {
  // No PyObject_IsInstance: it believes __class__, which a mock or a proxy
  // answers with a type that it is not.
  const struct {
    PyObject *base;
    int kind;
  } kinds[] = {
      {pyh.LongType, PYH_KIND_INT},       {pyh.FloatType, PYH_KIND_FLOAT},
      {pyh.UnicodeType, PYH_KIND_STRING}, {pyh.BytesType, PYH_KIND_BYTES},
      {pyh.ListType, PYH_KIND_SEQUENCE},  {pyh.TupleType, PYH_KIND_SEQUENCE},
      {pyh.DictType, PYH_KIND_MAPPING},
  };
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (type == kinds[i].base || pyh.PyType_IsSubtype(type, kinds[i].base)) {
      return kinds[i].kind;
    }
  }
  return PYH_KIND_OTHER;
}

int pyh_kind(PyObject *obj) {
  if (obj == pyh.None) {
    return PYH_KIND_NONE;
  }
  // bool before int: True is an int too.
  if (obj == pyh.True || obj == pyh.False) {
    return PYH_KIND_BOOL;
  }
  PyObject *type = pyh.PyObject_Type(obj);
  int kind = kind_of(type);
  pyh.Py_DecRef(type);
  return kind;
}

int pyh_int(PyObject *obj, int64_t *i, uint64_t *u) {
  int overflow = 0;
  *i = pyh.PyLong_AsLongLongAndOverflow(obj, &overflow);
  if (overflow == 0) {
    return 0;
  }
  if (overflow > 0) {
    *u = pyh.PyLong_AsUnsignedLongLong(obj);
    if (pyh.PyErr_Occurred() == NULL) {
      return 1;
    }
    pyh.PyErr_Clear();
  }
  return -1;
}

const char *pyh_utf8(PyObject *obj, Py_ssize_t *n, PyObject **tmp) {
  *tmp = NULL;
  const char *text = pyh.PyUnicode_AsUTF8AndSize(obj, n);
  if (text != NULL) {
    return text;
  }
  pyh.PyErr_Clear();
  *tmp = pyh.PyUnicode_AsEncodedString(obj, "utf-8", "surrogateescape");
  if (*tmp == NULL) {
    pyh.PyErr_Clear();
    *tmp = pyh.PyUnicode_AsEncodedString(obj, "utf-8", "backslashreplace");
  }
  char *bytes = NULL;
  if (*tmp == NULL || pyh.PyBytes_AsStringAndSize(*tmp, &bytes, n) != 0) {
    return NULL;
  }
  return bytes;
}
