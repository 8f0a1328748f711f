// The type of the bucket objects that hooks are called with, made in C: a new object costs one
// small allocation, and buffer() runs no Python.
#ifndef PYHOOK_BUCKET_OBJECT_H
#define PYHOOK_BUCKET_OBJECT_H

#include "pyapi.h"

// pyh_make_bucket_type makes the type, attached, once in a process: a subclass of
// methods (pyhook._runtime.bucket.BucketMethods) whose objects say that their __class__
// is bucket (pyhook._runtime.bucket.Bucket), so that isinstance takes them for that and
// for torch.distributed.GradBucket. False: exception set.
bool pyh_make_bucket_type(PyObject *methods, PyObject *bucket);

// pyh_new_bucket makes an object of it (_runtime/bucket.py: new_bucket): a new reference, or
// NULL with an exception set. Attached.
PyObject *pyh_new_bucket(PyObject *layout, PyObject *buffer);

#endif
