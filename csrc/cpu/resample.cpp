// y[o,p,r,c] = sum over t of weight[p,t] x[o, index[p,t], r, c]: one axis is gathered or resized. Vectors along c,
// which takes in r where rows touch. Chunks are ranges of (o, p). Where the axis is the innermost one (rows = C = 1) a
// loop runs on single elements; the layout of images avoids that.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

// The table may come from a file: whatever it says, the row exists.
inline int64_t clamped(float index, int64_t n) {
  return index >= (float)n ? n - 1 : index > 0 ? min_i((int64_t)index, n - 1) : 0;
}

void copy_row(const float* x, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + Vec::N <= n; i += Vec::N) store(y + i, load(x + i));
  for (; i < n; i++) y[i] = x[i];
}

void combine(const float* x, int64_t step, const float* index, const float* weight, int64_t taps, int64_t n, float* y,
             int64_t width) {
  for (int64_t i = 0; i < width; i += Vec::N) {
    const int w = (int)min_i(Vec::N, width - i);
    Vec total = zero();
    if (w == Vec::N) {
      for (int64_t t = 0; t < taps; t++) total = fma(set1(weight[t]), load(x + clamped(index[t], n) * step + i), total);
      store(y + i, total);
    } else {
      for (int64_t t = 0; t < taps; t++)
        total = fma(set1(weight[t]), load_n(x + clamped(index[t], n) * step + i, w), total);
      store_n(y + i, total, w);
    }
  }
}

// Elements [p, stop) of one line.
void pick_elements(const Resample& d, const float* x, const float* index, const float* weight, float* y, int64_t p,
                   int64_t stop) {
  for (; p < stop; p++) {
    float total = 0;
    if (!weight)
      total = x[clamped(index[p], d.n) * d.x_n];
    else
      for (int64_t t = p * d.taps; t < (p + 1) * d.taps; t++) total += weight[t] * x[clamped(index[t], d.n) * d.x_n];
    y[p * d.y_p] = total;
  }
}

}  // namespace

void resample(const Resample& d, const Buffers& b, int64_t begin, int64_t end) {
  const bool touching = d.rows <= 1 || (d.x_row == d.C && d.y_row == d.C);
  const int64_t rows = touching ? 1 : d.rows, width = touching ? d.rows * d.C : d.C;
  const int64_t items = d.outer * d.P, last = chunk_begin(items, d.chunks, end);
  for (int64_t item = chunk_begin(items, d.chunks, begin); item < last; item++) {
    const int64_t o = item / d.P, p = item % d.P;
    if (rows == 1 && width == 1) {
      const int64_t stop = min_i(d.P, p + last - item);
      pick_elements(d, b.in[0] + o * d.x_outer, b.in[1], b.in[2], b.out + o * d.y_outer, p, stop);
      item += stop - p - 1;
      continue;
    }
    const float* x = b.in[0] + o * d.x_outer;
    float* y = b.out + o * d.y_outer + p * d.y_p;
    const float* index = b.in[1] + p * d.taps;
    if (!b.in[2]) {
      const float* from = x + clamped(*index, d.n) * d.x_n;
      for (int64_t r = 0; r < rows; r++) copy_row(from + r * d.x_row, y + r * d.y_row, width);
      continue;
    }
    const float* weight = b.in[2] + p * d.taps;
    for (int64_t r = 0; r < rows; r++)
      combine(x + r * d.x_row, d.x_n, index, weight, d.taps, d.n, y + r * d.y_row, width);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
