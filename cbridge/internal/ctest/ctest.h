#ifndef PYHOOK_CTEST_H
#define PYHOOK_CTEST_H

#include <stdbool.h>

#include "pyapi.h"

void ctest_kept(pyh_api *api, PyObject *fn);
void ctest_ensured(pyh_api *api, PyObject *fn);
void ctest_plain(pyh_api *api, PyObject *fn);
bool ctest_has_state(pyh_api *api);
PyObject *ctest_new_reference(pyh_api *api, PyObject *obj); // new
void ctest_raise(pyh_api *api);
uintptr_t ctest_foreign_enter(pyh_api *api);
uintptr_t ctest_foreign_keep(pyh_api *api);
void ctest_guest(pyh_api *api, PyObject *fn, int n);
void ctest_defer_from_thread(pyh_api *api, PyObject *obj, int n);

#endif
