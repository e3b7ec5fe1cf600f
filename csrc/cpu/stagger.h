// The register tile of 3x3 stems: three groups of G pixels by NV vectors, each group one filter row behind the one
// before.
//
// A filter row of few channels is short (3 x 3 numbers), so that a tile of gemm.h has few steps between its start and
// its end, and 24 stores at once hold the FMA units up. Here a group ends and the next G pixels begin after every
// filter row, 8 stores at a time, while the other two groups go on. Each output is summed in the order of the whole
// tiles, by the same operations: the numbers are the same. Two filter rows before the first group ends are lost, so a
// call goes through many lines of pixels.
#pragma once
#include "cpu/gemm.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Pixels of a group by width in vectors; 0: there is none. Groups of two by two vectors are as much as sixteen
// registers hold: they read twelve times for twelve FMAs, and took 1.6 times as long as whole tiles (AVX2, Zen 5).
#ifdef FASTCONV_ISA_AVX512
static constexpr int STAGGER_ROWS[5] = {0, 0, 4, 0, 2};
#else
static constexpr int STAGGER_ROWS[5] = {0, 0, 0, 0, 0};
#endif

struct Stagger {
  const float* x;                    // of the first pixel
  int64_t x_pixel, x_line, x_image;  // floats from pixel to pixel, line to line, image to image
  int64_t run, len;                  // floats from filter row to filter row, and of one
  const float *w, *bias;             // bias may be null
  float* y;                          // of the first pixel
  int64_t y_ld;
  int64_t q, Q, p, P;  // the first pixel's place in its line and image
  int64_t rows;        // pixels; neither the first nor the last line has fewer than a group's of them
  float lo, hi;        // what the sums are clipped to
  const char* next;    // what to prefetch into L2 meanwhile
  int64_t bytes;
};

// The groups of pixels of some lines, one after the other; a line's last group may share pixels with the one before.
class Groups {
 public:
  Groups(const Stagger& s, int64_t size)
      : s_(s), size_(size), x_(s.x), y_(s.y), q_(s.q), p_(s.p), left_(s.rows), at_(0), end_(0) {
    start_line();
  }
  // Sets x and y; behind the last group y becomes null.
  void take() {
    if (at_ >= end_) {
      x = s_.x, y = nullptr;
      return;
    }
    const int64_t at = min_i(at_, end_ - size_);
    x = x_ + at * s_.x_pixel;
    y = y_ + at * s_.y_ld;
    at_ += size_;
    if (at_ >= end_) next_line();
  }
  const float* x = nullptr;
  float* y = nullptr;

 private:
  void start_line() {
    at_ = 0;
    end_ = min_i(left_, s_.Q - q_);
    left_ -= end_;
  }
  void next_line() {
    if (left_ == 0) return;
    x_ += s_.x_line - q_ * s_.x_pixel;
    y_ += end_ * s_.y_ld;
    q_ = 0;
    if (++p_ == s_.P) p_ = 0, x_ += s_.x_image - s_.P * s_.x_line;
    start_line();
  }

  const Stagger& s_;
  int64_t size_;
  const float* x_;  // of the line's first pixel
  float* y_;
  int64_t q_, p_, left_, at_, end_;  // at_, end_: from the line's first pixel on
};

// All groups take a filter row: group FIRST its first one, and group FIRST + 1 its third, p[g] and y[g] are of group g.
template <int FIRST, int G, int NV>
__attribute__((always_inline)) static inline void stagger_row(const Stagger& s, const float* (&p)[3], float* (&y)[3],
                                                              Vec (&acc)[3][G][NV]) {
  constexpr int V = Vec::N, LAST = (FIRST + 1) % 3;
  const int64_t panel = s.len * NV * V;
#pragma GCC unroll 8
  for (int j = 0; j < NV; j++) {
    const Vec bias = s.bias ? load(s.bias + j * V) : zero();
#pragma GCC unroll 8
    for (int i = 0; i < G; i++) acc[FIRST][i][j] = bias;
  }
  const float* w = s.w;
  for (int64_t c = 0; c < s.len; c++, w += NV * V) {
#pragma GCC unroll 3
    for (int r = 0; r < 3; r++) {
      const int g = (FIRST + 3 - r) % 3;
      Vec held[NV];
#pragma GCC unroll 8
      for (int j = 0; j < NV; j++) held[j] = load(w + r * panel + j * V);
#pragma GCC unroll 8
      for (int i = 0; i < G; i++) {
        const Vec x = set1(p[g][i * s.x_pixel + c]);
#pragma GCC unroll 8
        for (int j = 0; j < NV; j++) acc[g][i][j] = fma(x, held[j], acc[g][i][j]);
      }
    }
  }
#pragma GCC unroll 3
  for (int g = 0; g < 3; g++) p[g] += s.run;
  float* out = y[LAST];
  const Vec lo = set1(s.lo), hi = set1(s.hi);
  if (!out) {
  } else if (s.hi == __builtin_inff()) {
#pragma GCC unroll 8
    for (int i = 0; i < G; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < NV; j++) store(out + i * s.y_ld + j * V, max(lo, acc[LAST][i][j]));
    }
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < G; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < NV; j++) store(out + i * s.y_ld + j * V, min(hi, max(lo, acc[LAST][i][j])));
    }
  }
}

template <int G, int NV>
void stagger(const Stagger& s) {
  const int64_t phases = (s.rows + G - 1) / G, lines = (s.bytes / 64 + phases - 1) / phases;
  Groups groups(s, G);
  Vec acc[3][G][NV];
  const float* p[3] = {s.x, s.x, s.x};
  float* y[3] = {nullptr, nullptr, nullptr};
#pragma GCC unroll 3
  for (int g = 0; g < 3; g++) {
#pragma GCC unroll 8
    for (int i = 0; i < G; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < NV; j++) acc[g][i][j] = zero();
    }
  }
  const char* next = s.next;
  do {
    groups.take();
    p[0] = groups.x, y[0] = groups.y;
    stagger_row<0>(s, p, y, acc);
    groups.take();
    p[1] = groups.x, y[1] = groups.y;
    stagger_row<1>(s, p, y, acc);
    groups.take();
    p[2] = groups.x, y[2] = groups.y;
    stagger_row<2>(s, p, y, acc);
    for (int64_t i = 0; i < 3 * lines; i++, next += 64) prefetch_l2(next);
  } while (y[1] || y[2]);  // group 0 has ended
}

using StaggerFunction = void (*)(const Stagger&);

template <int NV>
static inline StaggerFunction stagger_of_width() {
  if constexpr (STAGGER_ROWS[NV] == 0) {
    return nullptr;
  } else {
    return stagger<STAGGER_ROWS[NV], NV>;
  }
}

static inline StaggerFunction find_stagger(int nv) {
  return nv == 2 ? stagger_of_width<2>() : nv == 4 ? stagger_of_width<4>() : nullptr;
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
