// Signal handlers stay Go's.
//
// Go makes a panic of a nil pointer's SIGSEGV, and passes SIGTERM on to the program. Python,
// faulthandler and libraries of C install handlers when Python starts, in imports, and in hooks.
// pyh_guard undoes at once what Python code does; pyh_keep_faults undoes what libraries of C did,
// after imports and hook calls.

#include "signals.h"

#include "threadstate.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

enum { SIGNALS = 65 }; // numbers end at 64 on Linux

// The signals of faults; FAULTS of them.
static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
enum { FAULTS = sizeof faults / sizeof faults[0] };

static struct sigaction kept[FAULTS]; // their actions before Python started
static volatile bool keeping;
static void *gos; // the handler that Go's runtime has for all signals

// The actions that Python set and guard undid, for children of os.fork.
static struct sigaction asked[SIGNALS];
static bool has_asked[SIGNALS];

static void *handler(const struct sigaction *action) {
  return action->sa_flags & SA_SIGINFO ? (void *)action->sa_sigaction : (void *)action->sa_handler;
}

static bool same(const struct sigaction *a, const struct sigaction *b) {
  return handler(a) == handler(b) && a->sa_flags == b->sa_flags;
}

void pyh_note_faults(void) {
  struct sigaction action;
  sigaction(SIGURG, NULL, &action); // Go preempts goroutines by it: always Go's
  gos = handler(&action);
  for (int i = 0; i < FAULTS; i++) {
    sigaction(faults[i], NULL, &kept[i]);
  }
  keeping = true;
}

void pyh_release_faults(void) { keeping = false; }

void pyh_keep_faults(void) {
  if (!keeping || pyh_is_forked()) {
    return;
  }
  for (int i = 0; i < FAULTS; i++) {
    struct sigaction now;
    if (sigaction(faults[i], NULL, &now) == 0 && !same(&now, &kept[i])) {
      sigaction(faults[i], &kept[i], NULL);
    }
  }
}

// guard calls args[0](*args[1], **args[2]) and undoes its changes of signals and of the stack that
// this thread's handlers run on: Go's is larger than faulthandler's.
static PyObject *guard(PyObject *self, PyObject *args) {
  PyObject *call = pyh.PyTuple_GetItem(args, 0), *values = pyh.PyTuple_GetItem(args, 1),
           *named = pyh.PyTuple_GetItem(args, 2);
  if (pyh_is_forked()) {
    return pyh.PyObject_Call(call, values, named);
  }
  struct sigaction before[SIGNALS], now;
  stack_t stack, other;
  for (int i = 1; i < SIGNALS; i++) {
    sigaction(i, NULL, &before[i]);
  }
  sigaltstack(NULL, &stack);
  PyObject *result = pyh.PyObject_Call(call, values, named);
  for (int i = 1; i < SIGNALS; i++) {
    if (sigaction(i, NULL, &now) == 0 && !same(&now, &before[i])) {
      sigaction(i, &before[i], NULL);
      asked[i] = now;
      has_asked[i] = true;
    }
  }
  if (sigaltstack(NULL, &other) == 0 && other.ss_sp != stack.ss_sp) {
    sigaltstack(&stack, NULL);
  }
  return result;
}

static PyObject *releases_faults(PyObject *self, PyObject *args) {
  return pyh.PyBool_FromLong(!keeping);
}

PyObject *pyh_guard(void) {
  static PyMethodDef def = {"guard", guard, PYH_METH_VARARGS, NULL};
  return pyh.PyCFunction_NewEx(&def, NULL, NULL);
}

PyObject *pyh_releases_faults(void) {
  static PyMethodDef def = {"releases_faults", releases_faults, PYH_METH_NOARGS, NULL};
  return pyh.PyCFunction_NewEx(&def, NULL, NULL);
}

static PyObject *deliver; // signals.py's: runs a signal's handler

void pyh_deliver_by(PyObject *function) {
  pyh.Py_IncRef(function); // never dropped: a call may be pending
  deliver = function;
}

static int run_handler(void *number) {
  PyObject *arg = pyh.PyLong_FromLongLong((intptr_t)number);
  PyObject *result = pyh.vectorcall(deliver, &arg, 1, NULL);
  pyh.Py_DecRef(arg);
  if (result == NULL) {
    return -1; // the thread raises the handler's exception where it is
  }
  pyh.Py_DecRef(result);
  return 0;
}

// Any thread may call both functions, attached or not. CPython has PyErr_SetInterruptEx since 3.10.
void pyh_trip(int number) {
  static int (*set_interrupt)(int);
  static int (*add_call)(int (*)(void *), void *);
  if (add_call == NULL) {
    *(void **)&set_interrupt = dlsym(RTLD_DEFAULT, "PyErr_SetInterruptEx");
    *(void **)&add_call = dlsym(RTLD_DEFAULT, "Py_AddPendingCall");
  }
  if (set_interrupt != NULL) {
    set_interrupt(number);
  } else {
    add_call(run_handler, (void *)(intptr_t)number);
  }
}

// A child of os.fork has Go's handlers, but no Go runtime to pass a signal on: a SIGTERM would be
// lost. So in_child sets the action that Python asked for, or the default, or what the python
// command ignores. Signals are blocked meanwhile, so that none is lost.
static __thread sigset_t mask;

static void before_fork(void) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &mask);
}

static void after_fork(void) { pthread_sigmask(SIG_SETMASK, &mask, NULL); }

static void in_child(void) {
  for (int i = 1; i < SIGNALS; i++) {
    struct sigaction action;
    if (sigaction(i, NULL, &action) == 0 && gos != NULL && handler(&action) == gos) {
      memset(&action, 0, sizeof action);
      action.sa_handler = i == SIGPIPE || i == SIGXFSZ ? SIG_IGN : SIG_DFL;
      if (has_asked[i]) {
        action = asked[i];
      }
      sigaction(i, &action, NULL);
    }
  }
  after_fork();
}

void pyh_handle_forks(void) { pthread_atfork(before_fork, after_fork, in_child); }
