// Whose the signals are.
#ifndef PYHOOK_SIGNALS_H
#define PYHOOK_SIGNALS_H

#include "pyapi.h"

void pyh_note_faults(void);    // before Python starts: the handlers that stay
void pyh_keep_faults(void);    // puts them back
void pyh_release_faults(void); // they need not stay any more
void pyh_handle_forks(void);    // has forked children give up Go's handlers
PyObject *pyh_guard(void);           // new: calls a function, which changes no signal
PyObject *pyh_releases_faults(void); // new: says whether pyh_release_faults was called
void pyh_deliver_by(PyObject *function); // what runs handlers; attached
// pyh_trip has Python's handler of a signal run when its main thread next runs Python.
void pyh_trip(int number);

#endif
