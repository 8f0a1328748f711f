// The hot path: one call of a Python callable from Go, in one crossing. It handles futures,
// interruptions and autograd's mode; a kind of call, such as bucket_call.c's, makes the arguments.
#ifndef PYHOOK_INVOKE_H
#define PYHOOK_INVOKE_H

#include "torch_api.h"

// How a call, or a future, ended.
enum pyh_outcome {
  PYH_SAME,    // done: the value is the invocation's own object, left as it was
  PYH_VALUE,   // done: object is the value
  PYH_PENDING, // pending waits for the future
  PYH_PLAIN,   // the callable returned object, which is no future
  PYH_RAISED,  // the callable raised error
  PYH_FAILED   // the future failed with error
};

// A future that is not done yet: pending.h.
typedef struct pyh_pending pyh_pending;

// object and error are new references for the caller, or NULL.
typedef struct {
  int outcome;
  int changed; // the callable changed in place what the invocation keeps for its next calls
  PyObject *object;
  PyObject *error;
  pyh_pending *pending;
} pyh_result;

typedef struct pyh_invocation pyh_invocation;

// The most arguments after the first that a kind of call has.
enum { PYH_MAX_ARGUMENTS = 3 };

// A kind of call. Both functions are called attached.
typedef struct {
  size_t size; // of the kind's struct, which begins with a pyh_invocation
  // Stores the arguments after the first, new references, and returns how many
  // they are; -1: exception set.
  int (*arguments)(pyh_invocation *, PyObject **args);
  // Says whether the callable left unchanged what is kept for the next calls. No exception is set
  // before or after. value: the call's value; NULL: an error.
  bool (*unchanged)(const pyh_invocation *, const PyObject *value);
} pyh_call_kind;

// The state of calls, one at a time, in C memory. The objects are borrowed: they must outlive the
// calls and their futures.
struct pyh_invocation {
  const pyh_torch_api *torch;
  const pyh_call_kind *kind;
  PyObject *own;   // the object of PYH_SAME
  PyObject *value; // called for the value of a future that is done; NULL: torch->value
  unsigned calls;
  int done_in_a_row;    // calls in a row whose future was done at return: hot_path.h
  unsigned long thread; // that is in the call now, as Python names it; 0: none
  int interrupted;      // an exception was raised there: set by Go, attached
  pyh_result result;
};

// Calls callable(first, ...) and stores the outcome in the invocation's result: cgo is slower with
// a function that returns something. The arguments are the addresses of a pyh_invocation and of two
// PyObjects, as integers, which cgo does not check.
void pyh_invoke(uintptr_t invocation, uintptr_t callable, uintptr_t first);
// The thread that is in that invocation's call now; 0: none, or not yet.
unsigned long pyh_thread_of(const pyh_invocation *);

// Takes the value of a future that is done; attached. The invocation is that of
// the call that returned the future; NULL: of none.
void pyh_take_value(const pyh_torch_api *, PyObject *future, const pyh_invocation *,
                    pyh_result *out);
// Says how a future stands: PYH_VALUE, PYH_FAILED or PYH_PENDING. It stays the
// caller's. Attached or not.
void pyh_ask_future(const pyh_torch_api *, PyObject *future, pyh_result *out);

#endif
