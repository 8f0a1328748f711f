// Exceptions raised in another thread.
#ifndef PYHOOK_INTERRUPT_H
#define PYHOOK_INTERRUPT_H

#include "pyapi.h"

// pyh_strike raises an exception class in a thread, if the frame of point (interrupt.py) is still
// the innermost there: 1. Attached. current_frames is sys._current_frames.
int pyh_strike(PyObject *point, PyObject *current_frames, unsigned long thread,
               PyObject *exception);
void pyh_set_absorb(PyObject *function, PyObject *exception);
// pyh_take_back drops an exception of PyThreadState_SetAsyncExc that has not come yet, on the
// thread that it is for, attached.
void pyh_take_back(void);

#endif
