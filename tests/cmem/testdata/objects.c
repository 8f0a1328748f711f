#include <limits.h>
#include <string.h>

#include "cmem.h"

static void check_strings(void) {
  const char *texts[] = {"", "plain", "gr\xc3\xbc\xc3\x9f", "\xff\xfe not UTF-8"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    size_t n = strlen(texts[i]);
    char *exact = malloc(n + 1); // no NUL that a read beyond the end would find
    memcpy(exact, texts[i], n);
    PyObject *s = pyh_string(exact, n), *tmp;
    Py_ssize_t got;
    const char *back = pyh_utf8(s, &got, &tmp);
    CHECK(back != NULL && (size_t)got == n && memcmp(back, exact, n) == 0);
    if (tmp != NULL) {
      pyh.Py_DecRef(tmp);
    }
    pyh.Py_DecRef(s);
    free(exact);
  }
  PyObject *dict = python("lone = '\\ud800'\nnumber = 5");
  PyObject *lone = from(dict, "lone"), *number = from(dict, "number"), *tmp;
  Py_ssize_t n;
  CHECK(pyh_utf8(lone, &n, &tmp) != NULL && tmp != NULL);
  pyh.Py_DecRef(tmp);
  CHECK(pyh_utf8(number, &n, &tmp) == NULL);
  pyh.PyErr_Clear();
  pyh.Py_DecRef(lone);
  pyh.Py_DecRef(number);
  pyh.Py_DecRef(dict);
}

static void check_kinds(void) {
  PyObject *dict = python("class L(list): pass\n"
                          "values = [None, True, 1, 1.5, 'a', b'a', [], (), {}, L(), object(), 2**63, 2**64, -2**63 - 1]");
  const int kinds[] = {PYH_KIND_NONE,     PYH_KIND_BOOL,     PYH_KIND_INT,     PYH_KIND_FLOAT,    PYH_KIND_STRING,
                       PYH_KIND_BYTES,    PYH_KIND_SEQUENCE, PYH_KIND_SEQUENCE, PYH_KIND_MAPPING, PYH_KIND_SEQUENCE,
                       PYH_KIND_OTHER,    PYH_KIND_INT,      PYH_KIND_INT,     PYH_KIND_INT};
  const int ranges[] = {1, -1, -1}; // of the last three
  PyObject *values = from(dict, "values"), *iter = pyh.PyObject_GetIter(values), *value;
  for (int i = 0; (value = pyh.PyIter_Next(iter)) != NULL; i++) {
    CHECK(pyh_kind(value) == kinds[i]);
    int64_t number;
    uint64_t large;
    if (i >= 11) {
      CHECK(pyh_int(value, &number, &large) == ranges[i - 11]);
    } else if (i == 2) {
      CHECK(pyh_int(value, &number, &large) == 0 && number == 1);
    }
    pyh.Py_DecRef(value);
  }
  pyh.Py_DecRef(iter);
  pyh.Py_DecRef(values);
  pyh.Py_DecRef(dict);
}

static void check_errors(void) {
  const char *bad[] = {"1 / 0", "not python", "raise KeyError('k')"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    PyObject *globals = pyh.PyDict_New();
    CHECK(execute(bad[i], globals) == NULL);
    PyObject *error = pyh_raised();
    CHECK(error != NULL);
    pyh.Py_DecRef(error);
    pyh.Py_DecRef(globals);
  }
  CHECK(pyh_raised() == NULL);
}

static void check_functions(void) {
  PyObject *echo = new_func(1), *raises = new_func(2);
  PyObject *text = pyh_string("x", 1), *kwargs = pyh.PyDict_New();
  PyObject *result = pyh_call(echo, &text, 1, kwargs);
  CHECK(result != NULL && pyh.PyTuple_Size(result) == 1);
  pyh.Py_DecRef(result);
  CHECK(pyh_call(raises, &text, 1, NULL) == NULL);
  PyObject *error = pyh_raised();
  CHECK(error != NULL);
  pyh.Py_DecRef(error);
  pyh.Py_DecRef(kwargs);
  pyh.Py_DecRef(text);
  CHECK(live_funcs() == 2);
  pyh.Py_DecRef(echo);
  pyh.Py_DecRef(raises);
  CHECK(live_funcs() == 0);
}

void check_objects(void) {
  pyh_enter();
  check_strings();
  check_kinds();
  check_errors();
  check_functions();
  pyh_leave();
}
