// Thread states are kept.
//
// Since CPython 3.11 a fresh thread state costs 10 to 14 us a call, because its first frame maps a
// data stack and its release unmaps it; attaching a kept one costs 0.1 to 0.3 us. So each OS thread
// that calls Python keeps its state until it ends.

#include "threadstate.h"

#include "signals.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static __thread PyThreadState *kept; // this thread's state, when detached too
static __thread PyThreadState *guest; // its owner's, kept by pyh_keep_state
static __thread int depth;           // > 0: this thread is attached
static __thread bool borrowed;       // attached by the state of another owner
static __thread int ensured;         // what Ensure answered, while borrowed
static __thread bool main_thread;
static __thread bool ending;         // its destructors run: no Go any more

static pthread_key_t exit_key;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;
static _Atomic int64_t states;

// The deferred work: any thread pushes to this stack without a lock, and an attached thread takes
// all of it.
typedef struct deferred {
  struct deferred *next;
  void (*fn)(void *);
  void *arg;
} deferred;

static _Atomic(deferred *) pending;
static _Atomic int64_t pending_count;

void pyh_defer_call(void (*fn)(void *), void *arg) {
  deferred *d = malloc(sizeof *d);
  d->fn = fn;
  d->arg = arg;
  d->next = atomic_load(&pending);
  while (!atomic_compare_exchange_weak(&pending, &d->next, d)) {
  }
  atomic_fetch_add(&pending_count, 1);
}

void pyh_defer_decref(PyObject *obj) {
  pyh_defer_call((void (*)(void *))pyh.Py_DecRef, obj);
}

int64_t pyh_deferred(void) { return atomic_load(&pending_count); }
int64_t pyh_thread_states(void) { return atomic_load(&states); }

static void drain(void) {
  deferred *d = atomic_exchange(&pending, NULL);
  while (d != NULL) {
    deferred *next = d->next;
    d->fn(d->arg);
    free(d);
    atomic_fetch_sub(&pending_count, 1);
    d = next;
  }
}

// reap deletes the state of a guest that ended, on a thread of its own: PyThreadState_Delete of
// another thread's state makes the calling thread forget its own since CPython 3.12.
static void *reap(void *state) {
  pyh.PyGILState_Ensure();
  PyThreadState *own = pyh.PyGILState_GetThisThreadState();
  pyh.PyThreadState_Clear(state);
  pyh.PyThreadState_Delete(state);
  pyh.PyThreadState_Clear(own);
  pyh.PyThreadState_DeleteCurrent();
  atomic_fetch_sub(&states, 1);
  return NULL;
}

// guest_exit runs when a thread of torch ends. It must not wait for the GIL, which the thread that
// joins this one may hold.
static void guest_exit(void) {
  pthread_t thread;
  if (pyh.PyGILState_GetThisThreadState() != guest) { // its owner deleted it
    atomic_fetch_sub(&states, 1);
  } else if (pthread_create(&thread, NULL, reap, guest) == 0) {
    pthread_detach(thread);
  }
}

// thread_exit runs when an OS thread with a kept state ends: Go ends a thread whose goroutine
// returns while locked to it. It calls Clear and DeleteCurrent, not PyGILState_Release: destructors
// that Clear runs may Ensure and Release, which deleted the state twice before gh-119585.
static void thread_exit(void *state) {
  ending = true;
  if (guest != NULL) {
    guest_exit();
    return;
  }
  depth = 1;
  pyh.PyEval_RestoreThread(state);
  pyh.PyThreadState_Clear(state);
  kept = NULL;
  depth = 0;
  pyh.PyThreadState_DeleteCurrent();
  atomic_fetch_sub(&states, 1);
}

// A child of os.fork has only this thread, and none of Go's others. It may run Python until
// os._exit or exec, as multiprocessing does, but must not return to Go, whose scheduler would wait
// for ever.
static volatile bool forked;

static void in_child(void) { forked = true; }
bool pyh_is_forked(void) { return forked; }

static void end_forked_child(void) {
  static const char why[] =
      "pyhook: a process that Python code forked came back from it instead of ending; it is ended here. "
      "A child of os.fork must end in os._exit.\n";
  ssize_t written = write(2, why, sizeof why - 1);
  (void)written;
  _exit(70);
}

static void make_exit_key(void) {
  pthread_key_create(&exit_key, thread_exit);
  pthread_atfork(NULL, NULL, in_child);
  pyh_handle_forks();
}

// A thread clears its keys in the order in which they were made, also those without a destructor.
// Python's key must outlast this one, which is therefore made before Python starts.
void pyh_make_exit_key(void) { pthread_once(&exit_once, make_exit_key); }

// first_enter makes the state by an outer PyGILState_Ensure that lasts as long as the thread: an
// inner Ensure (torch's gil_scoped_acquire) finds it.
static void first_enter(void) {
  pyh.PyGILState_Ensure();
  kept = pyh.PyGILState_GetThisThreadState();
  pthread_setspecific(exit_key, kept);
  atomic_fetch_add(&states, 1);
}

void pyh_enter(void) {
  if (depth++ > 0) {
    return;
  }
  if (kept != NULL) {
    pyh.PyEval_RestoreThread(kept);
  } else if (pyh.PyGILState_GetThisThreadState() != NULL) {
    // A thread of Python's or torch's: its owner deletes the state, perhaps
    // before the thread ends, so it is not ours to keep.
    borrowed = true;
    ensured = pyh.PyGILState_Ensure();
  } else {
    first_enter();
  }
  if (!borrowed && atomic_load_explicit(&pending, memory_order_relaxed) != NULL) {
    drain();
  }
}

void pyh_leave(void) {
  if (--depth > 0) {
    return;
  }
  if (forked) {
    end_forked_child();
  }
  if (borrowed) {
    borrowed = false;
    pyh.PyGILState_Release(ensured);
  } else {
    pyh.PyEval_SaveThread();
  }
}

PyThreadState *pyh_let_go(void) { return depth > 0 ? pyh.PyEval_SaveThread() : NULL; }
void pyh_go_on(PyThreadState *state) {
  if (state != NULL) {
    pyh.PyEval_RestoreThread(state);
  }
}

// torch's threads call Python by pybind11's gil_scoped_acquire, which makes a state for each call
// and deletes it afterwards. Another Ensure keeps it for the next call. Without a GIL a state must
// be cleared by its own thread, which cannot wait: none is kept there.
void pyh_keep_state(void) {
  if (kept != NULL || guest != NULL || pyh.free_threaded) {
    return;
  }
  pyh.PyGILState_Ensure();
  guest = pyh.PyGILState_GetThisThreadState();
  pthread_setspecific(exit_key, guest);
  atomic_fetch_add(&states, 1);
}

// The thread that initialised Python keeps the main state and never ends.
void pyh_adopt_main_thread(void) {
  main_thread = true;
  kept = pyh.PyEval_SaveThread();
  atomic_fetch_add(&states, 1);
}

bool pyh_on_main_thread(void) { return main_thread; }
bool pyh_thread_is_ending(void) { return ending; }

// Python calls Go attached, perhaps on gloo's thread: a pyh_enter inside must not attach it again.
int pyh_callback_enter(void) {
  if (ending) { // a thread-local's destructor, on an OS thread that Go has let go already
    pyh.PyErr_SetString(pyh.RuntimeError, "no Go function can run on a thread that is ending");
    return 0;
  }
  depth++;
  return 1;
}
void pyh_callback_leave(void) { depth--; }
