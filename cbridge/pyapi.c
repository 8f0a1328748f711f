#include "bridge.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pyh_api pyh;

static char *message(const char *format, const char *a, const char *b) {
  size_t n = strlen(format) + strlen(a) + strlen(b) + 1;
  char *text = malloc(n);
  snprintf(text, n, format, a, b);
  return text;
}

char *pyh_load(const char *path) {
  // RTLD_GLOBAL: extension modules (torch, numpy, even _ctypes) are not linked
  // to libpython and look its symbols up in the global scope. RTLD_NOW: a
  // broken library fails here, where it can be told, not in a hook.
  void *lib = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (lib == NULL) {
    return message("%s%s", dlerror(), "");
  }
#define X(ret, name, args)                                                     \
  *(void **)&pyh.name = dlsym(lib, #name);                                     \
  if (pyh.name == NULL) {                                                      \
    return message("%s has no symbol %s", path, #name);                        \
  }
  PYH_REQUIRED(X)
#undef X
#define X(ret, name, args) *(void **)&pyh.name = dlsym(lib, #name);
  PYH_OPTIONAL(X)
#undef X
#define X(name, symbol)                                                        \
  pyh.name = dlsym(lib, symbol);                                               \
  if (pyh.name == NULL) {                                                      \
    return message("%s has no symbol %s", path, symbol);                       \
  }
  PYH_OBJECTS(X)
#undef X
  // The exceptions are pointers to objects, which exist once Python has
  // started: their addresses are kept until pyh_initialize reads them.
  pyh.RuntimeError = dlsym(lib, "PyExc_RuntimeError");
  pyh.TypeError = dlsym(lib, "PyExc_TypeError");
  if (pyh.RuntimeError == NULL || pyh.TypeError == NULL) {
    return message("%s has no symbol %s", path, "PyExc_RuntimeError");
  }
  pyh.vectorcall = pyh.PyObject_Vectorcall ? pyh.PyObject_Vectorcall
                                           : pyh.PyObject_VectorcallDict;
  pyh.enter = pyh_enter;
  pyh.leave = pyh_leave;
  pyh.defer_decref = pyh_defer_decref;
  pyh.defer_call = pyh_defer_call;
  return NULL;
}
