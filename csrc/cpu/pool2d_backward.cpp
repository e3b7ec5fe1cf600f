// Backward passes of pooling. A chunk is an image and up to 64 of its channels, whole cache lines, so that windows that
// overlap add to the same pixels in one order, whatever the threads.
//   max      each window gives its g to the first pixel that equals its maximum, row by row (as torch): `left` is g
//            until it is given away. Rows of dx are set to zero just before the first window that reaches them.
//   average  each pixel of dx sums g / count of the windows that cover it; no pass of zeros. Where windows touch and
//            lie inside, each pixel of g spreads its share.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { BLOCK = 64 };  // channels; checks_training.cpp counts chunks alike

inline Vec get(const float* p, int n) { return n == Vec::N ? load(p) : load_n(p, n); }
inline void put(float* p, Vec a, int n) {
  if (n == Vec::N)
    store(p, a);
  else
    store_n(p, a, n);
}

struct Span {
  int64_t first, last;
};

// The taps of a window at `start` whose pixels lie in the image.
inline Span taps(int64_t start, int64_t size, int64_t count, int64_t dilation) {
  const int64_t first = start < 0 ? min_i(count, (-start + dilation - 1) / dilation) : 0;
  const int64_t last = start < size ? min_i(count, (size - 1 - start) / dilation + 1) : 0;
  return {first, max_i(first, last)};
}

// How many taps an average counts.
inline int64_t counted(int64_t start, int64_t size, int64_t count, int64_t dilation, int64_t after, bool padding) {
  if (!padding) {
    const Span s = taps(start, size, count, dilation);
    return s.last - s.first;
  }
  const int64_t reach = size + after;
  return start < reach ? min_i(count, (reach - 1 - start) / dilation + 1) : 0;
}

struct Window {
  const float *g, *x, *y;
  float* dx;
  int64_t rows, columns;  // taps inside the image
  int64_t x_row, x_column, dx_row, dx_column;
};

template <bool tail>
inline void give(const Window& w, int64_t c, int n) {
  const Vec y = tail ? load_n(w.y + c, n) : load(w.y + c);
  Vec left = tail ? load_n(w.g + c, n) : load(w.g + c);
  for (int64_t r = 0; r < w.rows; r++)
    for (int64_t s = 0; s < w.columns; s++) {
      const float* x = w.x + r * w.x_row + s * w.x_column + c;
      float* dx = w.dx + r * w.dx_row + s * w.dx_column + c;
      const Vec v = tail ? load_n(x, n) : load(x);
      const Vec sum = add(tail ? load_n(dx, n) : load(dx), if_less(v, y, zero(), left));
      left = if_less(v, y, left, zero());
      if (tail)
        store_n(dx, sum, n);
      else
        store(dx, sum);
    }
}

// 2x2 windows that do not overlap and lie inside: every pixel is written once, nothing is read back.
inline void give_quad(const Window& w, int64_t channels) {
  for (int64_t c = 0; c < channels; c += Vec::N) {
    const int n = (int)min_i(Vec::N, channels - c);
    const Vec y = get(w.y + c, n);
    Vec left = get(w.g + c, n);
    for (int r = 0; r < 2; r++)
      for (int s = 0; s < 2; s++) {
        const Vec v = get(w.x + r * w.x_row + s * w.x_column + c, n);
        put(w.dx + r * w.dx_row + s * w.dx_column + c, if_less(v, y, zero(), left), n);
        left = if_less(v, y, left, zero());
      }
  }
}

void clear(float* dx, int64_t pixels, int64_t ld, int64_t channels) {
  for (int64_t i = 0; i < pixels; i++)
    for (int64_t c = 0; c < channels; c += Vec::N) put(dx + i * ld + c, zero(), (int)min_i(Vec::N, channels - c));
}

