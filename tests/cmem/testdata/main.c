// Exercises every C function of pyhook against a real libpython, with memory of
// exactly the sizes that are needed: for valgrind's memcheck and the sanitizers.
// The Go side's two functions that C calls are here in C.
//
// usage: cmem LIBPYTHON VERSION EXECUTABLE

#include <string.h>

#include "cmem.h"

static int funcs;
int live_funcs(void) { return funcs; }

// In place of callback.go: function 1 returns its arguments, 2 raises.
PyObject *pyhookGoCall(uintptr_t id, PyObject *args) {
  if (id == 2) {
    pyh.PyErr_SetString(pyh.RuntimeError, "from function 2");
    return NULL;
  }
  pyh.Py_IncRef(args);
  return args;
}

void pyhookGoDrop(uintptr_t id) {
  (void)id;
  funcs--;
}

PyObject *new_func(uintptr_t id) {
  funcs++;
  return pyh_func("function", id);
}

PyObject *execute(const char *source, PyObject *globals) {
  PyObject *builtins = pyh.PyImport_ImportModule("builtins");
  PyObject *exec = pyh.PyObject_GetAttrString(builtins, "exec");
  PyObject *args[] = {pyh_string(source, strlen(source)), globals};
  PyObject *result = pyh_call(exec, args, 2, NULL);
  pyh.Py_DecRef(args[0]);
  pyh.Py_DecRef(exec);
  pyh.Py_DecRef(builtins);
  return result;
}

PyObject *python(const char *source) {
  PyObject *dict = pyh.PyDict_New();
  PyObject *result = execute(source, dict);
  if (result == NULL) {
    PyObject *error = pyh_raised();
    PyObject *text = pyh.PyObject_Repr(error), *tmp;
    Py_ssize_t n;
    fprintf(stderr, "python: %s\n", pyh_utf8(text, &n, &tmp));
    exit(1);
  }
  pyh.Py_DecRef(result);
  return dict;
}

PyObject *from(PyObject *dict, const char *name) {
  PyObject *get = pyh.PyObject_GetAttrString(dict, "__getitem__");
  PyObject *key = pyh_string(name, strlen(name));
  PyObject *value = pyh.vectorcall(get, &key, 1, NULL);
  CHECK(value != NULL);
  pyh.Py_DecRef(key);
  pyh.Py_DecRef(get);
  return value;
}

static void check_load(const char *library, const char *version) {
  char *text = pyh_load("/nowhere/libpython.so", version);
  CHECK(text != NULL && strstr(text, "nowhere") != NULL);
  free(text);
  text = pyh_load("libm.so.6", version);
  CHECK(text != NULL && strstr(text, "has no symbol") != NULL);
  free(text);
  text = pyh_load(library, "2.7.1");
  CHECK(text != NULL && strstr(text, "and the interpreter is 2.7.1") != NULL);
  free(text);
  text = pyh_load(library, version);
  if (text != NULL) {
    fprintf(stderr, "%s\n", text);
    exit(1);
  }
}

int main(int argc, char **argv) {
  CHECK(argc == 4);
  check_memory();
  check_copy();
  check_load(argv[1], argv[2]);
  char *text = pyh_initialize(argv[3]);
  if (text != NULL) {
    fprintf(stderr, "%s\n", text);
    return 1;
  }
  text = pyh_initialize(argv[3]);
  CHECK(text != NULL && strstr(text, "already running") != NULL);
  free(text);
  check_objects();
  check_threads();
  check_dlpack();
  check_calls();
  check_pending();
  CHECK(pyh_owners() == 0);
  CHECK(pyh_deferred() == 0);
  CHECK(funcs == 0);
  puts("ok");
  return 0;
}
