// NEON of aarch64: four float lanes, thirty-two registers, FMA.
#pragma once
#include <arm_neon.h>
#include <stdint.h>

namespace fastconv {
namespace neon {

struct Vec {
  static constexpr int N = 4;
  float32x4_t v;
};

static constexpr int REGISTERS = 32;
static constexpr int MAX_NV = 4;    // 6x16 tile: 24 accumulators, 4 weights, 1 broadcast
static constexpr int DENSE_NV = 8;  // panel of a dense layer of few rows, in vectors; see far_panel() in ops.h
static constexpr int ROWS[5] = {0, 12, 12, 8, 6};  // rows of a tile by its width in vectors
static constexpr int STEPS = 1;                    // of a tile at once

static inline Vec zero() { return {vdupq_n_f32(0)}; }
static inline Vec set1(float x) { return {vdupq_n_f32(x)}; }
static inline Vec load(const float* p) { return {vld1q_f32(p)}; }
static inline Vec load_once(const float* p) { return load(p); }
struct GroupLanes {  // a vector holds one group of four (avx2.h)
  explicit GroupLanes(int64_t) {}
  Vec spread(Vec x) const { return x; }
  void next() {}
};
static inline void store(float* p, Vec a) { vst1q_f32(p, a.v); }
static inline Vec load_n(const float* p, int n) {
  if (n >= 4) return load(p);
  float32x4_t v = vdupq_n_f32(0);
  if (n > 0) v = vld1q_lane_f32(p, v, 0);
  if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
  if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
  return {v};
}
static inline void store_n(float* p, Vec a, int n) {
  if (n >= 4) return store(p, a);
  if (n > 0) vst1q_lane_f32(p, a.v, 0);
  if (n > 1) vst1q_lane_f32(p + 1, a.v, 1);
  if (n > 2) vst1q_lane_f32(p + 2, a.v, 2);
}
static inline Vec add(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
static inline Vec sub(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
static inline Vec mul(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
static inline Vec div(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
static inline Vec fma_onto(Vec x, Vec w, Vec acc) { return fma(x, w, acc); }
// acc + x * w[0..N), w in memory
static inline Vec fma_at(Vec x, const float* w, Vec acc) { return fma(x, load(w), acc); }
// min and max return b where either is NaN, as the x86 instructions do; fmin and fmax would return the NaN.
static inline Vec min(Vec a, Vec b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
static inline Vec max(Vec a, Vec b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
static inline Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
static inline Vec floor(Vec a) { return {vrndmq_f32(a.v)}; }
static inline Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
// where(x < y, a, b); false where either is NaN
static inline Vec if_less(Vec x, Vec y, Vec a, Vec b) { return {vbslq_f32(vcltq_f32(x.v, y.v), a.v, b.v)}; }
// 2^n for integral n in [-126, 127]
static inline Vec pow2(Vec n) {
  const int32x4_t k = vaddq_s32(vcvtq_s32_f32(n.v), vdupq_n_s32(127));
  return {vreinterpretq_f32_s32(vshlq_n_s32(k, 23))};
}
// a 2^n where it is a normal number, for n given as n + 1.5 2^23: the low bits of this sum are those of n
static inline Vec scale_by_pow2(Vec a, Vec n) {
  const uint32x4_t shifted = vshlq_n_u32(vreinterpretq_u32_f32(n.v), 23);
  return {vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a.v), shifted))};
}
// x = mantissa * 2^exponent with mantissa in [1, 2), for positive normal x
static inline Vec exponent(Vec x) {
  const uint32x4_t e = vandq_u32(vshrq_n_u32(vreinterpretq_u32_f32(x.v), 23), vdupq_n_u32(255));
  return {vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(e), vdupq_n_s32(127)))};
}
static inline Vec mantissa(Vec x) {
  const uint32x4_t m = vandq_u32(vreinterpretq_u32_f32(x.v), vdupq_n_u32(0x7fffff));
  return {vreinterpretq_f32_u32(vorrq_u32(m, vdupq_n_u32(0x3f800000)))};
}
static inline float sum(Vec a) { return vaddvq_f32(a.v); }
static inline float max_lane(Vec a) { return vmaxvq_f32(a.v); }
// r[i][j] becomes r[j][i]
static inline void transpose(Vec (&r)[4]) {
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0].v, r[1].v));
  const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(r[0].v, r[1].v));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2].v, r[3].v));
  const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(r[2].v, r[3].v));
  r[0].v = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  r[1].v = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  r[2].v = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  r[3].v = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

}  // namespace neon
}  // namespace fastconv
