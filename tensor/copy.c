// Element-wise copies between dtypes, with torch's conversion rules
// (c10/util/TypeCast.h): C casts, by way of float for the half types, the real
// part of a complex number, and "not zero" for bool.

#include "copy.h"

#include <complex.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

typedef struct { uint16_t bits; } half;
typedef struct { uint16_t bits; } bfloat;

static inline float as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t as_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

// IEEE 754 binary16 to binary32, exact. Multiplying by 2^112 rescales the
// exponent of normal and subnormal numbers alike. NaN becomes quiet, as by F16C.
static inline float from_half(half h) {
  uint32_t sign = (uint32_t)(h.bits & 0x8000) << 16;
  uint32_t rest = (uint32_t)(h.bits & 0x7fff) << 13;
  uint32_t special = rest >= (0x7c00u << 13);
  rest |= rest > (0x7c00u << 13) ? 0x400000 : 0;
  float scaled = as_float(rest) * as_float(0x77800000); // 2^112
  uint32_t bits = special ? (rest | 0x7f800000) : as_bits(scaled);
  return as_float(sign | bits);
}

// binary32 to binary16, to nearest, ties to even; NaN becomes quiet, as by F16C.
static inline half to_half(float f) {
  uint32_t bits = as_bits(f), sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  // Subnormal results: adding 0.5 aligns the mantissa and rounds.
  uint32_t small = as_bits(as_float(bits) + 0.5f) - 0x3f000000;
  uint32_t normal = (bits + 0xc8000fff + ((bits >> 13) & 1)) >> 13;
  uint32_t out = bits < 0x38800000 ? small : normal;
  out = bits >= 0x47800000 ? 0x7c00 : out;
  out = bits > 0x7f800000 ? (0x7e00 | (bits >> 13 & 0x3ff)) : out;
  return (half){(uint16_t)(sign | out)};
}

static inline float from_bfloat(bfloat b) { return as_float((uint32_t)b.bits << 16); }

static inline bfloat to_bfloat(float f) {
  uint32_t bits = as_bits(f);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (bfloat){(uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded)};
}

#define SAME(x) (x)
#define TRUTH(x) ((x) != 0)
// X(number, C type, to a number that C converts from). Bool is read as bytes:
// the memory may hold others than 0 and 1.
#define SOURCES(X)                                                             \
  X(T_F64, double, SAME) X(T_F32, float, SAME) X(T_F16, half, from_half)       \
  X(T_BF16, bfloat, from_bfloat) X(T_I64, int64_t, SAME)                       \
  X(T_I32, int32_t, SAME) X(T_I16, int16_t, SAME) X(T_I8, int8_t, SAME)        \
  X(T_U8, uint8_t, SAME) X(T_U16, uint16_t, SAME) X(T_U32, uint32_t, SAME)     \
  X(T_U64, uint64_t, SAME) X(T_BOOL, uint8_t, TRUTH)

// The unit-stride case has a loop of its own, which the compiler vectorises.
#define LOOP(S, D, EXPR)                                                       \
  if (ss == sizeof(S) && ds == sizeof(D)) {                                    \
    const S *restrict s = (const S *)src;                                      \
    D *restrict d = (D *)dst;                                                  \
    for (int64_t i = 0; i < n; i++) { S v = s[i]; d[i] = EXPR; }               \
  } else {                                                                     \
    for (int64_t i = 0; i < n; i++) {                                          \
      S v = *(const S *)(src + i * ss);                                        \
      *(D *)(dst + i * ds) = EXPR;                                             \
    }                                                                          \
  }

#define INTO(D, NAME, STORE, REALPART)                                         \
  static void NAME(int from, char *dst, int64_t ds, const char *src,           \
                   int64_t ss, int64_t n) {                                    \
    switch (from) {                                                            \
      SOURCES(STORE)                                                           \
      REALPART(T_C64, float complex, crealf)                                   \
      REALPART(T_C128, double complex, creal)                                  \
    }                                                                          \
  }

