// Futures that are not done when a hook returns. A C callback takes the value on the thread of
// torch that completes the future, and notifies Go.
#ifndef PYHOOK_PENDING_H
#define PYHOOK_PENDING_H

#include "invoke.h"

// Makes a pending, with a reference for the caller, and adds its callback to the future; attached.
// NULL: exception set. It copies the invocation of the call that returned the future; NULL: none.
pyh_pending *pyh_pending_new(const pyh_torch_api *, PyObject *future, const pyh_invocation *);
// Arms it: when the future is done, pyhookFutureDone of pending.go is called with this id. 1: it is
// done already, out is the result, and Go will not be notified. Call it once; it calls no Python.
int pyh_pending_arm(pyh_pending *, uintptr_t id, pyh_result *out);
// Blocks the calling thread, detached, until the armed future is done: 1, out is the result, and Go
// is not notified if it was done after this call began. 0: it was abandoned, or pyh_pending_wake
// was called, perhaps earlier. One thread at a time.
int pyh_pending_block(pyh_pending *, pyh_result *out);
void pyh_pending_wake(pyh_pending *);
// Abandons it: 1, Go will not be notified, and the invocation's objects may be closed. 0: too late,
// the value has been or is being taken. Attached or not.
int pyh_pending_abandon(pyh_pending *);
// Adds a reference; drops one.
void pyh_pending_retain(pyh_pending *);
void pyh_pending_release(pyh_pending *);
// How many exist. torch keeps the callback of a future that never completes.
int64_t pyh_pending_count(void);

#endif
