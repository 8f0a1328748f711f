// Keeping signal handlers Go's.
#ifndef PYHOOK_SIGNALS_H
#define PYHOOK_SIGNALS_H

#include "pyapi.h"

void pyh_note_faults(void);    // notes the handlers of faults, before Python starts
void pyh_keep_faults(void);    // puts them back
void pyh_release_faults(void); // turns pyh_keep_faults off
void pyh_handle_forks(void);   // makes forked children give up Go's handlers
PyObject *pyh_guard(void);           // new: calls a function and undoes its changes of signals
PyObject *pyh_releases_faults(void); // new: says whether pyh_release_faults was called
void pyh_deliver_by(PyObject *function); // sets the function that runs handlers; attached
// pyh_trip makes Python's main thread run its handler of a signal when it next runs Python.
void pyh_trip(int number);

#endif
