// Element-wise operations on CPU memory. Types are those of dtype.h.
#ifndef PYHOOK_COPY_H
#define PYHOOK_COPY_H

#include <stdint.h>

#include "dtype.h"

// These return 0, or -1 where the dtypes have no conversion or operation. Strides are in elements.
int pyh_copy(void *dst, int dst_type, const int64_t *dst_strides, const void *src, int src_type,
             const int64_t *src_strides, int ndim, const int64_t *shape);
int pyh_divide(void *data, int type, int64_t n, double divisor);
int pyh_scale(void *dst, const void *src, int type, int64_t n, double factor);

#endif