#define CASE(D, ID, S, EXPR) case ID: { LOOP(S, D, EXPR) } break;
#define TO_F64(ID, S, L) CASE(double, ID, S, (double)(L(v)))
#define TO_F32(ID, S, L) CASE(float, ID, S, (float)(L(v)))
#define TO_F16(ID, S, L) CASE(half, ID, S, to_half((float)(L(v))))
#define TO_BF16(ID, S, L) CASE(bfloat, ID, S, to_bfloat((float)(L(v))))
#define TO_I64(ID, S, L) CASE(int64_t, ID, S, (int64_t)(L(v)))
#define TO_I32(ID, S, L) CASE(int32_t, ID, S, (int32_t)(L(v)))
#define TO_I16(ID, S, L) CASE(int16_t, ID, S, (int16_t)(int64_t)(L(v)))
#define TO_I8(ID, S, L) CASE(int8_t, ID, S, (int8_t)(int64_t)(L(v)))
#define TO_U8(ID, S, L) CASE(uint8_t, ID, S, (uint8_t)(int64_t)(L(v)))
#define TO_U16(ID, S, L) CASE(uint16_t, ID, S, (uint16_t)(int64_t)(L(v)))
#define TO_U32(ID, S, L) CASE(uint32_t, ID, S, (uint32_t)(int64_t)(L(v)))
#define TO_U64(ID, S, L) CASE(uint64_t, ID, S, (uint64_t)(L(v)))
#define TO_BOOL(ID, S, L) CASE(_Bool, ID, S, (L(v)) != 0)
#define TO_C64(ID, S, L) CASE(float complex, ID, S, (float complex)(L(v)))
#define TO_C128(ID, S, L) CASE(double complex, ID, S, (double complex)(L(v)))

INTO(double, into_f64, TO_F64, TO_F64)
INTO(float, into_f32, TO_F32, TO_F32)
INTO(half, into_f16, TO_F16, TO_F16)
INTO(bfloat, into_bf16, TO_BF16, TO_BF16)
INTO(int64_t, into_i64, TO_I64, TO_I64)
INTO(int32_t, into_i32, TO_I32, TO_I32)
INTO(int16_t, into_i16, TO_I16, TO_I16)
INTO(int8_t, into_i8, TO_I8, TO_I8)
INTO(uint8_t, into_u8, TO_U8, TO_U8)
INTO(uint16_t, into_u16, TO_U16, TO_U16)
INTO(uint32_t, into_u32, TO_U32, TO_U32)
INTO(uint64_t, into_u64, TO_U64, TO_U64)
#define BOOL_C(ID, S, L) CASE(_Bool, ID, S, v != 0)
INTO(_Bool, into_bool, TO_BOOL, BOOL_C)
#define C64_C(ID, S, L) CASE(float complex, ID, S, (float complex)v)
INTO(float complex, into_c64, TO_C64, C64_C)
#define C128_C(ID, S, L) CASE(double complex, ID, S, (double complex)v)
INTO(double complex, into_c128, TO_C128, C128_C)

typedef void (*into)(int, char *, int64_t, const char *, int64_t, int64_t);
static const into stores[T_END] = {
    [T_F64] = into_f64,   [T_F32] = into_f32, [T_F16] = into_f16,
    [T_BF16] = into_bf16, [T_I64] = into_i64, [T_I32] = into_i32,
    [T_I16] = into_i16,   [T_I8] = into_i8,   [T_U8] = into_u8,
    [T_U16] = into_u16,   [T_U32] = into_u32, [T_U64] = into_u64,
    [T_BOOL] = into_bool, [T_C64] = into_c64, [T_C128] = into_c128};

#define SIZE(id, name, size, code) size,
static const int sizes[T_END] = {0, PYH_DTYPES(SIZE)};

#define PAST_CACHE (1 << 20) // bytes from which on a copy bypasses the cache

