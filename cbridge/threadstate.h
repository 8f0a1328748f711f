// Attaching threads to the interpreter, and work deferred until a thread is attached.
#ifndef PYHOOK_THREADSTATE_H
#define PYHOOK_THREADSTATE_H

#include "pyapi.h"

// pyh_make_exit_key is called before Python starts.
void pyh_make_exit_key(void);
// pyh_enter attaches the calling thread to the interpreter (takes the GIL where there is one) and
// pyh_leave detaches it. They nest; an inner pair expects the thread still attached, as Python's
// own calls leave it.
void pyh_enter(void);
void pyh_leave(void);
// pyh_let_go detaches an attached thread for a wait inside a call from Python; pyh_go_on undoes it.
PyThreadState *pyh_let_go(void);
void pyh_go_on(PyThreadState *state);
// pyh_keep_state keeps the calling thread's state until the thread ends; attached, on any thread.
void pyh_keep_state(void);
void pyh_adopt_main_thread(void);
bool pyh_on_main_thread(void);
bool pyh_thread_is_ending(void);
// pyh_callback_enter and pyh_callback_leave surround Go code that Python calls, on any thread. 0:
// the thread is ending and cannot run Go any more; a RuntimeError is set.
int pyh_callback_enter(void);
void pyh_callback_leave(void);
// pyh_defer_decref drops a reference from any thread, attached or not: the next pyh_enter does it.
void pyh_defer_decref(PyObject *obj);
// pyh_defer_call calls fn(arg) attached, at the next pyh_enter.
void pyh_defer_call(void (*fn)(void *), void *arg);
int64_t pyh_deferred(void);
int64_t pyh_thread_states(void);

bool pyh_is_forked(void); // this process is a child of os.fork

#endif
