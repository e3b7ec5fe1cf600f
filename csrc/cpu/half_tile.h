// The register tile of gemm.h where the last vector of columns has at most half of its lanes in use: two rows share it,
// so that 24 columns take one and a half vectors' FMAs instead of two, 40 two and a half.
//
// Lanes of the shared vector are the columns of the even row, then those of the odd one. Its weights are read into both
// halves; its factor is made of the two rows' broadcasts by a blend, which FMA units need not do. Each output is summed
// in the order of the whole tiles, by the same operations: the numbers are the same.
#pragma once
#include "cpu/gemm.h"
#include "cpu/table.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Most rows by width in vectors.
static constexpr int half_rows(int nv) { return GEOMETRY[(int)Isa::FASTCONV_ISA].half_rows[nv]; }

#ifndef FASTCONV_ISA_AVX512  // where eight lanes are a vector, 24 and 40 columns are whole ones

static_assert(half_rows(1) + half_rows(2) + half_rows(3) + half_rows(4) == 0, "table.h");
static inline TileFunction find_half_tile(int, int64_t) { return nullptr; }

#else

static_assert(half_rows(1) + half_rows(4) == 0, "table.h");
static_assert(STEPS == 1, "an iteration of this loop is one step");

template <int MR, int NV>
__attribute__((always_inline)) static inline void finish_half_tile(const Tile& t, const float* residual, float* y,
                                                                   Vec (&acc)[MR][NV - 1], Vec (&shared)[MR / 2]) {
  constexpr int V = Vec::N, W = NV - 1;
  if (residual) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; i += 2) {
      const float *r = residual + i * t.res_ld, *r1 = r + t.res_ld;
#pragma GCC unroll 4
      for (int j = 0; j < W; j++) {
        acc[i][j] = add(acc[i][j], load(r + j * V));
        acc[i + 1][j] = add(acc[i + 1][j], load(r1 + j * V));
      }
      shared[i / 2] = add(shared[i / 2], load_halves_n(r + W * V, r1 + W * V, t.tail));
    }
  }
  if (t.act->func == Func::clip) {
    const Vec lo = set1(t.act->alpha), hi = set1(t.act->beta);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
      for (int j = 0; j < W; j++) acc[i][j] = min(hi, max(lo, acc[i][j]));
      if (i % 2 == 0) shared[i / 2] = min(hi, max(lo, shared[i / 2]));
    }
  }
  const bool half = 2 * t.tail == V;  // masked stores take longer
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) {
    float* row = y + i * t.y_ld;
#pragma GCC unroll 4
    for (int j = 0; j < W; j++) store(row + j * V, acc[i][j]);
  }
  if (half) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; i += 2) store_halves(y + i * t.y_ld + W * V, y + (i + 1) * t.y_ld + W * V, shared[i / 2]);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < MR; i += 2) {
      store_halves_n(y + i * t.y_ld + W * V, y + (i + 1) * t.y_ld + W * V, shared[i / 2], t.tail);
    }
  }
}

// One tap, t.tail at most half a vector, sums from the bias.
template <int MR, int NV>
void half_tile(const Tile& t) {
  static_assert(MR % 2 == 0, "rows are pairs");
  constexpr int V = Vec::N, W = NV - 1;
  const char* next = fetch_from(t);
  const float* residual = t.residual;
  float* y = t.y;
  for (int64_t block = 0; block < t.count; block++) {
    Vec acc[MR][W], shared[MR / 2];
#pragma GCC unroll 4
    for (int j = 0; j < W; j++) {
      const Vec bias = t.bias ? load(t.bias + j * V) : zero();
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) acc[i][j] = bias;
    }
    const Vec bias = t.bias ? load_halves_n(t.bias + W * V, t.bias + W * V, t.tail) : zero();
#pragma GCC unroll 16
    for (int i = 0; i < MR / 2; i++) shared[i] = bias;
    const float* p[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) p[i] = t.a[i] + block * t.a_step;
    const float* w = t.w;
    for (int64_t c = 0; c < t.len; c++, w += t.w_ld) {
      Vec held[W];
#pragma GCC unroll 4
      for (int j = 0; j < W; j++) held[j] = load(w + j * V);
      const Vec twice = load_twice(w + W * V);
      fetch_ahead<NV>(t, next);
      next += t.next_step;
#pragma GCC unroll 16
      for (int i = 0; i < MR; i += 2) {
        const Vec x = set1(p[i][c]), x1 = set1(p[i + 1][c]);
#pragma GCC unroll 4
        for (int j = 0; j < W; j++) {
          acc[i][j] = fma(x, held[j], acc[i][j]);
          acc[i + 1][j] = fma(x1, held[j], acc[i + 1][j]);
        }
        shared[i / 2] = fma(join_halves(x, x1), twice, shared[i / 2]);
      }
    }
    finish_half_tile<MR, NV>(t, residual, y, acc, shared);
    if (residual) residual += MR * t.res_ld;
    y += MR * t.y_ld;
  }
}

template <int NV, int MR = half_rows(NV)>
static inline TileFunction half_tile_of_rows(int64_t rows) {
  if constexpr (MR == 0) {
    return nullptr;
  } else {
    return rows == MR ? half_tile<MR, NV> : half_tile_of_rows<NV, MR - 2>(rows);
  }
}

static inline TileFunction find_half_tile(int nv, int64_t rows) {
  return nv == 2 ? half_tile_of_rows<2>(rows) : half_tile_of_rows<3>(rows);
}

#endif

}  // namespace FASTCONV_ISA
}  // namespace fastconv
