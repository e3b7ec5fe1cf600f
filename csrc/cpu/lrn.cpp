// y[c] = x[c] / (bias + alpha / size * sum of x^2 over channels [c - (size - 1) / 2, c + size / 2])^beta, per pixel.
// Chunks are pixels. Squares of 512 channels and their neighbours go to a buffer framed by zeros, then each output sums
// `size` shifted loads (a sliding sum would cancel). y must not alias x. beta = 0.75, what networks use, needs two
// square roots instead of log and exp.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { WIDTH = 512, HALO = 64 };

inline Vec power(Vec d, float beta) {
  if (beta == 0.75f) {
    Vec root = sqrt(d);
    return mul(root, sqrt(root));
  }
  if (beta == 0.5f) return sqrt(d);
  if (beta == 1.0f) return d;
  return exp(mul(set1(beta), log(d)));
}

void few_neighbours(const Lrn& d, const float* x, float* y) {
  const int64_t before = (d.size - 1) / 2, after = d.size / 2;
  float square[WIDTH + HALO + Vec::N];
  const Vec scale = set1(d.alpha / (float)d.size), bias = set1(d.bias);
  for (int64_t c0 = 0; c0 < d.C; c0 += WIDTH) {
    const int64_t n = min_i(WIDTH, d.C - c0), length = n + before + after;  // square[k] belongs to c0 - before + k
    const int64_t low = max_i(0, before - c0), high = min_i(length, d.C - c0 + before);
    for (int64_t k = 0; k < low; k++) square[k] = 0;
    for (int64_t k = low; k < high; k++) {
      const float v = x[c0 - before + k];
      square[k] = v * v;
    }
    for (int64_t k = high; k < length + Vec::N; k++) square[k] = 0;
    for (int64_t c = 0; c < n; c += Vec::N) {
      const int width = (int)min_i(Vec::N, n - c);
      Vec total = load(square + c);
      for (int64_t k = 1; k < d.size; k++) total = add(total, load(square + c + k));
      const Vec divisor = power(fma(scale, total, bias), d.beta);
      if (width == Vec::N)
        store(y + c0 + c, div(load(x + c0 + c), divisor));
      else
        store_n(y + c0 + c, div(load_n(x + c0 + c, width), divisor), width);
    }
  }
}

void many_neighbours(const Lrn& d, const float* x, float* y) {
  for (int64_t c = 0; c < d.C; c++) {
    double total = 0;
    const int64_t stop = min_i(d.C, c + d.size / 2 + 1);
    for (int64_t k = max_i(0, c - (d.size - 1) / 2); k < stop; k++) total += (double)x[k] * x[k];
    const float divisor = d.bias + d.alpha / (float)d.size * (float)total;
    store_n(y + c, div(set1(x[c]), power(set1(divisor), d.beta)), 1);
  }
}

}  // namespace

void lrn(const Lrn& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t first = chunk_begin(d.rows, d.chunks, begin), last = chunk_begin(d.rows, d.chunks, end);
  for (int64_t r = first; r < last; r++) {
    if (d.size <= HALO)
      few_neighbours(d, b.in[0] + r * d.x_ld, b.out + r * d.y_ld);
    else
      many_neighbours(d, b.in[0] + r * d.x_ld, b.out + r * d.y_ld);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
