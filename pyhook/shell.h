// The type of the bucket objects that hooks are called with, made in C: a new
// object a call is then a small allocation, and buffer() runs no Python.
#ifndef PYHOOK_SHELL_H
#define PYHOOK_SHELL_H

#include "../cbridge/pyapi.h"

// pyh_shell_type makes the type, attached, once in a process: a subclass of
// methods (pyhook._bucket.BucketMethods) whose objects say that their __class__
// is bucket (pyhook._bucket.Bucket), so that isinstance takes them for that and
// for torch.distributed.GradBucket. A new reference; NULL: exception set.
PyObject *pyh_shell_type(const pyh_api *, PyObject *methods, PyObject *bucket);

// pyh_shell makes an object of it (_bucket.py: fresh): a new reference, or NULL
// with an exception set.
PyObject *pyh_shell(PyObject *layout, PyObject *buffer);

#endif
