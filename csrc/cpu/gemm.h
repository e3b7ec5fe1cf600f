// The register tile behind convolution and dense layers: MR rows by NV vectors of columns.
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

struct Tile {
  const float* const* a;  // live taps x rows
  bool runs = false;      // `a` holds the rows of the first tap alone, each other tap lies `run` floats behind
  int64_t run = 0;
  int64_t count;        // blocks of rows
  int64_t a_step = 0;   // each lies so many floats behind the one before,
  int64_t a_next = 0;   // or has its own pointers, of one tap, so many behind in `a` (half and lagging tiles ignore it)
  const int32_t* taps;  // which tap of the weights each row of `a` belongs to; null: 0, 1, 2 ...
  int64_t n_taps, len;  // len: elements per tap
  const int32_t* inputs;  // a dense layer's stream: the elements to take, or null for all
  int64_t n_inputs;
  const float* w;
  int64_t w_ld;
  const float* bias;   // of the first column, or null
  const float* start;  // sums of the depth before this one instead, or null
  int64_t start_ld;
  const float* residual;  // of the first row and column, or null
  int64_t res_ld;
  float* y;
  int64_t y_ld;
  bool cold;              // y and residual are not in L2; fetch them
  int tail;               // lanes in use in the last vector
  const Activation* act;  // clips(act), see follower.h; a stream of a dense layer takes any function
  const char* next;       // what to prefetch into L2 meanwhile
  int64_t next_step;      // bytes an iteration, see fetch_step(); 0 for nothing, as where w_ld is not NV vectors
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
  constexpr int64_t PAGE = 4096;
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

// A tile of one tap, of whole vectors and STEPS, with sums from the bias: what 1x1 layers and Winograd's products
// mostly are. tile() asks more at each block and keeps it in memory: 37 cycles a block with 16 registers, 19 here. Each
// accumulator starts from a load of its own, for g++ moves about in the loop those that start as copies of one.
template <int MR, int NV>
__attribute__((noinline)) void plain_tile(const Tile& t) {
  constexpr int V = Vec::N;
  static const float ZEROS[NV * V] = {};
  const float *bias = t.bias ? t.bias : ZEROS, *residual = t.residual;
  const float* panel = t.w + (t.taps ? t.taps[0] : 0) * t.len * NV * V;
  const char* next = fetch_from(t);
  float* y = t.y;
  int64_t from = 0;  // where the block begins behind its pointers
  for (int64_t block = 0; block < t.count; block++) {
    Vec acc[MR][NV];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++) acc[i][j] = load_once(bias + j * V);
    }
    if (t.cold) fetch_block<MR, NV>(t, residual, y);
    const float* p[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) p[i] = t.a[block * t.a_next + i];
    const float* w = panel;
    for (int64_t c = from; c < from + t.len; c += STEPS, w += STEPS * NV * V, next += t.next_step) {
      fetch_ahead<NV>(t, next);
#pragma GCC unroll 8
      for (int u = 0; u < STEPS; u++) add_element(p, c + u, w + u * NV * V, acc);
    }
    finish_tile<MR, NV>(t, true, residual, y, acc);
    if (residual) residual += MR * t.res_ld;
    y += MR * t.y_ld;
    from += t.a_step;
  }
}

// Not static: the linker keeps one copy for convolutions, Winograd and dense layers, 180 kB less on AVX-512.
template <int MR, int NV>
void tile(const Tile& t) {
  constexpr int V = Vec::N;
  if constexpr (STEPS > 1) {
    const bool whole = t.tail == V && t.len % STEPS == 0 && t.w_ld == NV * V;
    if (whole && t.n_taps == 1 && !t.start) return plain_tile<MR, NV>(t);
  }
  const char* next = fetch_from(t);
  const float *start = t.start, *residual = t.residual;
  float* y = t.y;
  int64_t from = 0;
  for (int64_t block = 0; block < t.count; block++) {
    Vec acc[MR][NV];
    if (start) {
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++) {
          const float* sums = start + i * t.start_ld + j * V;
          acc[i][j] = j < NV - 1 || t.tail == V ? load(sums) : load_n(sums, t.tail);
        }
      }
    } else {
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++) {
        const Vec bias = !t.bias                     ? zero()
                         : j < NV - 1 || t.tail == V ? load(t.bias + j * V)
                                                     : load_n(t.bias + j * V, t.tail);
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++) acc[i][j] = bias;
      }
    }
    if (t.cold) fetch_block<MR, NV>(t, residual, y);
    const float* const* a = t.a + block * t.a_next;
    const float* p[MR];
    int64_t at = from;  // of the tap
    for (int64_t k = 0; k < t.n_taps; k++, a += MR, at += t.run) {
      if (k == 0 || !t.runs) {
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++) p[i] = a[i];
      }
      const float* w = t.w + (t.taps ? t.taps[k] : k) * t.len * t.w_ld;
      const int64_t end = at + t.len;
      int64_t c = at;
      if constexpr (STEPS > 1) {
        if (t.w_ld == NV * V) {  // dense layers have wider panels, and go step by step
          for (; c + STEPS <= end; c += STEPS, w += STEPS * NV * V, next += t.next_step) {
            fetch_ahead<NV>(t, next);
#pragma GCC unroll 8
            for (int u = 0; u < STEPS; u++) add_element(p, c + u, w + u * NV * V, acc);
          }
        }
        if (c < end) {
          fetch_ahead<NV>(t, next);
          next += t.next_step;
        }
      }
      for (; c < end; c++, w += t.w_ld) {
        if (STEPS == 1) fetch_ahead<NV>(t, next), next += t.next_step;
        add_element(p, c, w, acc);
      }
    }
    finish_tile<MR, NV>(t, t.tail == V, residual, y, acc);
    if (start) start += MR * t.start_ld;
    if (residual) residual += MR * t.res_ld;
    y += MR * t.y_ld;
    from += t.a_step;
  }
}

