// The register tile of gemm.h for shallow products, on AVX-512: its right columns run half a depth behind its left
// ones.
//
// A tile of 24 sums that ends stores 24 vectors at once, which holds the FMA units up for about as many cycles: 5%
// where 64 channels come in. Here the left half's stores leave in the shade of the right half's products, and the other
// way round. Each step broadcasts every row twice, 16 loads for 24 FMAs. Each output is summed in the same order by the
// same operations as in a whole tile: the numbers are the same.
#pragma once
#include "cpu/gemm.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Depths beyond which a tile's end does not count, and bytes of x beyond which it comes from memory: whole tiles, which
// have more loads of it under way, wait less.
static constexpr int64_t LAGGING_DEPTH = 256, LAGGING_BYTES = 4 << 20;

// Rows of a lagging tile by its width in vectors; 0: there is none.
static constexpr int lagging_rows([[maybe_unused]] int nv) {
#ifdef FASTCONV_ISA_AVX512
  return nv == 4 ? 6 : nv == 3 ? 8 : 0;
#else
  return 0;
#endif
}

#ifndef FASTCONV_ISA_AVX512

static inline TileFunction find_lagging_tile(int, int64_t) { return nullptr; }

#else

static_assert(STEPS == 1, "an iteration of these loops is one step");

// Columns of a step: N vectors of weights at w, element c of each row.
template <int MR, int N>
__attribute__((always_inline)) static inline void add_products(const float* const (&p)[MR], int64_t c, const float* w,
                                                               Vec (&acc)[MR][N]) {
  Vec held[N];
#pragma GCC unroll 4
  for (int j = 0; j < N; j++) held[j] = load(w + j * Vec::N);
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) {
    const Vec x = set1(p[i][c]);
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) acc[i][j] = fma(x, held[j], acc[i][j]);
  }
}

template <int MR, int N>
__attribute__((always_inline)) static inline void start_from_bias(const float* bias, Vec (&acc)[MR][N]) {
#pragma GCC unroll 4
  for (int j = 0; j < N; j++) {
    const Vec b = bias ? load(bias + j * Vec::N) : zero();
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) acc[i][j] = b;
  }
}

// An activation in place, of whole vectors: finish_tile() would also hold what is never asked for here.
template <int MR, int N>
__attribute__((always_inline)) static inline void finish_columns(const Tile& t, Vec lo, Vec hi, const float* residual,
                                                                 float* y, Vec (&acc)[MR][N]) {
  if (residual) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) acc[i][j] = add(acc[i][j], load(residual + i * t.res_ld + j * Vec::N));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) store(y + i * t.y_ld + j * Vec::N, min(hi, max(lo, acc[i][j])));
  }
}

// One tap, whole vectors, sums from the bias, clips(act). (Functions: not measured since they follow behind.) One loop
// computes both halves of the depth, so that the CPU's prefetchers see whole rows.
template <int MR, int NV>
void lagging_tile(const Tile& t) {
  constexpr int V = Vec::N, L = (NV + 1) / 2, R = NV - L;
  const int64_t first = t.len / 2, rest = t.len - first;  // of the depth; the right columns do `rest` first
  const bool clip = t.act->func == Func::clip;
  const Vec lo = set1(clip ? t.act->alpha : -__builtin_inff()), hi = set1(clip ? t.act->beta : __builtin_inff());
  const float *left_bias = t.bias, *right_bias = t.bias ? t.bias + L * V : nullptr;
  const float *p[MR], *residual = t.residual;
  float* y = t.y;
  const char* next = fetch_from(t);
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) p[i] = t.a[i];
  Vec left[MR][L], right[MR][R];
  start_from_bias(left_bias, left);
  start_from_bias(right_bias, right);
  const float *lw = t.w, *rw = t.w + L * V;
  int64_t l = 0, r = 0, from = 0;  // elements of the rows that are next; where the left's block begins
  for (; l < first; l++, lw += t.w_ld, next += t.next_step) {
    fetch_ahead<NV>(t, next);
    add_products(p, l, lw, left);
  }
  for (int64_t halves = 2 * t.count - 1; halves > 0; halves--) {
    const bool left_ends = halves % 2 != 0;
    for (const int64_t end = l + (left_ends ? rest : first); l < end;
         l++, r++, lw += t.w_ld, rw += t.w_ld, next += t.next_step) {
      fetch_ahead<NV>(t, next);
      add_products(p, l, lw, left);
      add_products(p, r, rw, right);
    }
    if (left_ends) {
      finish_columns<MR, L>(t, lo, hi, residual, y, left);
      start_from_bias(left_bias, left);
      from += t.a_step;
      l = from, lw = t.w;
    } else {
      finish_columns<MR, R>(t, lo, hi, residual ? residual + L * V : nullptr, y + L * V, right);
      start_from_bias(right_bias, right);
      r = l - first, rw = t.w + L * V;
      if (residual) residual += MR * t.res_ld;
      y += MR * t.y_ld;
    }
  }
  for (int64_t i = 0; i < first; i++, r++, rw += t.w_ld) add_products(p, r, rw, right);
  finish_columns<MR, R>(t, lo, hi, residual ? residual + L * V : nullptr, y + L * V, right);
}

// Null for other numbers of rows than lagging_rows(): blocks of one row less are few.
static inline TileFunction find_lagging_tile(int nv, int64_t rows) {
  if (rows != lagging_rows(nv)) return nullptr;
  return nv == 4 ? lagging_tile<lagging_rows(4), 4> : lagging_tile<lagging_rows(3), 3>;
}

#endif

}  // namespace FASTCONV_ISA
}  // namespace fastconv
