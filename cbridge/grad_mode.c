#include "grad_mode.h"

#include <dlfcn.h>

// As the C++ ABI of Linux names them (Itanium's), from torch 1.13 to 2.15.
static const char is_enabled[] = "_ZN3c108GradMode10is_enabledEv";
static const char set_enabled[] = "_ZN3c108GradMode11set_enabledEb";

static int is_on(const pyh_grad_mode *m) {
  PyObject *is = pyh.vectorcall(m->py_enabled, NULL, 0, NULL);
  if (is == NULL) {
    return -1;
  }
  pyh.Py_DecRef(is); // only its address is looked at
  return is == pyh.True;
}

static void set_mode(const pyh_grad_mode *m, bool on) {
  PyObject *arg = on ? pyh.True : pyh.False;
  PyObject *none = pyh.vectorcall(m->py_set, &arg, 1, NULL);
  if (none == NULL) {
    pyh.PyErr_Clear();
    return;
  }
  pyh.Py_DecRef(none);
}

bool pyh_grad_mode_find(pyh_grad_mode *m, const char *path) {
  m->enabled = NULL;
  m->set = NULL;
  int was = is_on(m);
  if (was < 0) {
    return false;
  }
  void *lib = dlopen(path, RTLD_LAZY | RTLD_NOLOAD); // it is there: a handle to ask
  if (lib == NULL) {
    return true;
  }
  bool (*enabled)(void);
  void (*set)(bool);
  *(void **)&enabled = dlsym(lib, is_enabled);
  *(void **)&set = dlsym(lib, set_enabled);
  if (enabled != NULL && set != NULL) {
    set(!was);
    int is = is_on(m);
    bool fits = is == !was && enabled() == !was;
    set(was);
    is = is_on(m);
    if (is < 0) {
      return false;
    }
    if (fits && is == was) {
      m->enabled = enabled;
      m->set = set;
    }
  }
  return true;
}

bool pyh_grad_off(const pyh_grad_mode *m) {
  bool was;
  if (m->enabled != NULL) {
    was = m->enabled();
    if (was) {
      m->set(false);
    }
    return was;
  }
  if (m->py_enabled == NULL) {
    return false;
  }
  int is = is_on(m);
  if (is < 0) {
    pyh.PyErr_Clear();
  }
  was = is != 0;
  if (was) {
    set_mode(m, false);
  }
  return was;
}

void pyh_grad_back(const pyh_grad_mode *m, bool was) {
  if (m->set != NULL) {
    m->set(was);
  } else if (m->py_set != NULL) {
    set_mode(m, was);
  }
}
