// DLPack 1.3's structs (dlpack.h), whose layouts are ABI.
#ifndef PYHOOK_DLPACK_ABI_H
#define PYHOOK_DLPACK_ABI_H

#include <stdint.h>

typedef struct { int32_t type, id; } DLDevice;
typedef struct { uint8_t code, bits; uint16_t lanes; } DLDataType;
typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} DLTensor;

#endif
