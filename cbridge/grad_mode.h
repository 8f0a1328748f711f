// Autograd's mode of the calling thread: whether torch records operations for a backward pass.
//
// PyTorch calls hooks inside backward(), where it is off. A hook's call here turns it off too, and
// restores it afterwards, since Go's threads are shared.
#ifndef PYHOOK_GRAD_MODE_H
#define PYHOOK_GRAD_MODE_H

#include <stdbool.h>

#include "pyapi.h"

// How to reach it. C++'s functions take 1 ns a call, Python's 30 to 70.
typedef struct {
  bool (*enabled)(void); // c10::GradMode::is_enabled; NULL: not found
  void (*set)(bool);     // c10::GradMode::set_enabled; NULL: not found
  PyObject *py_enabled;  // torch.is_grad_enabled
  PyObject *py_set;      // torch._C._set_grad_enabled
} pyh_grad_mode;

// Looks C++'s functions up in the library at path, torch._C's, and in those that it needs, and
// stores them if they do what Python's functions do, which must be set. Attached. False: exception
// set.
bool pyh_grad_mode_find(pyh_grad_mode *, const char *path);
// Turns it off and returns the former mode; attached, no exception set.
bool pyh_grad_off(const pyh_grad_mode *);
// Restores the former mode; attached, no exception set.
void pyh_grad_back(const pyh_grad_mode *, bool was);

#endif
