// What the register tiles behind convolution and dense layers share. A tile is MR rows by NV vectors of columns:
//
//   y[i, :] = act(bias + sum over taps t and c of a[t][i][c] * w[t][c][:] + residual[i, :])
//
// Rows are pointers (one per tap, so that padding and strides cost nothing in the loop), weights are one panel of NV
// vectors, rows of w_ld floats. Each step reads NV vectors (some straight from memory, where registers are short),
// broadcasts MR scalars and issues MR * NV FMAs; 24 or more accumulators cover two FMA ports times four cycles of
// latency three times over. Where a step has few FMAs several make one iteration: counters and prefetches take issue
// slots, of which another thread on the same core leaves half. A call goes through `count` blocks of MR rows, each as
// far behind the one before or with pointers of its own: between two calls the FMA units stand still for longer.
#pragma once
#include "cpu/kernels.h"

namespace fastconv {
namespace FASTCONV_ISA {

constexpr int64_t PAGE = 4096;  // bytes

struct Tile {
  const float* const* a;  // live taps x rows
  bool runs = false;      // `a` holds the first tap's rows alone, each other tap lies `run` floats behind; no a_step
  int64_t run = 0;
  int64_t count;        // blocks of rows
  int64_t a_step = 0;   // each lies so many floats behind the one before,
  int64_t a_next = 0;   // or has its own pointers, of one tap, so many behind in `a` (half and lagging tiles ignore it)
  const int32_t* taps;  // which tap of the weights each row of `a` belongs to; null: 0, 1, 2 ...
  int64_t n_taps, len;  // len: elements per tap
  const float* w;
  int64_t w_ld;
  const float* bias;   // of the first column, or null
  const float* start;  // sums of the depth before this one instead, or null
  int64_t start_ld;
  const float* residual;  // of the first row and column, or null
  int64_t res_ld;
  float* y;
  int64_t y_ld;
  bool cold;                  // y and residual are not in L2; fetch them
  int tail;                   // lanes in use in the last vector
  const Activation* act;      // clips(act), see follower.h; few rows of a dense layer take any function
  const char* next;           // what to prefetch into L2 meanwhile
  int64_t next_step;          // bytes an iteration, see fetch_step(); 0 for nothing
  bool fetches_rows = false;  // rows without gaps, a block's behind one another: the next one's come into L2
};

// Of so many elements of a tap: STEPS at a time and the rest.
static inline int64_t iterations(int64_t len) { return (len + STEPS - 1) / STEPS; }

// Lines that an iteration can fetch: half of the weights that it reads.
static constexpr int fetched_lines(int nv) { return STEPS * nv * Vec::N > 32 ? 2 : 1; }
static inline int64_t fetch_step(int nv, int64_t bytes, int64_t count) {
  return min_i(64 * fetched_lines(nv), (bytes + count - 1) / count);
}

// The next weights arrive while this panel computes: without it 7x7 layers wait for memory. Inlined at once, for g++
// drops calls that have no effect that it knows.
__attribute__((always_inline)) static inline void prefetch_l2(const char* p) { __builtin_prefetch(p, 0, 2); }

// What an iteration fetches. A line that is asked for again while it is on its way costs as much as another one: where
// one line is enough, or none, the tile's own description stands in, which is in L1. (The weights just read would, too,
// but a second stream of prefetches takes the CPU's own prefetchers from x and y; docs/performance.md.)
static inline const char* fetch_from(const Tile& t) { return t.next_step ? t.next : (const char*)&t; }
template <int NV>
__attribute__((always_inline)) static inline void fetch_ahead(const Tile& t, const char* next) {
  prefetch_l2(next);
  if (fetched_lines(NV) == 2) prefetch_l2(t.next_step > 64 ? next + 64 : (const char*)&t);
}

// One line of each page of `bytes` from p on, ahead of the others: lines that wait until their page is found hold the
// loop up (4 to 7 ns a page, 1 for a single line; docs/performance.md). First one page of each eight: so many have
// their entries in one line of the page table, and these lines come side by side.
__attribute__((always_inline)) static inline void prefetch_pages(const char* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 8 * PAGE) prefetch_l2(p + i);
  for (int64_t i = 0; i < bytes; i += PAGE) {
    if (i % (8 * PAGE)) prefetch_l2(p + i);
  }
}

// residual and y: of this block. Inlined, or the accumulators lie in memory.
template <int MR, int NV>
__attribute__((always_inline)) static inline void finish_tile(const Tile& t, bool full, const float* residual, float* y,
                                                              Vec (&acc)[MR][NV]) {
  constexpr int V = Vec::N;
  const int64_t y_ld = t.y_ld, res_ld = t.res_ld;  // stores might write to t for all that the compiler knows
  if (residual) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      const float* r = residual + i * res_ld;
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++) {
        acc[i][j] = add(acc[i][j], j < NV - 1 || full ? load(r + j * V) : load_n(r + j * V, t.tail));
      }
    }
  }
  const bool clip = t.act->func == Func::clip, one_sided = t.act->beta == __builtin_inff();
  const Vec lo = set1(t.act->alpha), hi = set1(t.act->beta);
  if (full) {
    // Each vector is written as soon as it is ready: writing all of them at once holds the FMA units up.
    if (clip && one_sided) {
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++) store(y + i * y_ld + j * V, max(lo, acc[i][j]));
      }
    } else if (clip) {
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++) store(y + i * y_ld + j * V, min(hi, max(lo, acc[i][j])));
      }
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++) store(y + i * y_ld + j * V, acc[i][j]);
      }
    }
    return;
  }
  if (clip) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++) acc[i][j] = min(hi, max(lo, acc[i][j]));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
    for (int j = 0; j < NV - 1; j++) store(y + i * y_ld + j * V, acc[i][j]);
    store_n(y + i * y_ld + (NV - 1) * V, acc[i][NV - 1], t.tail);
  }
}

// acc += x w for element c of each row p[i] and the panel's row w. Where the accumulators leave no register for all
// weights, the last vector is a memory operand of its FMAs.
template <int MR, int NV>
__attribute__((always_inline)) static inline void add_element(const float* const (&p)[MR], int64_t c, const float* w,
                                                              Vec (&acc)[MR][NV]) {
  constexpr int V = Vec::N, HELD = MR * NV + NV >= REGISTERS ? NV - 1 : NV;
  Vec held[NV];
#pragma GCC unroll 16
  for (int j = 0; j < HELD; j++) held[j] = load(w + j * V);
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) {
    const Vec x = set1(p[i][c]);
#pragma GCC unroll 16
    for (int j = 0; j < HELD; j++) acc[i][j] = fma_onto(x, held[j], acc[i][j]);
#pragma GCC unroll 16
    for (int j = HELD; j < NV; j++) acc[i][j] = fma_at(x, w + j * V, acc[i][j]);
  }
}

// What the epilogue of a block reads and writes comes from L3 or memory while its products run. (The second line of a
// row that lies across two is not asked for: that pays less than each takes.)
template <int MR, int NV>
__attribute__((always_inline)) static inline void fetch_block(const Tile& t, const float* residual, const float* y) {
  for (int i = 0; i < MR; i++) {
    for (int j = 0; j < NV * Vec::N; j += 16) {
      __builtin_prefetch(y + i * t.y_ld + j, 1, 3);
      if (residual) __builtin_prefetch(residual + i * t.res_ld + j, 0, 3);
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
