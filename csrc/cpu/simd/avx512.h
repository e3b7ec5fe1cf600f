// AVX-512 (F, DQ, BW, VL): sixteen float lanes, thirty-two registers.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace fastconv {
namespace avx512 {

struct Vec {
  static constexpr int N = 16;
  __m512 v;
};

static constexpr int REGISTERS = 32;
static constexpr int MAX_NV = 4;    // 6x64 tile: 24 accumulators, 4 weights, 1 broadcast
static constexpr int DENSE_NV = 8;  // panel of a dense layer of few rows, in vectors; see far_panel() in ops.h
static constexpr int ROWS[5] = {0, 14, 12, 8, 7};  // rows of a tile by its width in vectors
static constexpr int STEPS = 1;                    // of a tile at once

static inline __mmask16 mask_n(int n) { return (__mmask16)((1u << n) - 1u); }
static inline Vec zero() { return {_mm512_setzero_ps()}; }
static inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline Vec load_once(const float* p) { return load(p); }
// For the channels of groups of 4 or 8: a number of each group in all of its lanes, the first, then the next.
struct GroupLanes {
  __m512i at;
  explicit GroupLanes(int64_t group)
      : at(_mm512_and_si512(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                            _mm512_set1_epi32((int)-group))) {}
  Vec spread(Vec x) const { return {_mm512_permutexvar_ps(at, x.v)}; }
  void next() { at = _mm512_add_epi32(at, _mm512_set1_epi32(1)); }
};
static inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
static inline Vec load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(mask_n(n), p)}; }
static inline void store_n(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, mask_n(n), a.v); }
// Halves, for cpu/half_tile.h: eight numbers twice; the lower half of a beside the upper one of b; eight or n numbers
// at p and as many at q.
static inline Vec load_twice(const float* p) { return {_mm512_broadcast_f32x8(_mm256_loadu_ps(p))}; }
static inline Vec join_halves(Vec a, Vec b) { return {_mm512_mask_blend_ps(0xff00, a.v, b.v)}; }
static inline Vec load_halves_n(const float* p, const float* q, int n) {
  const __mmask16 low = mask_n(n), high = (__mmask16)(low << 8);
  return {_mm512_mask_loadu_ps(_mm512_maskz_loadu_ps(low, p), high, q - 8)};
}
static inline void store_halves(float* p, float* q, Vec a) {
  _mm256_storeu_ps(p, _mm512_castps512_ps256(a.v));
  _mm256_storeu_ps(q, _mm512_extractf32x8_ps(a.v, 1));
}
// Whole registers under a mask: g++ makes one vextractf32x8 of an extraction and a masked store, which faults on what
// the mask leaves out.
static inline void store_halves_n(float* p, float* q, Vec a, int n) {
  const __mmask16 low = mask_n(n), high = (__mmask16)(low << 8);
  _mm512_mask_storeu_ps(p, low, a.v);
  _mm512_mask_storeu_ps(q - 8, high, a.v);
}
static inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline Vec fma_onto(Vec x, Vec w, Vec acc) { return fma(x, w, acc); }
// acc + x * w[0..N) with w as the memory operand: compilers would load it once and spill an accumulator instead.
static inline Vec fma_at(Vec x, const float* w, Vec acc) {
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(acc.v) : "v"(x.v), "m"(*(const __m512_u*)w));
  return acc;
}
// min and max return b where either is NaN.
static inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
static inline Vec floor(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
static inline Vec abs(Vec a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
// where(x < y, a, b); false where either is NaN
static inline Vec if_less(Vec x, Vec y, Vec a, Vec b) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), b.v, a.v)};
}
// 2^n for integral n in [-126, 127]
static inline Vec pow2(Vec n) {
  __m512i k = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(k, 23))};
}
// a 2^n where it is a normal number, for n given as n + 1.5 2^23: the low bits of this sum are those of n
static inline Vec scale_by_pow2(Vec a, Vec n) {
  return {_mm512_scalef_ps(a.v, _mm512_sub_ps(n.v, _mm512_set1_ps(0x1.8p23f)))};
}
// x = mantissa * 2^exponent with mantissa in [1, 2), for positive normal x
static inline Vec exponent(Vec x) { return {_mm512_getexp_ps(x.v)}; }
static inline Vec mantissa(Vec x) { return {_mm512_getmant_ps(x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero)}; }
static inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
static inline float max_lane(Vec a) { return _mm512_reduce_max_ps(a.v); }
// r[i][j] becomes r[j][i]
static inline void transpose(Vec (&r)[16]) {
  __m512 t[16], u[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4)  // u[i + j]: column j of each 4x4 block of rows i .. i + 3
    for (int j = 0; j < 2; j++) {
      u[i + 2 * j] = _mm512_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      u[i + 2 * j + 1] = _mm512_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  for (int j = 0; j < 4; j++) {
    __m512 a = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88), b = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88);
    __m512 c = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd), d = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
    r[j].v = _mm512_shuffle_f32x4(a, b, 0x88);
    r[4 + j].v = _mm512_shuffle_f32x4(c, d, 0x88);
    r[8 + j].v = _mm512_shuffle_f32x4(a, b, 0xdd);
    r[12 + j].v = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
}

}  // namespace avx512
}  // namespace fastconv
