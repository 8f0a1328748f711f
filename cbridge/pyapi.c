#include "pyapi.h"

#include "threadstate.h"

#include <ctype.h>
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

// fill reads the table out of lib. Returns NULL or a message.
static char *fill(void *lib, const char *path) {
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
  pyh.free_threaded = strstr(pyh.Py_GetVersion(), "free-threading") != NULL;
  pyh.vectorcall = pyh.PyObject_Vectorcall ? pyh.PyObject_Vectorcall
                                           : pyh.PyObject_VectorcallDict;
  return NULL;
}

// check_version: a libpython of another version beside the interpreter's
// standard library would start and then fail in odd places.
static char *check_version(const char *want) {
  const char *have = pyh.Py_GetVersion();
  size_t n = strlen(want);
  if (strncmp(have, want, n) == 0 && !isdigit((unsigned char)have[n])) {
    return NULL;
  }
  return message("is Python %s, and the interpreter is %s", have, want);
}

char *pyh_load(const char *path, const char *version) {
  pyh_make_exit_key();
  // RTLD_NOW: a broken library fails here, where it can be told, not in a hook.
  // RTLD_LOCAL until it is known to be the right one: a refused library in the
  // global scope would stay before the right one for every extension module.
  void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (lib == NULL) {
    return message("%s%s", dlerror(), "");
  }
  char *text = fill(lib, path);
  if (text == NULL) {
    text = check_version(version);
  }
  if (text != NULL) {
    dlclose(lib);
    return text;
  }
  // RTLD_GLOBAL: extension modules (torch, numpy, even _ctypes) are not linked
  // to libpython and look its symbols up in the global scope.
  if (dlopen(path, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD) == NULL) {
    return message("%s%s", dlerror(), "");
  }
  return NULL;
}