void max_image(const Pool2dBackward& d, const float* g, const float* x, const float* y, float* dx, int64_t channels) {
  const bool quads = d.R == 2 && d.S == 2 && d.stride_h == 2 && d.stride_w == 2 && d.dilation_h == 1 &&
                     d.dilation_w == 1 && d.pad_t == 0 && d.pad_l == 0;
  int64_t cleared = 0;
  for (int64_t p = 0; p < d.P; p++) {
    const int64_t h = p * d.stride_h - d.pad_t;
    const Span tr = taps(h, d.H, d.R, d.dilation_h);
    const int64_t reach = tr.last > tr.first ? h + (tr.last - 1) * d.dilation_h + 1 : 0;
    const bool quad_row = quads && tr.last == 2;
    if (quad_row) {  // what no window of this row covers: a last column
      if (2 * d.Q < d.W)
        for (int r = 0; r < 2; r++) clear(dx + ((h + r) * d.W + 2 * d.Q) * d.dx_ld, d.W - 2 * d.Q, d.dx_ld, channels);
    } else if (reach > cleared) {
      clear(dx + cleared * d.W * d.dx_ld, (reach - cleared) * d.W, d.dx_ld, channels);
    }
    cleared = max_i(cleared, reach);
    for (int64_t q = 0; q < d.Q; q++) {
      const int64_t w = q * d.stride_w - d.pad_l;
      const Span ts = taps(w, d.W, d.S, d.dilation_w);
      if (tr.last == tr.first || ts.last == ts.first) continue;
      const int64_t first = (h + tr.first * d.dilation_h) * d.W + w + ts.first * d.dilation_w, at = p * d.Q + q;
      const Window o = {g + at * d.g_ld,
                        x + first * d.x_ld,
                        y + at * d.y_ld,
                        dx + first * d.dx_ld,
                        tr.last - tr.first,
                        ts.last - ts.first,
                        d.dilation_h * d.W * d.x_ld,
                        d.dilation_w * d.x_ld,
                        d.dilation_h * d.W * d.dx_ld,
                        d.dilation_w * d.dx_ld};
      if (quad_row && ts.last == 2) {
        give_quad(o, channels);
        continue;
      }
      if (quad_row) clear(o.dx, 1, d.dx_ld, channels), clear(o.dx + o.dx_row, 1, d.dx_ld, channels);
      int64_t c = 0;
      for (; c + Vec::N <= channels; c += Vec::N) give<false>(o, c, Vec::N);
      if (c < channels) give<true>(o, c, (int)(channels - c));
    }
  }
  clear(dx + cleared * d.W * d.dx_ld, (d.H - cleared) * d.W, d.dx_ld, channels);
}

// Windows that may cover pixel h of an axis: outputs [first, last), and whether one does.
inline Span covering(int64_t h, int64_t pad, int64_t stride, int64_t reach, int64_t outputs) {
  const int64_t at = h + pad, low = at - reach + 1;
  return {low <= 0 ? 0 : (low + stride - 1) / stride, min_i(outputs, at / stride + 1)};
}

// The same for dense pixels of less than a vector: whole vectors are stored, what they write too much is written again
// by the next pixel, and only the image's last pixels take masks, which cost six cycles each on Zen 5.
void avg_tiled_narrow(const Pool2dBackward& d, const float* g, float* dx, int64_t channels) {
  const Vec share = set1(1.0f / (float)(d.R * d.S));
  const int64_t C = channels, row = d.W * C, rest = d.W - d.Q * d.S;
  const float* last = dx + d.H * row - Vec::N;  // a whole vector may begin here
  for (int64_t h = 0; h < d.P * d.R; h++) {
    const float* from = g + h / d.R * d.Q * d.g_ld;
    float* to = dx + h * row;
    for (int64_t q = 0; q < d.Q; q++) {
      const Vec part = mul(share, load_n(from + q * d.g_ld, (int)C));
      for (int64_t s = 0; s < d.S; s++, to += C) put(to, part, to <= last ? Vec::N : (int)C);
    }
    clear(to, rest, C, C);
  }
  clear(dx + d.P * d.R * row, (d.H - d.P * d.R) * d.W, C, C);
}

