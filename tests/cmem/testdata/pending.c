#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "cmem.h"

// A future as torch's: it calls back once it has a value, and a callback that is
// added later at once.
static const char source[] =
    "class Future:\n"
    " def __init__(self): self.callbacks, self.got = [], False\n"
    " def done(self): return self.got\n"
    " def value(self):\n"
    "  if isinstance(self.v, Exception): raise self.v\n"
    "  return self.v\n"
    " def add_done_callback(self, f):\n"
    "  if self.fails: raise OSError('no callback')\n"
    "  self.callbacks.append(f)\n"
    " fails = False\n"
    " def finish(self, v):\n"
    "  self.v, self.got = v, True\n"
    "  while self.callbacks: self.callbacks.pop()(self)\n"
    "class Bell:\n"
    " def __init__(self, f): self.f = f\n"
    " def __del__(self): self.f.finish(one)\n"
    "import threading\n"
    "local = threading.local()\n"
    "def finish_at_the_end(f): local.bell = Bell(f)\n"
    "def fail(f): f.fails = True\n"
    "one, error = ['value'], ValueError('v')\n";

static pyh_torch_api *torch;
static PyObject *dict;

static uintptr_t notified;
static pyh_result notice;

// In place of pending.go.
void pyhookFutureDone(uintptr_t id, pyh_result *result) {
  CHECK(notified == 0);
  notified = id;
  notice = *result;
}

static void drop(PyObject *o) {
  if (o != NULL) {
    pyh.Py_DecRef(o);
  }
}

static PyObject *called(const char *function, PyObject **args, size_t n) {
  PyObject *f = from(dict, function), *result = pyh.vectorcall(f, args, n, NULL);
  CHECK(result != NULL);
  pyh.Py_DecRef(f);
  return result;
}

static void finish(PyObject *future, const char *with) {
  PyObject *value = from(dict, with), *method = pyh.PyObject_GetAttrString(future, "finish");
  drop(pyh.vectorcall(method, &value, 1, NULL));
  pyh.Py_DecRef(method);
  pyh.Py_DecRef(value);
}

static pyh_pending *ask(PyObject *future) {
  pyh_result out;
  pyh_ask_future(torch, future, &out);
  CHECK(out.outcome == PYH_PENDING && out.pending != NULL);
  return out.pending;
}

static void gives(pyh_result *result, int outcome) {
  CHECK(result->outcome == outcome);
  CHECK((result->object != NULL) == (outcome == PYH_VALUE));
  CHECK((result->error != NULL) == (outcome == PYH_FAILED));
  drop(result->object);
  drop(result->error);
}

typedef struct {
  pyh_pending *pending;
  pyh_result result;
  int done;
} blocked;

static void *block(void *arg) {
  blocked *b = arg;
  b->done = pyh_pending_block(b->pending, &b->result);
  return NULL;
}

// A thread-local's destructor finishes the future on a thread that is ending.
static void *finish_at_the_end(void *future) {
  pyh_enter();
  PyObject *args[] = {future};
  drop(called("finish_at_the_end", args, 1));
  pyh_leave();
  return NULL;
}

// ended starts a thread that blocks, does one of three things to it, and returns
// what pyh_pending_block returned.
static int ended(PyObject *future, const char *by, int soon) {
  blocked b = {.pending = ask(future)};
  pthread_t thread;
  CHECK(pyh_pending_arm(b.pending, 7, &b.result) == 0);
  CHECK(pthread_create(&thread, NULL, block, &b) == 0);
  if (!soon) {
    usleep(20000); // most likely it waits by now
  }
  if (*by == 'f') {
    finish(future, "one");
  } else if (*by == 'a') {
    CHECK(pyh_pending_abandon(b.pending) == 1);
  } else {
    pyh_pending_wake(b.pending);
  }
  pthread_join(thread, NULL);
  if (b.done) {
    // Go takes the result once, from the thread or from the notice.
    gives(&b.result, PYH_VALUE);
    notified = 0;
  }
  if (*by == 'w') {
    CHECK(pyh_pending_abandon(b.pending) == 1);
  }
  pyh_pending_release(b.pending);
  return b.done;
}

void check_pending(void) {
  pyh_enter();
  dict = python(source);
  torch = calloc(1, sizeof *torch);
  PyObject *class = torch->future_class = torch->python_future = from(dict, "Future");
  torch->done = pyh.PyObject_GetAttrString(class, "done");
  torch->value = pyh.PyObject_GetAttrString(class, "value");
  torch->add_done_callback = pyh.PyObject_GetAttrString(class, "add_done_callback");
  pyh_result out;
  PyObject *future;

  const struct { const char *with; int outcome; } ends[] = {{"one", PYH_VALUE}, {"error", PYH_FAILED}};
  for (int i = 0; i < 2; i++) {
    future = called("Future", NULL, 0); // armed, then done
    pyh_pending *p = ask(future);
    CHECK(pyh_pending_arm(p, 5, &out) == 0);
    finish(future, ends[i].with);
    CHECK(notified == 5 && pyh_pending_abandon(p) == 0);
    gives(&notice, ends[i].outcome);
    notified = 0;
    CHECK(pyh_pending_block(p, &out) == 1); // too late: it is done
    pyh_pending_release(p);
    pyh.Py_DecRef(future);

    future = called("Future", NULL, 0); // done, then armed
    p = ask(future);
    finish(future, ends[i].with);
    CHECK(pyh_pending_arm(p, 6, &out) == 1 && notified == 0);
    gives(&out, ends[i].outcome);
    pyh_pending_release(p);
    pyh.Py_DecRef(future);
  }

  future = called("Future", NULL, 0); // abandoned, then done
  pyh_pending *p = ask(future);
  CHECK(pyh_pending_arm(p, 5, &out) == 0 && pyh_pending_abandon(p) == 1 && pyh_pending_abandon(p) == 0);
  pyh_pending_release(p);
  finish(future, "one");
  CHECK(notified == 0);
  pyh.Py_DecRef(future);

  future = called("Future", NULL, 0); // done where Go cannot be entered
  p = ask(future);
  CHECK(pyh_pending_arm(p, 8, &out) == 0);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, finish_at_the_end, future) == 0);
  pyh_leave();
  pthread_join(thread, NULL);
  CHECK(notified == 0);
  pyh_enter();
  CHECK(notified == 8);
  gives(&notice, PYH_VALUE);
  notified = 0;
  pyh_pending_release(p);
  pyh.Py_DecRef(future);

  future = called("Future", NULL, 0); // refuses the callback
  drop(called("fail", &future, 1));
  pyh_ask_future(torch, future, &out);
  gives(&out, PYH_FAILED);
  pyh.Py_DecRef(future);

  for (int soon = 0; soon < 2; soon++) {
    const char *by[] = {"finished", "abandoned", "woken"};
    for (int i = 0; i < 3; i++) {
      future = called("Future", NULL, 0);
      CHECK(ended(future, by[i], soon) == (i == 0));
      pyh.Py_DecRef(future);
    }
  }

  PyObject *all[] = {class, torch->done, torch->value, torch->add_done_callback, dict};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    pyh.Py_DecRef(all[i]);
  }
  free(torch);
  pyh_leave();
  pyh_enter(); // does what was deferred
  pyh_leave();
  CHECK(pyh_pending_count() == 0);
}
