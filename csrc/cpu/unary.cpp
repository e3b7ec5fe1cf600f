// y = f(x), element by element. Chunks are ranges of elements where the rows touch, else ranges of rows.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

// `rows` times `count` vectors.
struct Vectors {
  int64_t rows, x_row, y_row, count, x_step, y_step;
};

// Four vectors at a time: one after the other takes swish 0.7 ns more. The only loops over each function, for each of
// five costs about a kilobyte; on their own, for with_function() with all of them inlined sets up 19 ns.
template <class F>
__attribute__((noinline)) void map(const F& function, const float* x, float* y, const Vectors& v) {
  const F f = function;  // copies, for y might alias what they are read from
  const int64_t rows = v.rows, count = v.count, x_step = v.x_step, y_step = v.y_step;
  const int64_t x_next = v.x_row - count * x_step, y_next = v.y_row - count * y_step;
  for (int64_t r = 0; r < rows; r++, x += x_next, y += y_next) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4, x += 4 * x_step, y += 4 * y_step) {
#pragma GCC unroll 4
      for (int t = 0; t < 4; t++) store(y + t * y_step, f(load(x + t * x_step)));
    }
#pragma GCC unroll 1
    for (; i < count; i++, x += x_step, y += y_step) store(y, f(load(x)));
  }
}

void map(const Activation& act, const float* x, float* y, const Vectors& v) {
  // by reference: to copy v by vectors would wait for the stores that have just made it
  with_function(act, [&](const auto& f) { map(f, x, y, v); });
}

// What rows have beyond whole vectors, n floats each, a few rows at a time as whole ones. Rare, and its buffer would
// cost the others a frame.
__attribute__((noinline)) void map_tails(const Activation& act, const float* x, int64_t x_ld, float* y, int64_t y_ld,
                                         int64_t rows, int n) {
  constexpr int64_t ROOM = 16;
  alignas(64) float part[ROOM * Vec::N];
  for (int64_t r = 0; r < rows; r += ROOM) {
    const int64_t count = min_i(ROOM, rows - r);
    for (int64_t i = 0; i < count; i++) store(part + i * Vec::N, load_n(x + (r + i) * x_ld, n));
    map(act, part, part, {1, 0, 0, count, Vec::N, Vec::N});
    for (int64_t i = 0; i < count; i++) store_n(y + (r + i) * y_ld, load(part + i * Vec::N), n);
  }
}

void map_rows(const Activation& act, const float* x, int64_t x_ld, float* y, int64_t y_ld, int64_t rows, int64_t n) {
  constexpr int64_t V = Vec::N;
  const int64_t whole = n / V;
  if (whole >= 4) {
    map(act, x, y, {rows, x_ld, y_ld, whole, V, V});
  } else {  // column by column, or there are no four vectors; as many rows as stay in L1
    for (int64_t r = 0; whole && r < rows; r += 64) {
      map(act, x + r * x_ld, y + r * y_ld, {whole, V, V, min_i(64, rows - r), x_ld, y_ld});
    }
  }
  if (whole * V < n) map_tails(act, x + whole * V, x_ld, y + whole * V, y_ld, rows, (int)(n - whole * V));
}

}  // namespace

void activate_rows(const Activation& act, float* y, int64_t y_ld, int64_t rows, int64_t n) {
  if (y_ld == n) n *= rows, rows = 1;  // LeNet-5's first layer has 784 rows of 6 outputs
  if (act.func != Func::identity) map_rows(act, y, y_ld, y, y_ld, rows, n);
}

void unary(const Unary& d, const Buffers& b, int64_t begin, int64_t end) {
  const bool touching = d.rows <= 1 || (d.x_ld == d.n && d.y_ld == d.n);
  const int64_t items = touching ? d.rows * d.n : d.rows, width = touching ? 1 : d.n;
  const int64_t first = chunk_begin(items, d.chunks, begin), last = chunk_begin(items, d.chunks, end);
  if (first == last || width == 0) return;
  if (touching) return map_rows(d.act, b.in[0] + first, 0, b.out + first, 0, 1, last - first);
  map_rows(d.act, b.in[0] + first * d.x_ld, d.x_ld, b.out + first * d.y_ld, d.y_ld, last - first, d.n);
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
