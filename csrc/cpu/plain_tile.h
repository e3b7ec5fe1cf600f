// Tiles without what most calls do not need, where an iteration of tile() has several steps (AVX2). tile() asks
// more at each block and each tap, and keeps it in memory.
#pragma once
#include "cpu/tile.h"

namespace fastconv {
namespace FASTCONV_ISA {

constexpr int RGB = 3;  // numbers of a pixel

// Each accumulator by a load of its own: g++ moves about in the loop those that start as copies of one.
template <int MR, int NV>
__attribute__((always_inline)) static inline void load_bias(const float* bias, Vec (&acc)[MR][NV]) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
    for (int j = 0; j < NV; j++) acc[i][j] = load_once(bias + j * Vec::N);
  }
}

// A tile of one tap, of whole vectors and STEPS, with sums from the bias: what 1x1 layers and Winograd's products
// mostly are. 19 cycles a block beside its FMAs; tile() takes 37. FETCHES_ROWS: two of three lines of the next block's
// rows, those behind the last block included (all of them: as fast, for an instruction more).
template <int MR, int NV, bool FETCHES_ROWS>
__attribute__((noinline)) void plain_tile(const Tile& t) {
  constexpr int V = Vec::N;
  static const float ZEROS[NV * V] = {};
  const float *bias = t.bias ? t.bias : ZEROS, *residual = t.residual;
  const float* panel = t.w + (t.taps ? t.taps[0] : 0) * t.len * NV * V;
  const char *next = fetch_from(t), *rows = (const char*)(t.a[0] + t.a_step);
  float* y = t.y;
  int64_t from = 0;  // where the block begins behind its pointers
  for (int64_t block = 0; block < t.count; block++) {
    Vec acc[MR][NV];
    load_bias(bias, acc);
    if (t.cold) fetch_block<MR, NV>(t, residual, y);
    const float* p[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) p[i] = t.a[block * t.a_next + i];
    const float* w = panel;
    for (int64_t c = from; c < from + t.len; c += STEPS, w += STEPS * NV * V, next += t.next_step) {
      if (FETCHES_ROWS) {
        prefetch_l2(next);
        prefetch_l2(rows);
        rows += 4 * MR * STEPS;
      } else {
        fetch_ahead<NV>(t, next);
      }
#pragma GCC unroll 8
      for (int u = 0; u < STEPS; u++) add_element(p, c + u, w + u * NV * V, acc);
    }
    finish_tile<MR, NV>(t, true, residual, y, acc);
    if (residual) residual += MR * t.res_ld;
    y += MR * t.y_ld;
    from += t.a_step;
  }
}

// A tile of filter rows of RGB pixels (t.runs): stems, in whole vectors, with sums from the bias, no residual and y not
// fetched. The weights of a filter row lie behind those of the one before.
template <int MR, int NV>
__attribute__((noinline)) void run_tile(const Tile& t) {
  constexpr int V = Vec::N;
  static const float ZEROS[NV * V] = {};
  const float* bias = t.bias ? t.bias : ZEROS;
  const char* next = fetch_from(t);
  float* y = t.y;
  for (int64_t block = 0; block < t.count; block++, y += MR * t.y_ld) {
    Vec acc[MR][NV];
    load_bias(bias, acc);
    const float* p[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) p[i] = t.a[block * t.a_next + i];
    const float* w = t.w;
    int64_t row = 0;
    for (int64_t k = 0; k < t.n_taps; k++, row += t.run, next += t.next_step * iterations(t.len)) {
      const char* from = next;  // whoever paced the fetches counts iterations(), which may be a few less
      for (int64_t c = row; c < row + t.len; c += RGB, w += RGB * NV * V, from += t.next_step) {
        fetch_ahead<NV>(t, from);
#pragma GCC unroll 3
        for (int u = 0; u < RGB; u++) add_element(p, c + u, w + u * NV * V, acc);
      }
    }
    finish_tile<MR, NV>(t, true, nullptr, y, acc);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
