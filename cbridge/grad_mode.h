// Autograd's mode, which is the calling thread's own: whether what is computed is
// recorded for a backward pass.
//
// PyTorch calls hooks inside backward(), where it is off. So it is in a hook's
// call here, and afterwards what it was: Go's threads are shared.
#ifndef PYHOOK_GRAD_MODE_H
#define PYHOOK_GRAD_MODE_H

#include <stdbool.h>

#include "pyapi.h"

// The way to it. C++'s own functions need 1 ns a call, Python's 30 to 70.
typedef struct {
  bool (*enabled)(void); // c10::GradMode::is_enabled; NULL: not found
  void (*set)(bool);     // c10::GradMode::set_enabled; NULL: not found
  PyObject *py_enabled;  // torch.is_grad_enabled
  PyObject *py_set;      // torch._C._set_grad_enabled
} pyh_grad_mode;

// Looks C++'s functions up in the library at path, torch._C's, and in those that
// it needs. They are taken only if they do what Python's do; attached, with
// those set. False: exception set.
bool pyh_grad_mode_find(pyh_grad_mode *, const char *path);
// Turns it off and returns what it was; attached, no exception set.
bool pyh_grad_off(const pyh_grad_mode *);
// Makes it what it was; attached, no exception set.
void pyh_grad_back(const pyh_grad_mode *, bool was);

#endif
