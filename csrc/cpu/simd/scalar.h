// Portable level: four float lanes with the compiler's vector extension, so that every CPU has a correct path.
// No FMA is assumed: fma(a, b, c) rounds twice here.
#pragma once
#include <stdint.h>

namespace fastconv {
namespace scalar {

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));

struct Vec {
  static constexpr int N = 4;
  f32x4 v;
};

static constexpr int REGISTERS = 16;
static constexpr int MAX_NV = 2;    // widest weight panel, in vectors
static constexpr int DENSE_NV = 4;  // panel of a dense layer of few rows, in vectors; see far_panel() in ops.h
static constexpr int ROWS[5] = {0, 4, 4, 2, 2};  // rows of a tile by its width in vectors: 8 of 16 registers
static constexpr int STEPS = 1;                  // of a tile at once

static inline Vec zero() { return {f32x4{0, 0, 0, 0}}; }
static inline Vec set1(float x) { return {f32x4{x, x, x, x}}; }
static inline Vec load(const float* p) {
  Vec r;
  __builtin_memcpy(&r.v, p, 16);
  return r;
}
static inline Vec load_once(const float* p) { return load(p); }
struct GroupLanes {  // a vector holds one group of four (avx2.h)
  explicit GroupLanes(int64_t) {}
  Vec spread(Vec x) const { return x; }
  void next() {}
};
static inline void store(float* p, Vec a) { __builtin_memcpy(p, &a.v, 16); }
static inline Vec load_n(const float* p, int n) {
  Vec r = zero();
  for (int i = 0; i < n; i++) r.v[i] = p[i];
  return r;
}
static inline void store_n(float* p, Vec a, int n) {
  for (int i = 0; i < n; i++) p[i] = a.v[i];
}
static inline Vec add(Vec a, Vec b) { return {a.v + b.v}; }
static inline Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
static inline Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
static inline Vec div(Vec a, Vec b) { return {a.v / b.v}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
static inline Vec select_bits(i32x4 m, Vec a, Vec b) { return {(f32x4)((m & (i32x4)a.v) | (~m & (i32x4)b.v))}; }
static inline Vec fma_onto(Vec x, Vec w, Vec acc) { return fma(x, w, acc); }
// acc + x * w[0..N), w in memory
static inline Vec fma_at(Vec x, const float* w, Vec acc) { return fma(x, load(w), acc); }
// min and max return b where either is NaN, as the x86 instructions do.
static inline Vec min(Vec a, Vec b) { return select_bits(a.v < b.v, a, b); }
static inline Vec max(Vec a, Vec b) { return select_bits(a.v > b.v, a, b); }
static inline Vec sqrt(Vec a) {
  for (int i = 0; i < 4; i++) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
static inline Vec floor(Vec a) {
  for (int i = 0; i < 4; i++) a.v[i] = __builtin_floorf(a.v[i]);
  return a;
}
static inline Vec abs(Vec a) { return {(f32x4)((i32x4)a.v & 0x7fffffff)}; }
// where(x < y, a, b); false where either is NaN
static inline Vec if_less(Vec x, Vec y, Vec a, Vec b) { return select_bits(x.v < y.v, a, b); }
// 2^n for integral n in [-126, 127]
static inline Vec pow2(Vec n) {
  i32x4 k = __builtin_convertvector(n.v, i32x4);
  return {(f32x4)((k + 127) << 23)};
}
// a 2^n where it is a normal number, for n given as n + 1.5 2^23: the low bits of this sum are those of n
static inline Vec scale_by_pow2(Vec a, Vec n) { return {(f32x4)((u32x4)a.v + ((u32x4)n.v << 23))}; }
// x = mantissa * 2^exponent with mantissa in [1, 2), for positive normal x
static inline Vec exponent(Vec x) {
  i32x4 e = (((i32x4)x.v >> 23) & 255) - 127;
  return {__builtin_convertvector(e, f32x4)};
}
static inline Vec mantissa(Vec x) { return {(f32x4)(((i32x4)x.v & 0x7fffff) | 0x3f800000)}; }
static inline float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
static inline float max_lane(Vec a) {
  float m = a.v[0];
  for (int i = 1; i < 4; i++) m = a.v[i] > m ? a.v[i] : m;
  return m;
}
// r[i][j] becomes r[j][i]
static inline void transpose(Vec (&r)[4]) {
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < i; j++) {
      float t = r[i].v[j];
      r[i].v[j] = r[j].v[i];
      r[j].v[i] = t;
    }
}

}  // namespace scalar
}  // namespace fastconv
