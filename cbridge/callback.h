// Go functions as Python callables.
#ifndef PYHOOK_CALLBACK_H
#define PYHOOK_CALLBACK_H

#include "pyapi.h"

// pyh_func makes a Python callable that runs the Go function of this cgo.Handle, which it deletes
// with the callable.
PyObject *pyh_func(const char *name, uintptr_t handle); // new

#endif
