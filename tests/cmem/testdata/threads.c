#include <pthread.h>

#include "cmem.h"

static PyObject *shared;

static void *work(void *arg) {
  (void)arg;
  for (int i = 0; i < 50; i++) {
    pyh_enter();
    pyh_enter(); // they nest
    pyh.Py_DecRef(pyh.PyList_New(3));
    pyh_leave();
    pyh.Py_IncRef(shared);
    pyh_leave();
    pyh_defer_decref(shared);
  }
  return NULL;
}

// A thread-local's destructor lets go of a Go function on a thread that is ending.
static void *hold_in_a_local(void *arg) {
  pyh_enter();
  PyObject *set = from(arg, "keep"), *f = new_func(1);
  PyObject *result = pyh.vectorcall(set, &f, 1, NULL);
  CHECK(result != NULL);
  pyh.Py_DecRef(result);
  pyh.Py_DecRef(f);
  pyh.Py_DecRef(set);
  pyh_leave();
  return NULL;
}

void check_threads(void) {
  CHECK(pyh_on_main_thread() && !pyh_thread_is_ending());
  int64_t before = pyh_thread_states();
  pyh_enter();
  PyObject *dict = python("import threading\nlocal = threading.local()\ndef keep(f): local.f = f");
  shared = pyh.PyList_New(0);
  pyh_leave();
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) {
    CHECK(pthread_create(&threads[i], NULL, work, NULL) == 0);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
  }
  CHECK(pthread_create(&threads[0], NULL, hold_in_a_local, dict) == 0);
  pthread_join(threads[0], NULL);
  CHECK(pyh_thread_states() == before); // gone with their threads
  pyh_enter();
  pyh.Py_DecRef(shared);
  pyh.Py_DecRef(dict);
  pyh_leave();
  pyh_enter(); // does what was deferred
  pyh_leave();
  CHECK(pyh_deferred() == 0 && live_funcs() == 0);
}
