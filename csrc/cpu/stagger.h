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

struct Pixel {
  int64_t n, p, q;
};

inline Pixel pixel_of(const Conv2d& d, int64_t row) { return {row / (d.P * d.Q), row / d.Q % d.P, row % d.Q}; }

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

// Outputs of a 3x3 stem of whole vectors go through cpu/stagger.h, but for pieces of a line that are shorter than a
// group of pixels. Returns the longest group; 0 where there is none for this shape.
static inline int64_t staggered_rows(const Conv2d& d, const Buffers& b) {
  const Panels panels(d.K, MAX_NV);
  const bool runs = d.algorithm == ConvAlgorithm::row_run, fits = runs && d.R == 3 && d.K % Vec::N == 0;
  if (!fits || d.panel_chunks != 1 || b.in[3] || panels.count == 0) return 0;
  const int64_t wide = STAGGER_ROWS[panels.width(0)], narrow = STAGGER_ROWS[panels.width(panels.count - 1)];
  return wide && narrow && d.Q >= max_i(wide, narrow) ? max_i(wide, narrow) : 0;
}

// Bytes of outputs that are written before something else is done with them.
static constexpr int64_t STAGGERED = 128 << 10;

struct Range {
  int64_t begin, end;
};

// Of the pixels [begin, end), those without pieces of a first and a last line that are shorter than a group.
static inline Range staggered_range(const Conv2d& d, int64_t group, int64_t begin, int64_t end) {
  Range r = {begin, end};
  const int64_t first = d.Q - begin % d.Q;
  if (first < group) r.begin = min_i(end, begin + first);
  const int64_t last_line = max_i(r.begin, (end - 1) / d.Q * d.Q);
  if (r.begin < end && end - last_line < group) r.end = last_line;
  return r;
}

// The pixels of a staggered_range().
static inline void run_staggered(const Conv2d& d, const Buffers& b, Range pixels, Fetch after) {
  const int64_t to = pixels.end, all = to - pixels.begin;
  const Panels panels(d.K, MAX_NV);
  const bool clip = d.act.func == Func::clip, in_place = clips(d.act);
  const int64_t many = in_place && panels.count == 1 ? all : max_i(1, STAGGERED / 4 / d.K / d.Q);  // lines
  Stagger s;
  s.x_pixel = d.stride_w * d.x_ld, s.x_line = d.stride_h * d.x_row, s.x_image = d.x_image;
  s.run = d.dilation_h * d.x_row, s.len = d.S * d.C;
  s.y_ld = d.y_ld, s.Q = d.Q, s.P = d.P;
  s.lo = clip ? d.act.alpha : -__builtin_inff(), s.hi = clip ? d.act.beta : __builtin_inff();
  for (int64_t from = pixels.begin, end; from < to; from = end) {
    end = min_i(to, (from / d.Q + many) * d.Q);
    const Pixel at = pixel_of(d, from);
    s.x = b.in[0] + at.n * s.x_image + at.p * s.x_line + at.q * s.x_pixel;
    s.p = at.p, s.q = at.q, s.rows = end - from;
    s.next = after.from, s.bytes = after.bytes * s.rows / all;
    after.from += s.bytes;
    for (int64_t panel = 0; panel < panels.count; panel++, s.bytes = 0) {
      const int64_t k = panels.start(panel) * Vec::N;
      s.w = b.in[1] + k * 3 * s.len;
      s.bias = b.in[2] ? b.in[2] + k : nullptr;
      s.y = b.out + from * d.y_ld + k;
      find_stagger(panels.width(panel))(s);
    }
    if (!in_place) activate_rows(d.act, b.out + from * d.y_ld, d.y_ld, s.rows, d.K);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
