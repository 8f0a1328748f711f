// What the parts of the program share.
#ifndef PYHOOK_CMEM_H
#define PYHOOK_CMEM_H

#include <stdio.h>
#include <stdlib.h>

#include "../../../cbridge/bucket_call.h"
#include "../../../cbridge/bucket_object.h"
#include "../../../cbridge/callback.h"
#include "../../../cbridge/dlpack.h"
#include "../../../cbridge/init.h"
#include "../../../cbridge/interrupt.h"
#include "../../../cbridge/object.h"
#include "../../../cbridge/pending.h"
#include "../../../cbridge/signals.h"
#include "../../../cbridge/threadstate.h"
#include "../../../internal/memory/memory.h"
#include "../../../tensor/copy.h"
#include "../../../tensor/finite.h"

#define CHECK(what)                                                            \
  do {                                                                         \
    if (!(what)) {                                                             \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #what);     \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

// Each exercises the functions of the C files that it names.
void check_memory(void);  // memory.c
void check_copy(void);    // copy.c
void check_objects(void); // object.c, callback.c
void check_threads(void); // threadstate.c
void check_dlpack(void);  // dlpack.c
void check_calls(void);   // invoke.c, bucket_call.c, bucket_object.c, torch_api.c, grad_mode.c
void check_pending(void); // pending.c

int live_funcs(void); // Go functions that Python holds
PyObject *new_func(uintptr_t id); // new reference: of pyh_func

// execute runs source with these globals: a new reference, or NULL with an exception set.
PyObject *execute(const char *source, PyObject *globals);
// python runs source with a dict of its own, which it returns: a new reference.
PyObject *python(const char *source);
// from takes a name out of such a dict: a new reference.
PyObject *from(PyObject *dict, const char *name);

#endif
