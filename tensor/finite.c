// Looking for NaN and infinity: numbers whose exponent's bits are all set.

#include "finite.h"

enum { BLOCK = 4096 }; // elements checked together

// FIND defines a function that returns the index of the first of n words with (word & mask) >=
// limit, or -1. It checks blocks without a branch inside, so that the compiler vectorises it.
#define FIND(name, word)                                                       \
  static int64_t name(const word *w, int64_t n, word mask, word limit) {       \
    for (int64_t from = 0; from < n; from += BLOCK) {                          \
      int64_t to = n - from < BLOCK ? n : from + BLOCK;                        \
      word any = 0;                                                            \
      for (int64_t i = from; i < to; i++) {                                    \
        any |= (word)((w[i] & mask) >= limit);                                 \
      }                                                                        \
      for (int64_t i = from; any && i < to; i++) {                             \
        if ((w[i] & mask) >= limit) {                                          \
          return i;                                                            \
        }                                                                      \
      }                                                                        \
    }                                                                          \
    return -1;                                                                 \
  }

FIND(find64, uint64_t)
FIND(find32, uint32_t)
FIND(find16, uint16_t)
FIND(find8, uint8_t)

// is8 returns the index of the first word whose bits under mask are nan, or -1.
static int64_t is8(const uint8_t *w, int64_t n, uint8_t mask, uint8_t nan) {
  for (int64_t i = 0; i < n; i++) {
    if ((w[i] & mask) == nan) {
      return i;
    }
  }
  return -1;
}

int64_t pyh_first_nonfinite(const void *data, int type, int64_t n) {
  int64_t at;
  switch (type) {
  case T_F64:
    return find64(data, n, 0x7fffffffffffffff, 0x7ff0000000000000);
  case T_F32:
    return find32(data, n, 0x7fffffff, 0x7f800000);
  case T_F16:
    return find16(data, n, 0x7fff, 0x7c00);
  case T_BF16:
    return find16(data, n, 0x7fff, 0x7f80);
  case T_C64:
    at = find32(data, 2 * n, 0x7fffffff, 0x7f800000);
    return at < 0 ? at : at / 2;
  case T_C128:
    at = find64(data, 2 * n, 0x7fffffffffffffff, 0x7ff0000000000000);
    return at < 0 ? at : at / 2;
  case T_E5M2:
    return find8(data, n, 0x7f, 0x7c);
  case T_E4M3FN: // no infinity; one NaN of either sign
    return is8(data, n, 0x7f, 0x7f);
  case T_E4M3FNUZ: // no infinity, and NaN is what would be minus zero
  case T_E5M2FNUZ:
    return is8(data, n, 0xff, 0x80);
  }
  return -1;
}
