// Operations on Python objects.
#ifndef PYHOOK_OBJECT_H
#define PYHOOK_OBJECT_H

#include "pyapi.h"

// Each expects an attached thread. "new" results are owned by the
// caller; NULL means that a Python error is set.
PyObject *pyh_string(const char *s, size_t n);            // new
PyObject *pyh_call(PyObject *f, PyObject **args, size_t n, PyObject *kwargs); // new
PyObject *pyh_raised(void);                               // new, clears the error
int pyh_kind(PyObject *obj);
enum {
  PYH_KIND_OTHER,
  PYH_KIND_NONE,
  PYH_KIND_BOOL,
  PYH_KIND_INT,
  PYH_KIND_FLOAT,
  PYH_KIND_STRING,
  PYH_KIND_BYTES,
  PYH_KIND_SEQUENCE,
  PYH_KIND_MAPPING
};
// pyh_int stores the value; 0 int64, 1 uint64, -1 out of range.
int pyh_int(PyObject *obj, int64_t *i, uint64_t *u);
// pyh_utf8 borrows the text of obj, or makes *tmp (new) when it holds lone
// surrogates that UTF-8 cannot.
const char *pyh_utf8(PyObject *obj, Py_ssize_t *n, PyObject **tmp);

#endif
