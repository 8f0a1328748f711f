#include "pending.h"

#include "threadstate.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// Exported by pending.go.
extern void pyhookFutureDone(uintptr_t id, pyh_result *result);

enum stage { CREATED, ARMED, DONE, ABANDONED };

struct pyh_pending {
  const pyh_torch_api *torch;
  PyObject *future;      // dropped by who claims
  uintptr_t id;          // once armed
  pyh_result result;     // once done
  _Atomic int claimed;   // by the callback, which takes the value, or by pyh_pending_abandon
  _Atomic int refs;      // the callback's and the caller's
  pthread_mutex_t lock;  // of what follows; nobody calls Python inside
  pthread_cond_t change;
  enum stage stage;
  int blocked;           // a thread is in pyh_pending_block
  int woken;             // it shall leave
  pyh_invocation *invocation; // NULL, or copy
  _Alignas(max_align_t) char copy[];
};

static _Atomic int64_t live;

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

int64_t pyh_pending_count(void) { return atomic_load(&live); }

static void drop(PyObject *capsule) {
  pyh_pending_release(pyh.PyCapsule_GetPointer(capsule, capsule_name));
}

// finish sets the last stage. 1: the caller must notify Go, since the pending is armed and no
// thread is blocked in it.
static int finish(pyh_pending *p, enum stage last) {
  pthread_mutex_lock(&p->lock);
  int notify = p->stage == ARMED && !p->blocked;
  p->stage = last;
  pthread_mutex_unlock(&p->lock);
  pthread_cond_signal(&p->change); // who wakes finds the lock free
  return notify;
}

// notify notifies Go. On a thread that is ending, which cannot enter Go, it defers that to the next
// thread that attaches.
static void notify(void *pending) {
  pyh_pending *p = pending;
  if (pyh_callback_enter()) {
    pyhookFutureDone(p->id, &p->result);
    pyh_callback_leave();
    pyh_pending_release(p);
  } else {
    pyh.PyErr_Clear();
    pyh_defer_call(notify, p);
  }
}

// done takes the value from the stored future, not from its argument: only that one unwraps an
// exception given to set_exception.
static PyObject *done(PyObject *self, PyObject *argument) {
  pyh_pending *p = pyh.PyCapsule_GetPointer(self, capsule_name);
  if (p == NULL) {
    return NULL;
  }
  pyh_keep_state(); // a thread of torch completes many
  if (!atomic_exchange(&p->claimed, 1)) {
    pyh_take_value(p->torch, p->future, p->invocation, &p->result);
    pyh.Py_DecRef(p->future);
    if (finish(p, DONE)) {
      pyh_pending_retain(p);
      notify(p);
    }
  }
  pyh.Py_IncRef(pyh.None);
  return pyh.None;
}

static PyObject *callback(pyh_pending *p) {
  static PyMethodDef def = {"pyhook_done", done, PYH_METH_O, NULL};
  PyObject *capsule = pyh.PyCapsule_New(p, capsule_name, drop);
  if (capsule == NULL) {
    pyh_pending_release(p); // as drop would
    return NULL;
  }
  PyObject *callable = pyh.PyCFunction_NewEx(&def, capsule, NULL);
  pyh.Py_DecRef(capsule); // the callable holds it
  return callable;
}

static pyh_pending *allocate(const pyh_torch_api *t, PyObject *future, const pyh_invocation *inv) {
  size_t copied = inv != NULL ? inv->kind->size : 0;
  pyh_pending *p = calloc(1, sizeof *p + copied);
  atomic_fetch_add(&live, 1);
  p->torch = t;
  p->future = future;
  pyh.Py_IncRef(future);
  if (inv != NULL) {
    memcpy(p->copy, inv, copied);
    p->invocation = (pyh_invocation *)p->copy;
    p->invocation->calls = 0; // all is looked at: gloo's threads have autograd on
  }
  p->refs = 2;
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->change, NULL);
  return p;
}

pyh_pending *pyh_pending_new(const pyh_torch_api *t, PyObject *future, const pyh_invocation *inv) {
  pyh_pending *p = allocate(t, future, inv);
  PyObject *args[] = {future, callback(p)};
  PyObject *none = args[1] == NULL ? NULL : pyh.vectorcall(t->add_done_callback, args, 2, NULL);
  if (args[1] != NULL) {
    pyh.Py_DecRef(args[1]);
  }
  if (none == NULL) {
    if (pyh_pending_abandon(p)) {
      pyh_pending_release(p);
      return NULL;
    }
    pyh.PyErr_Clear(); // done in spite of it
    return p;
  }
  pyh.Py_DecRef(none);
  return p;
}

int pyh_pending_arm(pyh_pending *p, uintptr_t id, pyh_result *out) {
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

int pyh_pending_block(pyh_pending *p, pyh_result *out) {
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

void pyh_pending_wake(pyh_pending *p) {
  pthread_mutex_lock(&p->lock);
  p->woken = 1;
  pthread_cond_signal(&p->change);
  pthread_mutex_unlock(&p->lock);
}

int pyh_pending_abandon(pyh_pending *p) {
  if (atomic_exchange(&p->claimed, 1)) {
    return 0;
  }
  pyh_defer_decref(p->future);
  finish(p, ABANDONED);
  return 1;
}
