// Futures that are not done when a hook returns. A callback on the future takes
// its value, in C, on whatever thread of torch completes it, and notifies Go then.
#ifndef PYHOOK_PENDING_H
#define PYHOOK_PENDING_H

#include "invoke.h"

// Makes one, with a reference for the caller, and adds its callback to the
// future; attached. NULL: exception set. The invocation is that of the call that
// returned the future, and is copied; NULL: of none.
pyh_pending *pyh_pending_new(const pyh_torch_api *, PyObject *future, const pyh_invocation *);
// From now on Go is notified under this id, by pyhookFutureDone of pending.go,
// when the future is done. 1: it is done already, out is the result, and Go will
// not be notified. Once, and it calls nothing of Python.
int pyh_pending_arm(pyh_pending *, uintptr_t id, pyh_result *out);
// Blocks the calling thread, detached, until the armed future is done: 1, out is
// the result, and Go is not notified if it was done after this call began. 0: it
// was abandoned, or pyh_pending_wake was called, perhaps before. One thread at a
// time.
int pyh_pending_block(pyh_pending *, pyh_result *out);
void pyh_pending_wake(pyh_pending *);
// Go will not be notified, and the invocation's objects may go: 1. 0: too late,
// the value has been or is being taken. Needs no attached thread.
int pyh_pending_abandon(pyh_pending *);
// One more reference; and one less.
void pyh_pending_retain(pyh_pending *);
void pyh_pending_release(pyh_pending *);
// How many there are. torch keeps the callback of a future that never completes.
int64_t pyh_pending_count(void);

#endif
