// y[c] = x[c] / (bias + alpha / size * sum of x^2 over channels [c - (size - 1) / 2, c + size / 2])^beta, per pixel.
// Chunks are pixels. Squares of up to 512 channels and their neighbours go to a buffer framed by zeros, then each
// output sums `size` shifted loads (a sliding sum would cancel). y must not alias x. beta = 0.75, what networks use,
// needs two square roots instead of log and exp.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { WIDTH = 512, HALO = 64, BUFFER = 4096 };

inline Vec power(Vec d, float beta) {
  if (beta == 0.75f) {
    Vec root = sqrt(d);
    return mul(root, sqrt(root));
  }
  if (beta == 0.5f) return sqrt(d);
  if (beta == 1.0f) return d;
  return exp(mul(set1(beta), log(d)));
}

// Channels [c0, c0 + n) of one pixel: squares, framed by zeros where channels end; square[k] belongs to c0 - before +
// k.
void write_squares(const float* x, int64_t C, int64_t c0, int64_t before, int64_t length, float* square) {
  const int64_t low = min_i(length, max_i(0, before - c0)), high = max_i(low, min_i(length, C - c0 + before));
  for (int64_t k = 0; k < low; k++) square[k] = 0;
  for (int64_t k = low; k < high; k++) {
    const float v = x[c0 - before + k];
    square[k] = v * v;
  }
  for (int64_t k = high; k < length + Vec::N; k++) square[k] = 0;
}

void normalise(const Lrn& d, const float* x, const float* square, float* y, int64_t n) {
  const Vec scale = set1(d.alpha / (float)d.size), bias = set1(d.bias);
  for (int64_t c = 0; c < n; c += Vec::N) {
    Vec total = load(square + c);
    for (int64_t k = 1; k < d.size; k++) total = add(total, load(square + c + k));
    const Vec divisor = power(fma(scale, total, bias), d.beta);
    const int width = (int)min_i(Vec::N, n - c);
    if (width == Vec::N)
      store(y + c, div(load(x + c), divisor));
    else
      store_n(y + c, div(load_n(x + c, width), divisor), width);
  }
}

// As many pixels at a time as the buffer holds: shifted loads right after the stores that they straddle would stall.
void few_neighbours(const Lrn& d, const float* x, float* y, int64_t rows) {
  float square[BUFFER];
  const int64_t before = (d.size - 1) / 2;
  for (int64_t c0 = 0; c0 < d.C; c0 += WIDTH) {
    const int64_t n = min_i(WIDTH, d.C - c0), length = n + d.size - 1, pitch = length + Vec::N, step = BUFFER / pitch;
    for (int64_t r0 = 0; r0 < rows; r0 += step) {
      const int64_t stop = min_i(rows, r0 + step);
      for (int64_t r = r0; r < stop; r++)
        write_squares(x + r * d.x_ld, d.C, c0, before, length, square + (r - r0) * pitch);
      for (int64_t r = r0; r < stop; r++)
        normalise(d, x + r * d.x_ld + c0, square + (r - r0) * pitch, y + r * d.y_ld + c0, n);
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
  if (d.size <= HALO) return few_neighbours(d, b.in[0] + first * d.x_ld, b.out + first * d.y_ld, last - first);
  for (int64_t r = first; r < last; r++) many_neighbours(d, b.in[0] + r * d.x_ld, b.out + r * d.y_ld);
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
