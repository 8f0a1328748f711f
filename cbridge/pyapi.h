// The part of CPython's C API that pyhook uses, as a table of function
// pointers filled by dlsym (pyapi.c).
//
// No Python header is included and no Python struct is read: PyObject and
// PyThreadState stay opaque, so that one binary serves CPython 3.9 to 3.15,
// with and without the GIL.
#ifndef PYHOOK_PYAPI_H
#define PYHOOK_PYAPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wchar.h>

typedef struct pyh_object PyObject;
typedef struct pyh_tstate PyThreadState;
typedef intptr_t Py_ssize_t;
typedef struct pyh_initconfig PyInitConfig;

// PyStatus is returned by value; its layout is the same in 3.8 to 3.15.
typedef struct {
  int kind;
  const char *func;
  const char *message;
  int exitcode;
} PyStatus;

// PyMethodDef is part of the stable ABI.
typedef PyObject *(*PyCFunction)(PyObject *self, PyObject *args);
typedef struct {
  const char *name;
  PyCFunction meth;
  int flags;
  const char *doc;
} PyMethodDef;
enum { PYH_METH_VARARGS = 0x0001, PYH_METH_NOARGS = 0x0004, PYH_METH_O = 0x0008 };

// What a type is made of by PyType_FromSpecWithBases: also stable ABI.
typedef struct {
  const char *name;
  PyObject *(*get)(PyObject *, void *);
  int (*set)(PyObject *, PyObject *, void *);
  const char *doc;
  void *closure;
} PyGetSetDef;
typedef struct {
  const char *name;
  int type;
  Py_ssize_t offset;
  int flags;
  const char *doc;
} PyMemberDef;
enum { PYH_T_OBJECT_EX = 16, PYH_T_PYSSIZET = 19, PYH_READONLY = 1 };
typedef struct {
  int slot;
  void *pfunc;
} PyType_Slot;
typedef struct {
  const char *name;
  int basicsize;
  int itemsize;
  unsigned int flags;
  PyType_Slot *slots;
} PyType_Spec;
enum { PYH_TPFLAGS_HAVE_GC = 1 << 14, PYH_TPFLAGS_DEFAULT = 1 << 18 };
// Of typeslots.h.
enum {
  PYH_TP_CLEAR = 51,
  PYH_TP_DEALLOC = 52,
  PYH_TP_METHODS = 64,
  PYH_TP_TRAVERSE = 71,
  PYH_TP_MEMBERS = 72,
  PYH_TP_GETSET = 73
};

// Exported by every supported version: a missing one is an error.
#define PYH_REQUIRED(X)                                                        \
  X(const char *, Py_GetVersion, (void))                                       \
  X(int, Py_IsInitialized, (void))                                             \
  X(void, Py_InitializeEx, (int))                                              \
  X(wchar_t *, Py_DecodeLocale, (const char *, size_t *))                      \
  X(PyThreadState *, PyEval_SaveThread, (void))                                \
  X(void, PyEval_RestoreThread, (PyThreadState *))                             \
  X(int, PyGILState_Ensure, (void))                                            \
  X(void, PyGILState_Release, (int))                                           \
  X(PyThreadState *, PyGILState_GetThisThreadState, (void))                    \
  X(void, PyThreadState_Clear, (PyThreadState *))                              \
  X(void, PyThreadState_Delete, (PyThreadState *))                             \
  X(void, PyThreadState_DeleteCurrent, (void))                                 \
  X(void, Py_IncRef, (PyObject *))                                             \
  X(void, Py_DecRef, (PyObject *))                                             \
  X(PyObject *, PyObject_GetAttr, (PyObject *, PyObject *))                    \
  X(PyObject *, PyObject_GetAttrString, (PyObject *, const char *))            \
  X(int, PyObject_SetAttrString, (PyObject *, const char *, PyObject *))       \
  X(PyObject *, PyObject_Call, (PyObject *, PyObject *, PyObject *))           \
  X(PyObject *, PyObject_VectorcallDict,                                       \
    (PyObject *, PyObject *const *, size_t, PyObject *))                       \
  X(PyObject *, PyObject_Str, (PyObject *))                                    \
  X(PyObject *, PyObject_Repr, (PyObject *))                                   \
  X(PyObject *, PyObject_Type, (PyObject *))                                   \
  X(int, PyObject_IsInstance, (PyObject *, PyObject *))                        \
  X(int, PyType_IsSubtype, (PyObject *, PyObject *))                           \
  X(int, PyObject_IsTrue, (PyObject *))                                        \
  X(PyObject *, PyObject_GetIter, (PyObject *))                                \
  X(PyObject *, PyIter_Next, (PyObject *))                                     \
  X(PyObject *, PyMapping_Items, (PyObject *))                                 \
  X(PyObject *, PyImport_ImportModule, (const char *))                         \
  X(PyObject *, PyUnicode_FromStringAndSize, (const char *, Py_ssize_t))       \
  X(PyObject *, PyUnicode_InternFromString, (const char *))                    \
  X(PyObject *, PyUnicode_DecodeUTF8,                                          \
    (const char *, Py_ssize_t, const char *))                                  \
  X(const char *, PyUnicode_AsUTF8AndSize, (PyObject *, Py_ssize_t *))         \
  X(PyObject *, PyUnicode_AsEncodedString,                                     \
    (PyObject *, const char *, const char *))                                  \
  X(PyObject *, PyBytes_FromStringAndSize, (const char *, Py_ssize_t))         \
  X(int, PyBytes_AsStringAndSize, (PyObject *, char **, Py_ssize_t *))         \
  X(PyObject *, PyLong_FromLongLong, (long long))                              \
  X(PyObject *, PyLong_FromUnsignedLongLong, (unsigned long long))             \
  X(long long, PyLong_AsLongLongAndOverflow, (PyObject *, int *))              \
  X(unsigned long long, PyLong_AsUnsignedLongLong, (PyObject *))               \
  X(PyObject *, PyFloat_FromDouble, (double))                                  \
  X(double, PyFloat_AsDouble, (PyObject *))                                    \
  X(PyObject *, PyBool_FromLong, (long))                                       \
  X(PyObject *, PyList_New, (Py_ssize_t))                                      \
  X(int, PyList_SetItem, (PyObject *, Py_ssize_t, PyObject *))                 \
  X(PyObject *, PyTuple_New, (Py_ssize_t))                                     \
  X(int, PyTuple_SetItem, (PyObject *, Py_ssize_t, PyObject *))                \
  X(Py_ssize_t, PyTuple_Size, (PyObject *))                                    \
  X(PyObject *, PyTuple_GetItem, (PyObject *, Py_ssize_t))                     \
  X(PyObject *, PyDict_New, (void))                                            \
  X(int, PyDict_SetItem, (PyObject *, PyObject *, PyObject *))                 \
  X(PyObject *, PyErr_Occurred, (void))                                        \
  X(void, PyErr_Clear, (void))                                                 \
  X(void, PyErr_Fetch, (PyObject **, PyObject **, PyObject **))                \
  X(void, PyErr_NormalizeException, (PyObject **, PyObject **, PyObject **))   \
  X(void, PyErr_SetString, (PyObject *, const char *))                         \
  X(int, PyThreadState_SetAsyncExc, (unsigned long, PyObject *))               \
  X(int, PyException_SetTraceback, (PyObject *, PyObject *))                   \
  X(PyObject *, PyCapsule_New,                                                 \
    (void *, const char *, void (*)(PyObject *)))                              \
  X(void *, PyCapsule_GetPointer, (PyObject *, const char *))                  \
  X(int, PyCapsule_IsValid, (PyObject *, const char *))                        \
  X(int, PyCapsule_SetName, (PyObject *, const char *))                        \
  X(PyObject *, PyCFunction_NewEx, (PyMethodDef *, PyObject *, PyObject *))    \
  X(PyObject *, PyType_FromSpecWithBases, (PyType_Spec *, PyObject *))         \
  X(PyObject *, PyType_GenericAlloc, (PyObject *, Py_ssize_t))                 \
  X(void, PyObject_GC_UnTrack, (void *))                                       \
  X(void, PyObject_GC_Del, (void *))                                           \
  X(void, PyObject_ClearWeakRefs, (PyObject *))                                \