// move is memmove. A large copy bypasses the cache, which keeps its contents, and the processor
// does not read the destination first: a third less traffic.
static void move(void *dst, const void *src, size_t n) {
#ifdef __x86_64__
  uintptr_t d = (uintptr_t)dst, s = (uintptr_t)src;
  if (n >= PAST_CACHE && (d + n <= s || s + n <= d)) {
    char *to = dst;
    const char *from = src;
    size_t head = -d & 15;
    memcpy(to, from, head);
    size_t i = head;
    for (; i + 64 <= n; i += 64) {
      __m128i a = _mm_loadu_si128((const __m128i *)(from + i));
      __m128i b = _mm_loadu_si128((const __m128i *)(from + i + 16));
      __m128i c = _mm_loadu_si128((const __m128i *)(from + i + 32));
      __m128i e = _mm_loadu_si128((const __m128i *)(from + i + 48));
      _mm_stream_si128((__m128i *)(to + i), a);
      _mm_stream_si128((__m128i *)(to + i + 16), b);
      _mm_stream_si128((__m128i *)(to + i + 32), c);
      _mm_stream_si128((__m128i *)(to + i + 48), e);
    }
    _mm_sfence();
    memcpy(to + i, from + i, n - i);
    return;
  }
#endif
  memmove(dst, src, n);
}

static void same_type(char *dst, int64_t ds, const char *src, int64_t ss, int64_t n, int size) {
  if (ds == size && ss == size) {
    move(dst, src, (size_t)(n * size));
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    memcpy(dst + i * ds, src + i * ss, (size_t)size);
  }
}

// The conversions of fp16 compression by the processor's instructions, where it has them: three
// times as fast as the compiled code above.
#ifdef __x86_64__
__attribute__((target("avx,f16c")))
static void f16c_into_f32(float *d, const half *s, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(d + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(s + i))));
  }
  for (; i < n; i++) {
    d[i] = from_half(s[i]);
  }
}

__attribute__((target("avx,f16c")))
static void f16c_into_f16(half *d, const float *s, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm_storeu_si128((__m128i *)(d + i), _mm256_cvtps_ph(_mm256_loadu_ps(s + i), _MM_FROUND_TO_NEAREST_INT));
  }
  for (; i < n; i++) {
    d[i] = to_half(s[i]);
  }
}

static int by_f16c(void *dst, int dst_type, const void *src, int src_type, int64_t n) {
  if (!__builtin_cpu_supports("avx") || !__builtin_cpu_supports("f16c")) {
    return 0;
  }
  if (dst_type == T_F32 && src_type == T_F16) {
    f16c_into_f32(dst, src, n);
    return 1;
  }
  if (dst_type == T_F16 && src_type == T_F32) {
    f16c_into_f16(dst, src, n);
    return 1;
  }
  return 0;
}
#else
static int by_f16c(void *dst, int dst_type, const void *src, int src_type, int64_t n) { return 0; }
#endif

static void convert(void *dst, int dst_type, const void *src, int src_type, int64_t n) {
  if (!by_f16c(dst, dst_type, src, src_type, n)) {
    stores[dst_type](src_type, dst, sizes[dst_type], src, sizes[src_type], n);
  }
}

// halves divides or multiplies in float, a row at a time: converting rows is five times as fast as
// converting numbers. dst may be src.
static void halves(half *dst, const half *src, int64_t n, float f, int divide) {
  float row[512];
  for (int64_t m; n > 0; n -= m, dst += m, src += m) {
    m = n < 512 ? n : 512;
    convert(row, T_F32, src, T_F16, m);
    for (int64_t i = 0; i < m; i++) {
      row[i] = divide ? row[i] / f : row[i] * f;
    }
    convert(dst, T_F16, row, T_F32, m);
  }
}

