#include <string.h>

#include "cmem.h"

static const int sizes[T_END] = {0, 8, 4, 2, 2, 8, 4, 2, 1, 1, 2, 4, 8, 1, 8, 16, 1, 1, 1, 1};

static void *bytes(size_t n) {
  unsigned char *p = malloc(n);
  for (size_t i = 0; i < n; i++) {
    // Small exponents: what does not fit an integer is undefined in C.
    p[i] = (unsigned char)(i * 37 % 61);
  }
  return p;
}

// Copies of n elements, with src and dst n elements long, or twice that for steps of 2.
static void copy_row(int to, int type, int64_t n, int64_t step) {
  int64_t length = n == 0 ? 0 : (n - 1) * (step < 0 ? -step : step) + 1;
  char *src = bytes((size_t)(length * sizes[type])), *dst = bytes((size_t)(length * sizes[to]));
  char *first_src = step < 0 && n > 0 ? src + (length - 1) * sizes[type] : src;
  int rc = pyh_copy(dst, to, &(int64_t){step < 0 ? -step : step}, first_src, type, &step, 1, &n);
  CHECK(rc == (to == type || (to <= T_C128 && type <= T_C128) ? 0 : -1));
  free(src);
  free(dst);
}

static void copy_block(int to, int type) {
  const int64_t shape[] = {2, 3, 4}, across[] = {1, 2, 6}, along[] = {12, 4, 1};
  char *src = bytes(24 * (size_t)sizes[type]), *dst = bytes(24 * (size_t)sizes[to]);
  pyh_copy(dst, to, along, src, type, across, 3, shape);
  pyh_copy(dst, to, across, src, type, along, 3, shape);
  pyh_copy(dst, to, NULL, src, type, NULL, 0, NULL);
  free(src);
  free(dst);
}

void check_copy(void) {
  const int64_t counts[] = {0, 1, 7, 8, 9, 16, 31};
  for (int to = T_F64; to < T_END; to++) {
    for (int type = T_F64; type < T_END; type++) {
      for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        copy_row(to, type, counts[i], 1);
        copy_row(to, type, counts[i], 2);
        copy_row(to, type, counts[i], -3);
      }
      copy_block(to, type);
    }
  }
  for (int type = T_F64; type < T_END; type++) {
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
      size_t n = (size_t)counts[i] * (size_t)sizes[type];
      char *data = bytes(n), *other = bytes(n);
      int known = type <= T_BF16 || type == T_C64 || type == T_C128;
      CHECK(pyh_divide(data, type, counts[i], 3) == (known ? 0 : -1));
      CHECK(pyh_scale(other, data, type, counts[i], 1.0 / 3) == (known ? 0 : -1));
      CHECK(pyh_scale(data, data, type, counts[i], 2) == (known ? 0 : -1));
      free(data);
      free(other);
    }
  }
}
