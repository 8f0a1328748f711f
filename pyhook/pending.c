// Futures that are pending when a hook returns. A callback on the future takes
// its value, in C, on whatever thread of torch completes it, and tells Go then.

#include "hookcall.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum stage { UNTOLD, ARMED, DONE, ABANDONED };

struct pyh_pending {
  const pyh_tools *tools;
  PyObject *future;  // dropped by who claims
  pyh_bucket bucket; // as of the call
  int of_hook;       // the bucket counts
  uintptr_t id;      // once armed
  pyh_result result; // once done
  _Atomic int claimed; // by the callback, which takes the value, or by pyh_abandon
  _Atomic int refs;    // the callback's and the caller's
  pthread_mutex_t lock; // of what follows; nobody calls Python inside
  pthread_cond_t change;
  enum stage stage;
  int blocked; // a thread is in pyh_block
  int woken;   // it shall leave
};

static _Atomic int64_t live;

// A capsule's destructor is handed the capsule and nothing else.
static const pyh_api *py;
static const char capsule_name[] = "pyhook.pending";

void pyh_pending_release(pyh_pending *p) {
  if (atomic_fetch_sub(&p->refs, 1) == 1) {
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->change);
    free(p);
    atomic_fetch_sub(&live, 1);
  }
}

void pyh_pending_retain(pyh_pending *p) { atomic_fetch_add(&p->refs, 1); }

int64_t pyh_pendings(void) { return atomic_load(&live); }

static void drop(PyObject *capsule) {
  pyh_pending_release(py->PyCapsule_GetPointer(capsule, capsule_name));
}

// become sets the last stage. 1: Go is to be told, since it was armed and nobody
// is blocked who sees it.
static int become(pyh_pending *p, enum stage last) {
  pthread_mutex_lock(&p->lock);
  int tell = p->stage == ARMED && !p->blocked;
  p->stage = last;
  pthread_mutex_unlock(&p->lock);
  pthread_cond_signal(&p->change); // who wakes finds the lock free
  return tell;
}

// tell tells Go, now or, from a thread that is ending and cannot enter Go, in the
// next call that another makes.
static void tell(void *pending) {
  pyh_pending *p = pending;
  if (py->callback_enter()) {
    p->tools->tell(p->id, &p->result);
    py->callback_leave();
    pyh_pending_release(p);
  } else {
    py->PyErr_Clear();
    py->defer_call(tell, p);
  }
}

// done takes the value from the future itself and not from its argument: an
// exception given to set_exception is unwrapped only through that one.
static PyObject *done(PyObject *self, PyObject *argument) {
  pyh_pending *p = py->PyCapsule_GetPointer(self, capsule_name);
  if (p == NULL) {
    return NULL;
  }
  py->keep_state(); // a thread of torch completes many
  if (!atomic_exchange(&p->claimed, 1)) {
    pyh_take_value(p->tools, p->future, p->of_hook ? &p->bucket : NULL, &p->result);
    py->Py_DecRef(p->future);
    if (become(p, DONE)) {
      pyh_pending_retain(p);
      tell(p);
    }
  }
  py->Py_IncRef(py->None);
  return py->None;
}

static PyObject *callback(pyh_pending *p) {
  static PyMethodDef def = {"pyhook_done", done, PYH_METH_O, NULL};
  PyObject *capsule = py->PyCapsule_New(p, capsule_name, drop);
  if (capsule == NULL) {
    pyh_pending_release(p); // as drop would
    return NULL;
  }
  PyObject *callable = py->PyCFunction_NewEx(&def, capsule, NULL);
  py->Py_DecRef(capsule); // the callable holds it
  return callable;
}

pyh_pending *pyh_listen(const pyh_tools *t, PyObject *future, const pyh_bucket *b) {
  pyh_pending *p = calloc(1, sizeof *p);
  py = t->py;
  atomic_fetch_add(&live, 1);
  p->tools = t;
  p->future = future;
  py->Py_IncRef(future);
  if (b != NULL) {
    p->bucket = *b;
    p->bucket.calls = 0; // all is looked at: gloo's threads have autograd on
    p->of_hook = 1;
  }
  p->refs = 2;
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->change, NULL);
  PyObject *args[] = {future, callback(p)};
  PyObject *none = args[1] == NULL ? NULL : py->vectorcall(t->add_done_callback, args, 2, NULL);
  if (args[1] != NULL) {
    py->Py_DecRef(args[1]);
  }
  if (none == NULL) {
    if (pyh_abandon(p)) {
      pyh_pending_release(p);
      return NULL;
    }
    py->PyErr_Clear(); // done in spite of it
    return p;
  }
  py->Py_DecRef(none);
  return p;
}

int pyh_arm(pyh_pending *p, uintptr_t id, pyh_result *out) {
  pthread_mutex_lock(&p->lock);
  int is_done = p->stage == DONE;
  if (is_done) {
    *out = p->result;
  } else {
    p->id = id;
    p->stage = ARMED;
  }
  pthread_mutex_unlock(&p->lock);
  return is_done;
}

int pyh_block(pyh_pending *p, pyh_result *out) {
  pthread_mutex_lock(&p->lock);
  p->blocked = 1;
  while (p->stage == ARMED && !p->woken) {
    pthread_cond_wait(&p->change, &p->lock);
  }
  p->blocked = p->woken = 0;
  int is_done = p->stage == DONE;
  if (is_done) {
    *out = p->result;
  }
  pthread_mutex_unlock(&p->lock);
  return is_done;
}

void pyh_wake(pyh_pending *p) {
  pthread_mutex_lock(&p->lock);
  p->woken = 1;
  pthread_cond_signal(&p->change);
  pthread_mutex_unlock(&p->lock);
}

int pyh_abandon(pyh_pending *p) {
  if (atomic_exchange(&p->claimed, 1)) {
    return 0;
  }
  py->defer_decref(p->future);
  become(p, ABANDONED);
  return 1;
}
