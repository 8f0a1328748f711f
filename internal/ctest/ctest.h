#ifndef PYHOOK_CTEST_H
#define PYHOOK_CTEST_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ctest_object PyObject; // opaque, as in Python's stable ABI

// Functions of cbridge (threadstate.h).
typedef struct {
  void (*enter)(void);
  void (*leave)(void);
  void (*keep_state)(void);
  void (*defer_decref)(PyObject *);
} ctest_bridge;

void ctest_init(void); // first; Python runs

void ctest_kept(const ctest_bridge *, PyObject *fn);
bool ctest_ensured(PyObject *fn); // false: it raised
bool ctest_plain(PyObject *fn);
bool ctest_has_state(void);
PyObject *ctest_new_reference(PyObject *obj); // new
void ctest_raise(void);
uintptr_t ctest_foreign_enter(const ctest_bridge *);
uintptr_t ctest_foreign_keep(const ctest_bridge *);
void ctest_guest(const ctest_bridge *, PyObject *fn, int n);
void ctest_defer_from_thread(const ctest_bridge *, PyObject *obj, int n);

#endif
