#include "ctest.h"

#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>

// The functions of libpython that are used here.
static int (*ensure)(void);
static void (*release)(int);
static PyObject *(*this_state)(void);
static PyObject *(*call)(PyObject *, PyObject *const *, size_t, PyObject *);
static PyObject *(*new_list)(intptr_t);
static void (*inc_ref)(PyObject *);
static void (*dec_ref)(PyObject *);
static void (*clear_error)(void);
static void (*set_string)(PyObject *, const char *);
static PyObject **type_error;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void look_up(void) {
  const struct { const char *name; void *slot; } all[] = {
      {"PyGILState_Ensure", &ensure}, {"PyGILState_Release", &release},
      {"PyGILState_GetThisThreadState", &this_state}, {"PyObject_VectorcallDict", &call},
      {"PyList_New", &new_list}, {"Py_IncRef", &inc_ref}, {"Py_DecRef", &dec_ref},
      {"PyErr_Clear", &clear_error}, {"PyErr_SetString", &set_string},
      {"PyExc_TypeError", &type_error}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    *(void **)all[i].slot = dlsym(RTLD_DEFAULT, all[i].name); // cbridge puts it in the global scope
  }
}

void ctest_init(void) { pthread_once(&once, look_up); }

bool ctest_plain(PyObject *fn) {
  PyObject *result = call(fn, NULL, 0, NULL);
  if (result == NULL) {
    clear_error();
    return false;
  }
  dec_ref(result);
  return true;
}

void ctest_kept(const ctest_bridge *bridge, PyObject *fn) {
  bridge->enter();
  ctest_plain(fn);
  bridge->leave();
}

bool ctest_ensured(PyObject *fn) {
  int state = ensure();
  bool called = ctest_plain(fn);
  release(state);
  return called;
}

bool ctest_has_state(void) { return this_state() != NULL; }

PyObject *ctest_new_reference(PyObject *obj) {
  inc_ref(obj);
  return obj;
}

void ctest_raise(void) { set_string(*type_error, "raised by C"); }

static ctest_bridge foreign;

static void foreign_enter(void) {
  for (int i = 0; i < 3; i++) {
    foreign.enter();
    dec_ref(new_list(0));
    foreign.leave();
  }
}

uintptr_t ctest_foreign_enter(const ctest_bridge *bridge) {
  foreign = *bridge;
  return (uintptr_t)foreign_enter;
}

static void foreign_keep(void) { foreign.keep_state(); }

uintptr_t ctest_foreign_keep(const ctest_bridge *bridge) {
  foreign = *bridge;
  return (uintptr_t)foreign_keep;
}

typedef struct {
  const ctest_bridge *bridge;
  PyObject *fn;
  int n;
  sem_t called, end;
} guest;

static void *be_guest(void *arg) {
  guest *g = arg;
  for (int i = 0; i < g->n; i++) {
    int state = ensure();
    g->bridge->keep_state();
    ctest_plain(g->fn);
    release(state);
  }
  sem_post(&g->called);
  sem_wait(&g->end);
  return NULL;
}

void ctest_guest(const ctest_bridge *bridge, PyObject *fn, int n) {
  guest g = {.bridge = bridge, .fn = fn, .n = n};
  sem_init(&g.called, 0, 0);
  sem_init(&g.end, 0, 0);
  pthread_t thread;
  if (pthread_create(&thread, NULL, be_guest, &g) == 0) {
    sem_wait(&g.called);
    bridge->enter();
    sem_post(&g.end);
    pthread_join(thread, NULL);
    bridge->leave();
  }
}

typedef struct {
  const ctest_bridge *bridge;
  PyObject *obj;
  int n;
} deferring;

static void *defer_all(void *arg) {
  deferring *d = arg;
  for (int i = 0; i < d->n; i++) {
    d->bridge->defer_decref(d->obj);
  }
  return NULL;
}

void ctest_defer_from_thread(const ctest_bridge *bridge, PyObject *obj, int n) {
  deferring d = {bridge, obj, n};
  pthread_t thread;
  if (pthread_create(&thread, NULL, defer_all, &d) == 0) {
    pthread_join(thread, NULL);
  }
}
