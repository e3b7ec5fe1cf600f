// AVX2 with FMA: eight float lanes, sixteen registers.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace fastconv {
namespace avx2 {

struct Vec {
  static constexpr int N = 8;
  __m256 v;
};

static constexpr int REGISTERS = 16;
static constexpr int MAX_NV = 2;    // 6x16 tile: 12 accumulators, 2 weights, 2 broadcasts
static constexpr int DENSE_NV = 8;  // panel of a dense layer of few rows, in vectors; see far_panel() in ops.h
static constexpr int ROWS[5] = {0, 12, 6, 0, 0};  // rows of a tile by its width in vectors
static constexpr int STEPS = 4;                   // of a tile at once

static inline __m256i mask_n(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline Vec zero() { return {_mm256_setzero_ps()}; }
static inline Vec set1(float x) { return {_mm256_set1_ps(x)}; }
static inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
static inline Vec load_n(const float* p, int n) { return {_mm256_maskload_ps(p, mask_n(n))}; }
static inline void store_n(float* p, Vec a, int n) { _mm256_maskstore_ps(p, mask_n(n), a.v); }
static inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// acc + x * w in the register of acc: compilers would move accumulators about in unrolled loops.
static inline Vec fma_onto(Vec x, Vec w, Vec acc) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc.v) : "x"(x.v), "x"(w.v));
  return acc;
}
// acc + x * w[0..N) with w as the memory operand: compilers would load it once and spill an accumulator instead.
static inline Vec fma_at(Vec x, const float* w, Vec acc) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc.v) : "x"(x.v), "m"(*(const __m256_u*)w));
  return acc;
}
// For several uses: compilers would make w a memory operand of each of them.
static inline Vec load_once(const float* w) {
  Vec a = load(w);
  __asm__("" : "+x"(a.v));
  return a;
}
// For the channels of two groups of four: a number of each group in all of its lanes, the first, then the next.
struct GroupLanes {
  __m256i at = _mm256_setzero_si256();
  explicit GroupLanes(int64_t) {}
  Vec spread(Vec x) const { return {_mm256_permutevar_ps(x.v, at)}; }
  void next() { at = _mm256_add_epi32(at, _mm256_set1_epi32(1)); }
};
// min and max return b where either is NaN.
static inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
static inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
static inline Vec floor(Vec a) { return {_mm256_floor_ps(a.v)}; }
static inline Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
// where(x < y, a, b); false where either is NaN
static inline Vec if_less(Vec x, Vec y, Vec a, Vec b) {
  return {_mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(x.v, y.v, _CMP_LT_OQ))};
}
// 2^n for integral n in [-126, 127]
static inline Vec pow2(Vec n) {
  __m256i k = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(k, 23))};
}
// a 2^n where it is a normal number, for n given as n + 1.5 2^23: the low bits of this sum are those of n
static inline Vec scale_by_pow2(Vec a, Vec n) {
  const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(n.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), shifted))};
}
// x = mantissa * 2^exponent with mantissa in [1, 2), for positive normal x
static inline Vec exponent(Vec x) {
  __m256i e = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(x.v), 23), _mm256_set1_epi32(255));
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(e, _mm256_set1_epi32(127)))};
}
static inline Vec mantissa(Vec x) {
  __m256i m = _mm256_and_si256(_mm256_castps_si256(x.v), _mm256_set1_epi32(0x7fffff));
  return {_mm256_castsi256_ps(_mm256_or_si256(m, _mm256_set1_epi32(0x3f800000)))};
}
static inline float sum(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float max_lane(Vec a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
// r[i][j] becomes r[j][i]
static inline void transpose(Vec (&r)[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    r[i].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    r[i + 4].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

}  // namespace avx2
}  // namespace fastconv