// Present in some versions only; the caller has a way without each.
#define PYH_OPTIONAL(X)                                                        \
  X(PyObject *, PyObject_Vectorcall,                                           \
    (PyObject *, PyObject *const *, size_t, PyObject *))  /* 3.11 */           \
  X(PyObject *, PyErr_GetRaisedException, (void))         /* 3.12 */           \
  X(void, Py_SetProgramName, (const wchar_t *))           /* to 3.16 */        \
  X(void, PyPreConfig_InitPythonConfig, (void *))                              \
  X(PyStatus, Py_PreInitialize, (const void *))                                \
  X(PyInitConfig *, PyInitConfig_Create, (void))          /* 3.14, PEP 741 */  \
  X(void, PyInitConfig_Free, (PyInitConfig *))                                 \
  X(int, PyInitConfig_SetInt, (PyInitConfig *, const char *, int64_t))         \
  X(int, PyInitConfig_SetStr, (PyInitConfig *, const char *, const char *))    \
  X(int, PyInitConfig_GetError, (PyInitConfig *, const char **))               \
  X(int, Py_InitializeFromInitConfig, (PyInitConfig *))

// Data symbols: addresses of static objects and types.
#define PYH_OBJECTS(X)                                                         \
  X(None, "_Py_NoneStruct")                                                    \
  X(True, "_Py_TrueStruct")                                                    \
  X(False, "_Py_FalseStruct")                                                  \
  X(BoolType, "PyBool_Type")                                                   \
  X(LongType, "PyLong_Type")                                                   \
  X(FloatType, "PyFloat_Type")                                                 \
  X(UnicodeType, "PyUnicode_Type")                                             \
  X(BytesType, "PyBytes_Type")                                                 \
  X(ListType, "PyList_Type")                                                   \
  X(TupleType, "PyTuple_Type")                                                 \
  X(DictType, "PyDict_Type")

typedef struct {
#define X(ret, name, args) ret(*name) args;
  PYH_REQUIRED(X)
  PYH_OPTIONAL(X)
#undef X
#define X(name, symbol) PyObject *name;
  PYH_OBJECTS(X)
#undef X
  // Borrowed for the process's life.
  PyObject *RuntimeError;
  PyObject *TypeError;
  bool free_threaded; // this Python has no GIL
  // PyObject_Vectorcall, or PyObject_VectorcallDict before 3.11; the last
  // argument must be NULL.
  PyObject *(*vectorcall)(PyObject *, PyObject *const *, size_t, PyObject *);
} pyh_api;

extern pyh_api pyh;

// pyh_load opens the library, which must be of this version ("3.11.2"), and
// fills the table. Returns NULL, or a message that the caller frees.
char *pyh_load(const char *path, const char *version);

#endif