// Windows that touch and lie inside: each spreads its share, nothing is read twice.
void avg_tiled(const Pool2dBackward& d, const float* g, float* dx, int64_t channels) {
  const Vec share = set1(1.0f / (float)(d.R * d.S));
  const int64_t rest = d.W - d.Q * d.S;
  for (int64_t p = 0; p < d.P; p++) {
    float* rows = dx + p * d.R * d.W * d.dx_ld;
    for (int64_t q = 0; q < d.Q; q++) {
      const float* from = g + (p * d.Q + q) * d.g_ld;
      for (int64_t c = 0; c < channels; c += Vec::N) {
        const int n = (int)min_i(Vec::N, channels - c);
        const Vec part = mul(share, get(from + c, n));
        for (int64_t r = 0; r < d.R; r++)
          for (int64_t s = 0; s < d.S; s++) put(rows + (r * d.W + q * d.S + s) * d.dx_ld + c, part, n);
      }
    }
    for (int64_t r = 0; rest && r < d.R; r++) clear(rows + (r * d.W + d.Q * d.S) * d.dx_ld, rest, d.dx_ld, channels);
  }
  clear(dx + d.P * d.R * d.W * d.dx_ld, (d.H - d.P * d.R) * d.W, d.dx_ld, channels);
}

void avg_image(const Pool2dBackward& d, const float* g, float* dx, int64_t channels) {
  const bool padding = d.count_include_pad != 0;
  for (int64_t h = 0; h < d.H; h++) {
    const Span ps = covering(h, d.pad_t, d.stride_h, (d.R - 1) * d.dilation_h + 1, d.P);
    for (int64_t w = 0; w < d.W; w++) {
      const Span qs = covering(w, d.pad_l, d.stride_w, (d.S - 1) * d.dilation_w + 1, d.Q);
      Vec total[BLOCK / Vec::N];
      const int vectors = (int)((channels + Vec::N - 1) / Vec::N);
      for (int v = 0; v < vectors; v++) total[v] = zero();
      for (int64_t p = ps.first; p < ps.last; p++) {
        const int64_t top = p * d.stride_h - d.pad_t;
        if ((h - top) % d.dilation_h) continue;
        const int64_t rows = counted(top, d.H, d.R, d.dilation_h, d.pad_b, padding);
        for (int64_t q = qs.first; q < qs.last; q++) {
          const int64_t left = q * d.stride_w - d.pad_l;
          if ((w - left) % d.dilation_w) continue;
          const int64_t count = rows * counted(left, d.W, d.S, d.dilation_w, d.pad_r, padding);
          const Vec share = set1(1.0f / (float)count);
          const float* pg = g + (p * d.Q + q) * d.g_ld;
          for (int v = 0; v < vectors; v++)
            total[v] = fma(share, get(pg + v * Vec::N, (int)min_i(Vec::N, channels - v * Vec::N)), total[v]);
        }
      }
      for (int v = 0; v < vectors; v++)
        put(dx + (h * d.W + w) * d.dx_ld + v * Vec::N, total[v], (int)min_i(Vec::N, channels - v * Vec::N));
    }
  }
}

}  // namespace

void max_pool2d_backward(const Pool2dBackward& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t blocks = (d.C + BLOCK - 1) / BLOCK, items = d.N * blocks, last = chunk_begin(items, d.chunks, end);
  for (int64_t i = chunk_begin(items, d.chunks, begin); i < last; i++) {
    const int64_t n = i / blocks, c = i % blocks * BLOCK, in = n * d.H * d.W, out = n * d.P * d.Q;
    max_image(d, b.in[0] + out * d.g_ld + c, b.in[1] + in * d.x_ld + c, b.in[2] + out * d.y_ld + c,
              b.out + in * d.dx_ld + c, min_i(BLOCK, d.C - c));
  }
}

void avg_pool2d_backward(const Pool2dBackward& d, const Buffers& b, int64_t begin, int64_t end) {
  const bool tiled = d.stride_h == d.R && d.stride_w == d.S && d.dilation_h == 1 && d.dilation_w == 1 && d.pad_t == 0 &&
                     d.pad_l == 0 && d.P * d.R <= d.H && d.Q * d.S <= d.W;
  const int64_t blocks = (d.C + BLOCK - 1) / BLOCK, items = d.N * blocks, last = chunk_begin(items, d.chunks, end);
  for (int64_t i = chunk_begin(items, d.chunks, begin); i < last; i++) {
    const int64_t n = i / blocks, c = i % blocks * BLOCK;
    const bool narrow = d.C < Vec::N && d.dx_ld == d.C;
    (!tiled   ? avg_image
     : narrow ? avg_tiled_narrow
              : avg_tiled)(d, b.in[0] + n * d.P * d.Q * d.g_ld + c, b.out + n * d.H * d.W * d.dx_ld + c,
                           min_i(BLOCK, d.C - c));
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
