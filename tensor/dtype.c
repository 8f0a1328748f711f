#include "dtype.h"

#define ROW(id, name, size, code) {name, size, code},
const pyh_dtype pyh_dtypes[T_END] = {{"invalid", 0, 0}, PYH_DTYPES(ROW)};
