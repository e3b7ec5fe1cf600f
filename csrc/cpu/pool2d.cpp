// Max and average pooling, vectorised over channels. Chunks are output rows (n, p).
// Windows inside the image of 2x2 and 3x3 cells take an unrolled path: nine loads for one store keep within the load
// ports (4.5 cycles per vector), below what L2 delivers, so sharing column maxima between windows would gain nothing.
// Other windows take whatever part of them lies inside the image, four vectors of channels at a time.
// Max: NaN never wins. Average: rows of the window are summed apart, so that errors of large windows stay small.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

struct MaxOf {
  static Vec first() { return set1(-__builtin_inff()); }
  static Vec join(Vec total, Vec x) { return max(x, total); }
  Vec last(Vec total) const { return total; }
};

struct MeanOf {
  Vec inverse;
  static Vec first() { return zero(); }
  static Vec join(Vec total, Vec x) { return add(x, total); }
  Vec last(Vec total) const { return mul(total, inverse); }
};

// The taps [first, last) of one axis whose pixel lies in the image, and the number of taps that an average counts.
struct Taps {
  int64_t first, last, counted;
};

inline Taps taps(int64_t start, int64_t size, int64_t count, int64_t dilation, int64_t pad_after, bool count_padding) {
  Taps t;
  t.first = start < 0 ? min_i(count, (-start + dilation - 1) / dilation) : 0;
  t.last = start < size ? min_i(count, (size - 1 - start) / dilation + 1) : 0;
  t.last = max_i(t.last, t.first);
  const int64_t reach = size + pad_after;
  t.counted = !count_padding ? t.last - t.first : start < reach ? min_i(count, (reach - 1 - start) / dilation + 1) : 0;
  return t;
}

template <int NV, bool tail, class F>
inline void window(const F& f, const float* x, int64_t rows, int64_t row, int64_t columns, int64_t column, float* y,
                   int n) {
  Vec total[NV], part[NV];
  for (int v = 0; v < NV; v++) total[v] = F::first();
  for (int64_t r = 0; r < rows; r++) {
    for (int v = 0; v < NV; v++) part[v] = F::first();
    for (int64_t s = 0; s < columns; s++) {
      const float* p = x + r * row + s * column;
      for (int v = 0; v < NV; v++) part[v] = F::join(part[v], tail ? load_n(p, n) : load(p + v * Vec::N));
    }
    for (int v = 0; v < NV; v++) total[v] = F::join(total[v], part[v]);
  }
  for (int v = 0; v < NV; v++) {
    if (tail)
      store_n(y, f.last(total[v]), n);
    else
      store(y + v * Vec::N, f.last(total[v]));
  }
}

// One output pixel from a window of rows x columns cells; `row` and `column` are the distances between cells.
template <class F>
void any_window(const F& f, const float* x, int64_t rows, int64_t row, int64_t columns, int64_t column, float* y,
                int64_t C) {
  int64_t c = 0;
  for (; c + 4 * Vec::N <= C; c += 4 * Vec::N) window<4, false>(f, x + c, rows, row, columns, column, y + c, 0);
  for (; c + Vec::N <= C; c += Vec::N) window<1, false>(f, x + c, rows, row, columns, column, y + c, 0);
  if (c < C) window<1, true>(f, x + c, rows, row, columns, column, y + c, (int)(C - c));
}

// n: channels in use; where `whole`, what is read and written beyond them does not matter.
template <int R, int S, bool tail, bool whole, class F>
inline void small_window(const F& f, const float* x, int64_t row, int64_t column, float* y, int n) {
  Vec total = F::first();
  for (int r = 0; r < R; r++)
    for (int s = 0; s < S; s++) {
      const float* p = x + r * row + s * column;
      total = F::join(total, tail && !whole ? load_n(p, n) : load(p));
    }
  if (tail && !whole)
    store_n(y, f.last(total), n);
  else
    store(y, f.last(total));
}

// `count` neighbouring output pixels whose R x S windows lie inside the image. Of dense pixels of less than a vector
// the next one writes again what the last one wrote too much: masked stores cost six cycles each on Zen 5.
template <int R, int S, class F>
void small_windows(const F& f, const float* x, int64_t row, int64_t column, int64_t step, float* y, int64_t y_ld,
                   int64_t C, int64_t count) {
  for (int64_t q = 0; q < count; q++, x += step, y += y_ld) {
    int64_t c = 0;
    if (C < Vec::N && y_ld == C && (count - q) * C >= Vec::N) {  // as many numbers follow in x, too
      small_window<R, S, true, true>(f, x, row, column, y, 0);
      continue;
    }
    for (; c + Vec::N <= C; c += Vec::N) small_window<R, S, false, false>(f, x + c, row, column, y + c, 0);
    if (c < C) small_window<R, S, true, false>(f, x + c, row, column, y + c, (int)(C - c));
  }
}