struct Fetch {
  const char* from;
  int64_t bytes;
};

// Shares out what is fetched during `blocks` blocks of rows, of so many iterations each. Some lines of a stream of
// prefetches get lost where memory is slow: the second half of the blocks asks for them again.
class Pace {
 public:
  Pace(Fetch fetch, int nv, int64_t blocks, int64_t each)
      : fetch_(fetch), nv_(nv), left_(blocks), each_(each), next_(fetch.from) {
    const int64_t half = blocks / 2, most = 64 * fetched_lines(nv) * half * each;
    half_ = fetch.bytes >= FEW_BYTES && fetch.bytes <= most ? half : 0;
    step_ = fetch_step(nv, fetch.bytes, (blocks - half_) * each);
  }

  // How many of the next `count` blocks one call may compute.
  int64_t most(int64_t count) {
    if (left_ <= half_) {
      if (left_ > 0) next_ = fetch_.from, step_ = fetch_step(nv_, fetch_.bytes, left_ * each_);
      half_ = 0;
    }
    return half_ > 0 ? min_i(count, left_ - half_) : count;
  }

  // t computes the next blocks.
  void fetch_during(Tile& t) {
    left_ -= t.count;
    t.next = next_;
    t.next_step = step_;
    const int64_t fetched = step_ * t.n_taps * iterations(t.len) * t.count;
    prefetch_pages(next_, fetched);
    next_ += fetched;
  }

 private:
  static constexpr int64_t FEW_BYTES = 32 << 10;  // whose losses are less than another call takes
  Fetch fetch_;
  int nv_;
  int64_t left_, each_, step_;
  int64_t half_;  // blocks that are left when the second half begins; 0: none does
  const char* next_;
};

// What to fetch of the next operation's weights during the chunks from `first` to before `last`; resident: this
// operation's own are in L2 already.
static inline Fetch next_operation(const Buffers& b, int64_t first, int64_t last, bool resident) {
  if (!b.next) return {nullptr, 0};
  const int64_t begin = resident ? b.next_begin : b.next_end - 1, n = b.next_end - begin;
  first = first > begin ? first : begin, last = min_i(last, b.next_end);
  if (first >= last) return {nullptr, 0};
  const int64_t from = b.next_bytes * (first - begin) / n;
  return {b.next + from, b.next_bytes * (last - begin) / n - from};
}

using TileFunction = void (*)(const Tile&);

template <int NV, int MR = ROWS[NV]>
static inline TileFunction tile_of_rows(int64_t rows) {
  if constexpr (MR == 0) {
    return nullptr;
  } else {
    return rows == MR ? tile<MR, NV> : tile_of_rows<NV, MR - 1>(rows);
  }
}

// The tile of nv vectors and `rows` rows; both within ROWS and MAX_NV.
static inline TileFunction find_tile(int nv, int64_t rows) {
  if (nv == 1) return tile_of_rows<1>(rows);
  if (nv == 2) return tile_of_rows<2>(rows);
  if constexpr (MAX_NV == 4) {
    if (nv == 3) return tile_of_rows<3>(rows);
    if (nv == 4) return tile_of_rows<4>(rows);
  }
  return nullptr;
}

// Rows are split evenly over ceil(rows / limit) blocks: 49 rows make seven sevens, never six eights and a one. Those of
// one row more come first.
struct RowBlocks {
  int64_t unit, count, fewest, more;  // rows in units
  RowBlocks(int64_t rows, int64_t limit, int64_t unit_) : unit(unit_) {
    rows /= unit, limit /= unit;
    count = (rows + limit - 1) / limit;
    fewest = count ? rows / count : 0;
    more = count ? rows % count : 0;
  }
  // seven rows of four vectors cost a memory operand: take them where they save a block
  RowBlocks(int64_t rows, int nv) : RowBlocks(rows, nv == 4 && (rows + 5) / 6 == (rows + 6) / 7 ? 6 : ROWS[nv], 1) {}
  int64_t start(int64_t i) const { return unit * (i * fewest + min_i(i, more)); }
  int64_t size(int64_t i) const { return unit * (fewest + (i < more)); }
  int64_t same(int64_t i) const { return (i < more ? more : count) - i; }  // blocks of this size from i on
};

// Panels cut `columns` into ceil(vectors / widest) nearly equal parts.
struct Panels {
  int64_t vectors, count, base, extra;
  Panels(int64_t columns, int widest) {
    vectors = (columns + Vec::N - 1) / Vec::N;
    count = (vectors + widest - 1) / widest;
    base = count ? vectors / count : 0;
    extra = count ? vectors % count : 0;
  }
  int width(int64_t p) const { return (int)(base + (p < extra)); }               // vectors
  int64_t start(int64_t p) const { return p * base + (p < extra ? p : extra); }  // in vectors
};

}  // namespace FASTCONV_ISA
}  // namespace fastconv