int pyh_copy(void *dst, int dst_type, const int64_t *dst_strides, const void *src,
             int src_type, const int64_t *src_strides, int ndim, const int64_t *shape) {
  if (dst_type != src_type && (dst_type > T_C128 || src_type > T_C128)) {
    return -1; // 8-bit floats are carried, not converted
  }
  int dsize = sizes[dst_type], ssize = sizes[src_type];
  if (ndim > 1) {
    for (int64_t i = 0; i < shape[0]; i++) {
      pyh_copy((char *)dst + i * dst_strides[0] * dsize, dst_type, dst_strides + 1,
               (const char *)src + i * src_strides[0] * ssize, src_type,
               src_strides + 1, ndim - 1, shape + 1);
    }
    return 0;
  }
  int64_t n = ndim == 0 ? 1 : shape[0];
  int64_t ds = ndim == 0 ? dsize : dst_strides[0] * dsize;
  int64_t ss = ndim == 0 ? ssize : src_strides[0] * ssize;
  if (dst_type == src_type) {
    same_type(dst, ds, src, ss, n, dsize);
  } else if (ds != dsize || ss != ssize) {
    stores[dst_type](src_type, dst, ds, src, ss, n);
  } else {
    convert(dst, dst_type, src, src_type, n);
  }
  return 0;
}

// Complex numbers times (factor, 0). The products with the 0 decide zeros' signs, make NaN of
// infinities and carry NaN, as torch's do.
#define PRODUCTS(T, factor)                                                    \
  {                                                                            \
    T *d = dst, r = (T)(factor);                                               \
    const T *p = src;                                                          \
    for (int64_t i = 0; i < 2 * n; i += 2) {                                   \
      T a = p[i], b = p[i + 1];                                                \
      d[i] = a * r - b * 0;                                                    \
      d[i + 1] = a * 0 + b * r;                                                \
    }                                                                          \
  }
#define QUOTIENTS(T, reciprocal)                                               \
  {                                                                            \
    T *p = data, r = (T)(reciprocal);                                          \
    for (int64_t i = 0; i < 2 * n; i += 2) {                                   \
      T a = p[i], b = p[i + 1];                                                \
      p[i] = (a + b * 0) * r;                                                  \
      p[i + 1] = (b - a * 0) * r;                                              \
    }                                                                          \
  }

// In place, contiguous: tensor.div_(divisor) bit for bit; complex numbers as in torch 2, which
// divides by (divisor, 0) by a multiplication (c10/util/complex.h).
int pyh_divide(void *data, int type, int64_t n, double divisor) {
  float f = (float)divisor;
  switch (type) {
  case T_F64: { double *p = data; for (int64_t i = 0; i < n; i++) p[i] /= divisor; } return 0;
  case T_F32: { float *p = data; for (int64_t i = 0; i < n; i++) p[i] /= f; } return 0;
  case T_F16: halves(data, data, n, f, 1); return 0;
  case T_BF16: { bfloat *p = data; for (int64_t i = 0; i < n; i++) p[i] = to_bfloat(from_bfloat(p[i]) / f); } return 0;
  case T_C64: QUOTIENTS(float, 1 / f) return 0;
  case T_C128: QUOTIENTS(double, 1 / divisor) return 0;
  }
  return -1;
}

// Contiguous, of one dtype; dst may be src: torch.mul(src, factor, out=dst) with a Python number,
// bit for bit.
int pyh_scale(void *dst, const void *src, int type, int64_t n, double factor) {
  float f = (float)factor;
  switch (type) {
  case T_F64: { double *d = dst; const double *p = src; for (int64_t i = 0; i < n; i++) d[i] = p[i] * factor; } return 0;
  case T_F32: { float *d = dst; const float *p = src; for (int64_t i = 0; i < n; i++) d[i] = p[i] * f; } return 0;
  case T_F16: halves(dst, src, n, f, 0); return 0;
  case T_BF16: { bfloat *d = dst; const bfloat *p = src; for (int64_t i = 0; i < n; i++) d[i] = to_bfloat(from_bfloat(p[i]) * f); } return 0;
  case T_C64: PRODUCTS(float, f) return 0;
  case T_C128: PRODUCTS(double, factor) return 0;
  }
  return -1;
}
