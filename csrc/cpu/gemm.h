// The tile that takes everything, and products of rows by panels: which tile computes how many rows, how columns are
// cut into panels, and what is fetched meanwhile.
#pragma once
#include "cpu/plain_tile.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Not static: the linker keeps one copy for convolutions, their gradients and Winograd.
template <int MR, int NV>
void tile(const Tile& t) {
  constexpr int V = Vec::N;
  if constexpr (STEPS > 1) {
    const bool whole = t.tail == V && !t.start, plain = t.n_taps == 1 && t.len % STEPS == 0;
    if constexpr (NV == MAX_NV && MR == ROWS[NV]) {
      // where one line an iteration is enough for what else is fetched
      if (whole && plain && t.fetches_rows && t.next_step <= 64) return plain_tile<MR, NV, true>(t);
    }
    if (whole && plain) return plain_tile<MR, NV, false>(t);
    if constexpr (NV == MAX_NV) {
      if (whole && t.runs && !t.taps && t.len % RGB == 0 && t.len % STEPS != 0 && !t.residual)
        return run_tile<MR, NV>(t);
    }
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
      const float* w = t.w + (t.taps ? t.taps[k] : k) * t.len * NV * V;
      const int64_t end = at + t.len;
      int64_t c = at;
      if constexpr (STEPS > 1) {
        for (; c + STEPS <= end; c += STEPS, w += STEPS * NV * V, next += t.next_step) {
          fetch_ahead<NV>(t, next);
#pragma GCC unroll 8
          for (int u = 0; u < STEPS; u++) add_element(p, c + u, w + u * NV * V, acc);
        }
        if (c < end) {
          fetch_ahead<NV>(t, next);
          next += t.next_step;
        }
      }
      for (; c < end; c++, w += NV * V) {
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
