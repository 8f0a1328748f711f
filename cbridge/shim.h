// Go cannot call through a C function pointer: one function for each entry of
// the table that the Go half uses.
#ifndef PYHOOK_SHIM_H
#define PYHOOK_SHIM_H

#include "callback.h"
#include "init.h"
#include "interrupt.h"
#include "object.h"
#include "signals.h"
#include "threadstate.h"

static inline const char *pyhVersion(void) { return pyh.Py_GetVersion(); }
static inline void pyhIncRef(PyObject *o) { pyh.Py_IncRef(o); }
static inline void pyhDecRef(PyObject *o) { pyh.Py_DecRef(o); }
static inline bool pyhIsNone(PyObject *o) { return o == pyh.None; }
static inline PyObject *pyhNone(void) { pyh.Py_IncRef(pyh.None); return pyh.None; }
static inline PyObject *pyhImport(const char *s) { return pyh.PyImport_ImportModule(s); }
static inline PyObject *pyhGetAttr(PyObject *o, const char *s) { return pyh.PyObject_GetAttrString(o, s); }
static inline int pyhSetAttr(PyObject *o, const char *s, PyObject *v) { return pyh.PyObject_SetAttrString(o, s, v); }
static inline PyObject *pyhText(PyObject *o, bool repr) { return repr ? pyh.PyObject_Repr(o) : pyh.PyObject_Str(o); }
static inline int pyhIsTrue(PyObject *o) { return pyh.PyObject_IsTrue(o); }
static inline PyObject *pyhBool(int v) { return pyh.PyBool_FromLong(v); }
static inline PyObject *pyhInt(int64_t v) { return pyh.PyLong_FromLongLong(v); }
static inline PyObject *pyhUint(uint64_t v) { return pyh.PyLong_FromUnsignedLongLong(v); }
static inline PyObject *pyhFloat(double v) { return pyh.PyFloat_FromDouble(v); }
static inline double pyhAsFloat(PyObject *o) { return pyh.PyFloat_AsDouble(o); }
static inline PyObject *pyhBytes(const char *p, Py_ssize_t n) { return pyh.PyBytes_FromStringAndSize(p, n); }
static inline int pyhAsBytes(PyObject *o, char **p, Py_ssize_t *n) { return pyh.PyBytes_AsStringAndSize(o, p, n); }
static inline PyObject *pyhList(Py_ssize_t n) { return pyh.PyList_New(n); }
static inline int pyhListSet(PyObject *l, Py_ssize_t i, PyObject *v) { return pyh.PyList_SetItem(l, i, v); }
static inline PyObject *pyhTuple(Py_ssize_t n) { return pyh.PyTuple_New(n); }
static inline int pyhTupleSet(PyObject *t, Py_ssize_t i, PyObject *v) { return pyh.PyTuple_SetItem(t, i, v); }
static inline PyObject *pyhDict(void) { return pyh.PyDict_New(); }
static inline int pyhDictSet(PyObject *d, PyObject *k, PyObject *v) { return pyh.PyDict_SetItem(d, k, v); }
static inline PyObject *pyhIter(PyObject *o) { return pyh.PyObject_GetIter(o); }
static inline PyObject *pyhNext(PyObject *o) { return pyh.PyIter_Next(o); }
static inline PyObject *pyhItems(PyObject *o) { return pyh.PyMapping_Items(o); }
static inline Py_ssize_t pyhTupleSize(PyObject *o) { return pyh.PyTuple_Size(o); }
static inline PyObject *pyhTupleGet(PyObject *o, Py_ssize_t i) { return pyh.PyTuple_GetItem(o, i); }
static inline bool pyhOccurred(void) { return pyh.PyErr_Occurred() != NULL; }
static inline void pyhErrClear(void) { pyh.PyErr_Clear(); }
static inline void pyhRaise(const char *s) { pyh.PyErr_SetString(pyh.RuntimeError, s); }
static inline void pyhDropTraceback(PyObject *e) { pyh.PyException_SetTraceback(e, pyh.None); }

#endif
