// Looking for NaN and infinity in CPU memory.
#ifndef PYHOOK_FINITE_H
#define PYHOOK_FINITE_H

#include <stdint.h>

#include "dtype.h"

// Returns the index of the first element that is NaN or infinite, or -1: there is none.
int64_t pyh_first_nonfinite(const void *data, int type, int64_t n);

#endif
