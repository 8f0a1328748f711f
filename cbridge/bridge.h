// The C half of package cbridge, as its Go half sees it.
#ifndef PYHOOK_BRIDGE_H
#define PYHOOK_BRIDGE_H

#include <stdbool.h>

#include "pyapi.h"

extern pyh_api pyh;

// pyapi.c
// pyh_load opens the library, which must be of this version ("3.11.2"), and
// fills the table. Returns NULL, or a message that the caller frees.
char *pyh_load(const char *path, const char *version);

// init.c
// pyh_initialize starts the interpreter on the calling thread, which becomes
// Python's main thread, and detaches from it. Returns NULL, or a message that
// the caller frees.
char *pyh_initialize(const char *executable);

// heap.c
void pyh_grow_heap(void); // the calling thread's, for what Python will allocate

// threadstate.c
void pyh_make_exit_key(void); // before Python starts
void pyh_enter(void);
void pyh_leave(void);
PyThreadState *pyh_let_go(void);
void pyh_go_on(PyThreadState *state);
void pyh_keep_state(void);
void pyh_adopt_main_thread(void);
bool pyh_on_main_thread(void);
bool pyh_thread_is_ending(void);
int pyh_callback_enter(void);
void pyh_callback_leave(void);
void pyh_defer_decref(PyObject *obj);
void pyh_defer_call(void (*fn)(void *), void *arg);
int64_t pyh_deferred(void);
int64_t pyh_thread_states(void);

bool pyh_is_forked(void); // this process is a child of os.fork

// signals.c
void pyh_note_faults(void);    // before Python starts: the handlers that stay
void pyh_keep_faults(void);    // puts them back
void pyh_release_faults(void); // they need not stay any more
void pyh_watch_forks(void);    // has forked children give up Go's handlers
PyObject *pyh_guard(void);           // new: calls a function, which changes no signal
PyObject *pyh_releases_faults(void); // new: says whether pyh_release_faults was called
void pyh_deliver_by(PyObject *function); // what runs handlers; attached
// pyh_trip has Python's handler of a signal run when its main thread next runs Python.
void pyh_trip(int number);

// object.c: each expects an attached thread. "new" results are owned by the
// caller; NULL means that a Python error is set.
PyObject *pyh_string(const char *s, size_t n);            // new
PyObject *pyh_call(PyObject *f, PyObject **args, size_t n, PyObject *kwargs); // new
PyObject *pyh_raised(void);                               // new, clears the error
int pyh_kind(PyObject *obj);
enum {
  PYH_KIND_OTHER,
  PYH_KIND_NONE,
  PYH_KIND_BOOL,
  PYH_KIND_INT,
  PYH_KIND_FLOAT,
  PYH_KIND_STRING,
  PYH_KIND_BYTES,
  PYH_KIND_SEQUENCE,
  PYH_KIND_MAPPING
};
// pyh_int stores the value; 0 int64, 1 uint64, -1 out of range.
int pyh_int(PyObject *obj, int64_t *i, uint64_t *u);
// pyh_utf8 borrows the text of obj, or makes *tmp (new) when it holds lone
// surrogates that UTF-8 cannot.
const char *pyh_utf8(PyObject *obj, Py_ssize_t *n, PyObject **tmp);
PyObject *pyh_exec(const char *source, const char *filename, PyObject *globals); // new

// interrupt.c
// pyh_strike raises an exception class in a thread, if the frame of point (interrupt.py) is still
// the innermost there: 1. Attached. current_frames is sys._current_frames.
int pyh_strike(PyObject *point, PyObject *current_frames, unsigned long thread,
               PyObject *exception);
void pyh_set_absorb(PyObject *function, PyObject *exception);
void pyh_take_back(void); // pyapi.h: take_back

// callback.c
// pyh_func makes a Python callable that runs the Go function with this id.
PyObject *pyh_func(const char *name, uintptr_t id); // new

#endif