inline MaxOf make(MaxOf, int64_t) { return {}; }
inline MeanOf make(MeanOf, int64_t counted) { return {set1(counted ? 1.0f / (float)counted : 0.0f)}; }

template <class F>
void output_row(const Pool2d& d, const float* image, int64_t p, float* y) {
  const bool counting = d.count_include_pad != 0;
  const Taps tr = taps(p * d.stride_h - d.pad_t, d.H, d.R, d.dilation_h, d.pad_b, counting);
  const int64_t row = d.dilation_h * d.x_row, column = d.dilation_w * d.x_ld, rows = tr.last - tr.first;
  const float* x = image + (rows > 0 ? (p * d.stride_h - d.pad_t + tr.first * d.dilation_h) * d.x_row : 0);
  const bool small = rows == d.R && ((d.R == 2 && d.S == 2) || (d.R == 3 && d.S == 3));
  // Outputs [inside, outside) have all their columns in the image.
  const int64_t inside = (d.pad_l + d.stride_w - 1) / d.stride_w;
  const int64_t space = d.W - 1 - (d.S - 1) * d.dilation_w + d.pad_l;
  const int64_t outside = space < 0 ? 0 : min_i(d.Q, space / d.stride_w + 1);
  for (int64_t q = 0; q < d.Q; q++) {
    const int64_t start = q * d.stride_w - d.pad_l;
    if (small && q >= inside && q < outside) {
      const F f = make(F{}, d.R * d.S);
      const float* px = x + start * d.x_ld;
      const int64_t step = d.stride_w * d.x_ld, count = outside - q;
      if (d.R == 2)
        small_windows<2, 2>(f, px, row, column, step, y + q * d.y_ld, d.y_ld, d.C, count);
      else
        small_windows<3, 3>(f, px, row, column, step, y + q * d.y_ld, d.y_ld, d.C, count);
      q = outside - 1;
      continue;
    }
    const Taps ts = taps(start, d.W, d.S, d.dilation_w, d.pad_r, counting);
    const int64_t columns = rows > 0 ? ts.last - ts.first : 0;
    const float* px = columns > 0 ? x + (start + ts.first * d.dilation_w) * d.x_ld : image;
    any_window(make(F{}, tr.counted * ts.counted), px, columns > 0 ? rows : 0, row, columns, column, y + q * d.y_ld,
               d.C);
  }
}

template <class F>
void pool(const Pool2d& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t items = d.N * d.P;
  const int64_t first = chunk_begin(items, d.chunks, begin), last = chunk_begin(items, d.chunks, end);
  for (int64_t i = first; i < last; i++)
    output_row<F>(d, b.in[0] + i / d.P * d.x_image, i % d.P, b.out + i * d.Q * d.y_ld);
}

// The place of each maximum among x's elements in the order N C H W, or N C W H; the first of equal ones, row by row.
void index_row(const Pool2d& d, const float* image, int64_t n, int64_t p, float* y) {
  const Taps tr = taps(p * d.stride_h - d.pad_t, d.H, d.R, d.dilation_h, d.pad_b, false);
  for (int64_t q = 0; q < d.Q; q++) {
    const Taps ts = taps(q * d.stride_w - d.pad_l, d.W, d.S, d.dilation_w, d.pad_r, false);
    for (int64_t c = 0; c < d.C; c++) {
      float best = -__builtin_inff();
      int64_t at = -1;
      for (int64_t r = tr.first; r < tr.last; r++)
        for (int64_t s = ts.first; s < ts.last; s++) {
          const int64_t h = p * d.stride_h - d.pad_t + r * d.dilation_h;
          const int64_t w = q * d.stride_w - d.pad_l + s * d.dilation_w;
          const float v = image[h * d.x_row + w * d.x_ld + c];
          if (v > best || at < 0) {
            best = v;
            at = d.columns_first ? w * d.H + h : h * d.W + w;
          }
        }
      y[q * d.y_ld + c] = (float)((n * d.C + c) * d.H * d.W + max_i(at, 0));
    }
  }
}

}  // namespace

void max_pool2d_index(const Pool2d& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t items = d.N * d.P, last = chunk_begin(items, d.chunks, end);
  for (int64_t i = chunk_begin(items, d.chunks, begin); i < last; i++)
    index_row(d, b.in[0] + i / d.P * d.x_image, i / d.P, i % d.P, b.out + i * d.Q * d.y_ld);
}

void max_pool2d(const Pool2d& d, const Buffers& b, int64_t begin, int64_t end) { pool<MaxOf>(d, b, begin, end); }
void avg_pool2d(const Pool2d& d, const Buffers& b, int64_t begin, int64_t end) { pool<MeanOf>(d, b, begin, end); }

}  // namespace FASTCONV_ISA
}  // namespace fastconv
