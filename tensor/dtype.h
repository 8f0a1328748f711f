// The dtypes: the one table that C and Go read. A new dtype is a line here and a name in dtype.go.
#ifndef PYHOOK_DTYPE_H
#define PYHOOK_DTYPE_H

#include <stdint.h>

// DLPack's type codes (DLDataTypeCode, dlpack.h 1.3).
enum {
  DL_INT = 0, DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4, DL_COMPLEX = 5, DL_BOOL = 6,
  DL_FLOAT8_E4M3FN = 10, DL_FLOAT8_E4M3FNUZ = 11, DL_FLOAT8_E5M2 = 12, DL_FLOAT8_E5M2FNUZ = 13
};

// X(identifier, torch's name, bytes, DLPack's type code). The 8-bit floats come last: they are
// carried, and not computed with.
#define PYH_DTYPES(X)                                                                              \
  X(F64, "float64", 8, DL_FLOAT)                                                                   \
  X(F32, "float32", 4, DL_FLOAT)                                                                   \
  X(F16, "float16", 2, DL_FLOAT)                                                                   \
  X(BF16, "bfloat16", 2, DL_BFLOAT)                                                                \
  X(I64, "int64", 8, DL_INT)                                                                       \
  X(I32, "int32", 4, DL_INT)                                                                       \
  X(I16, "int16", 2, DL_INT)                                                                       \
  X(I8, "int8", 1, DL_INT)                                                                         \
  X(U8, "uint8", 1, DL_UINT)                                                                       \
  X(U16, "uint16", 2, DL_UINT)                                                                     \
  X(U32, "uint32", 4, DL_UINT)                                                                     \
  X(U64, "uint64", 8, DL_UINT)                                                                     \
  X(BOOL, "bool", 1, DL_BOOL)                                                                      \
  X(C64, "complex64", 8, DL_COMPLEX)                                                               \
  X(C128, "complex128", 16, DL_COMPLEX)                                                            \
  X(E4M3FN, "float8_e4m3fn", 1, DL_FLOAT8_E4M3FN)                                                  \
  X(E4M3FNUZ, "float8_e4m3fnuz", 1, DL_FLOAT8_E4M3FNUZ)                                            \
  X(E5M2, "float8_e5m2", 1, DL_FLOAT8_E5M2)                                                        \
  X(E5M2FNUZ, "float8_e5m2fnuz", 1, DL_FLOAT8_E5M2FNUZ)

#define PYH_DTYPE_ID(id, name, size, code) T_##id,
enum { T_INVALID, PYH_DTYPES(PYH_DTYPE_ID) T_END };

typedef struct {
  const char *name;
  uint8_t size, code;
} pyh_dtype;
extern const pyh_dtype pyh_dtypes[T_END];

#endif
