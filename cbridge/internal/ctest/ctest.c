#include "ctest.h"

#include <pthread.h>
#include <semaphore.h>

void ctest_plain(pyh_api *api, PyObject *fn) {
  PyObject *result = api->vectorcall(fn, NULL, 0, NULL);
  if (result == NULL) {
    api->PyErr_Clear();
    return;
  }
  api->Py_DecRef(result);
}

void ctest_kept(pyh_api *api, PyObject *fn) {
  api->enter();
  ctest_plain(api, fn);
  api->leave();
}

void ctest_ensured(pyh_api *api, PyObject *fn) {
  int state = api->PyGILState_Ensure();
  ctest_plain(api, fn);
  api->PyGILState_Release(state);
}

bool ctest_has_state(pyh_api *api) {
  return api->PyGILState_GetThisThreadState() != NULL;
}

PyObject *ctest_new_reference(pyh_api *api, PyObject *obj) {
  api->Py_IncRef(obj);
  return obj;
}

void ctest_raise(pyh_api *api) {
  api->PyErr_SetString(api->TypeError, "raised by C");
}

static pyh_api *foreign_api;

static void foreign_enter(void) {
  for (int i = 0; i < 3; i++) {
    foreign_api->enter();
    foreign_api->Py_DecRef(foreign_api->PyList_New(0));
    foreign_api->leave();
  }
}

uintptr_t ctest_foreign_enter(pyh_api *api) {
  foreign_api = api;
  return (uintptr_t)foreign_enter;
}

static void foreign_keep(void) { foreign_api->keep_state(); }

uintptr_t ctest_foreign_keep(pyh_api *api) {
  foreign_api = api;
  return (uintptr_t)foreign_keep;
}

typedef struct {
  pyh_api *api;
  PyObject *fn;
  int n;
  sem_t called, end;
} guest;

static void *be_guest(void *arg) {
  guest *g = arg;
  for (int i = 0; i < g->n; i++) {
    int state = g->api->PyGILState_Ensure();
    g->api->keep_state();
    ctest_plain(g->api, g->fn);
    g->api->PyGILState_Release(state);
  }
  sem_post(&g->called);
  sem_wait(&g->end);
  return NULL;
}

void ctest_guest(pyh_api *api, PyObject *fn, int n) {
  guest g = {.api = api, .fn = fn, .n = n};
  sem_init(&g.called, 0, 0);
  sem_init(&g.end, 0, 0);
  pthread_t thread;
  if (pthread_create(&thread, NULL, be_guest, &g) == 0) {
    sem_wait(&g.called);
    api->enter();
    sem_post(&g.end);
    pthread_join(thread, NULL);
    api->leave();
  }
}

typedef struct {
  pyh_api *api;
  PyObject *obj;
  int n;
} deferring;

static void *defer_all(void *arg) {
  deferring *d = arg;
  for (int i = 0; i < d->n; i++) {
    d->api->defer_decref(d->obj);
  }
  return NULL;
}

void ctest_defer_from_thread(pyh_api *api, PyObject *obj, int n) {
  deferring d = {api, obj, n};
  pthread_t thread;
  if (pthread_create(&thread, NULL, defer_all, &d) == 0) {
    pthread_join(thread, NULL);
  }
}
