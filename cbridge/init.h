// The interpreter's start.
#ifndef PYHOOK_INIT_H
#define PYHOOK_INIT_H

#include "pyapi.h"

// pyh_initialize starts the interpreter on the calling thread, which becomes
// Python's main thread, and detaches from it. Returns NULL, or a message that
// the caller frees.
char *pyh_initialize(const char *executable);

#endif
