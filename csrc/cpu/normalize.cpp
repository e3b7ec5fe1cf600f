// y = (x - mean) / sqrt(variance + epsilon) * scale + shift; mean and variance over rows and width of x[o, r, g, w].
// Two passes over x before the one that writes: the variance of centred values has no cancellation. Sums run in blocks
// of 64 that are added in double.
//   wide groups    (layers, groups of 16 channels and more) along the row, one (o, g) after the other
//   narrow groups  (instances) channels side by side, BLOCK of them at a time, whole groups
// Chunks are ranges of (o, g), or of (o, block).
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { BLOCK = 64, WIDE = 16 };

// The sum of (x - mean)^power over n contiguous elements, n <= BLOCK vectors.
template <int power>
inline float row_sum(const float* x, int64_t n, float mean) {
  Vec total[2] = {zero(), zero()};
  const Vec m = set1(mean);
  int64_t i = 0;
  for (; i + Vec::N <= n; i += Vec::N) {
    const Vec v = sub(load(x + i), m);
    Vec& t = total[i / Vec::N % 2];
    t = power == 1 ? add(t, v) : fma(v, v, t);
  }
  float rest = sum(add(total[0], total[1]));
  for (; i < n; i++) rest += power == 1 ? x[i] - mean : (x[i] - mean) * (x[i] - mean);
  return rest;
}

template <int power>
double group_mean(const Normalize& d, const float* x, float mean) {
  double total = 0;
  for (int64_t r = 0; r < d.rows; r++)
    for (int64_t i = 0; i < d.width; i += BLOCK * Vec::N)
      total += (double)row_sum<power>(x + r * d.x_row + i, min_i(BLOCK * Vec::N, d.width - i), mean);
  return total / ((double)d.rows * (double)d.width);
}

// One row: centred, scaled and shifted.
inline void write_row(const float* x, float* y, Vec mean, Vec factor, const float* scale, const float* shift,
                      int64_t n) {
  for (int64_t i = 0; i < n; i += Vec::N) {
    const int w = (int)min_i(Vec::N, n - i);
    if (w == Vec::N) {
      const Vec v = mul(sub(load(x + i), mean), factor), s = scale ? load(scale + i) : set1(1.0f);
      store(y + i, fma(v, s, shift ? load(shift + i) : zero()));
    } else {
      const Vec v = mul(sub(load_n(x + i, w), mean), factor), s = scale ? load_n(scale + i, w) : set1(1.0f);
      store_n(y + i, fma(v, s, shift ? load_n(shift + i, w) : zero()), w);
    }
  }
}

void wide_group(const Normalize& d, const float* x, float* y, const float* scale, const float* shift) {
  const float mean = (float)group_mean<1>(d, x, 0.0f);
  const float factor = (float)(1.0 / __builtin_sqrt(group_mean<2>(d, x, mean) + (double)d.epsilon));
  for (int64_t r = 0; r < d.rows; r++)
    write_row(x + r * d.x_row, y + r * d.y_row, set1(mean), set1(factor), scale, shift, d.width);
}

// The sums of (x - mean[c])^power for `channels` columns, in double.
template <int power>
void column_sums(const Normalize& d, const float* x, int64_t channels, const float* mean, double* out) {
  float part[BLOCK + WIDE];
  for (int64_t c = 0; c < channels; c++) out[c] = 0;
  for (int64_t r0 = 0; r0 < d.rows; r0 += 64) {
    const int64_t r1 = min_i(d.rows, r0 + 64);
    for (int64_t c = 0; c < channels; c += Vec::N) {
      const int w = (int)min_i(Vec::N, channels - c);
      const Vec m = load_n(mean + c, w);
      Vec total = zero();
      for (int64_t r = r0; r < r1; r++) {
        const Vec v = sub(w == Vec::N ? load(x + r * d.x_row + c) : load_n(x + r * d.x_row + c, w), m);
        total = power == 1 ? add(total, v) : fma(v, v, total);
      }
      store_n(part + c, total, w);
    }
    for (int64_t c = 0; c < channels; c++) out[c] += (double)part[c];
  }
}

void narrow_groups(const Normalize& d, const float* x, float* y, const float* scale, const float* shift,
                   int64_t channels) {
  double sums[BLOCK + WIDE];
  float mean[BLOCK + WIDE], factor[BLOCK + WIDE];
  const double count = (double)d.rows * (double)d.width;
  for (int64_t c = 0; c < channels; c++) mean[c] = 0;
  column_sums<1>(d, x, channels, mean, sums);
  for (int64_t g = 0; g < channels; g += d.width) {
    double total = 0;
    for (int64_t c = g; c < g + d.width; c++) total += sums[c];
    for (int64_t c = g; c < g + d.width; c++) mean[c] = (float)(total / count);
  }
  column_sums<2>(d, x, channels, mean, sums);
  for (int64_t g = 0; g < channels; g += d.width) {
    double total = 0;
    for (int64_t c = g; c < g + d.width; c++) total += sums[c];
    for (int64_t c = g; c < g + d.width; c++)
      factor[c] = (float)(1.0 / __builtin_sqrt(total / count + (double)d.epsilon)) * (scale ? scale[c] : 1.0f);
  }
  for (int64_t r = 0; r < d.rows; r++)
    for (int64_t c = 0; c < channels; c += Vec::N) {
      const int w = (int)min_i(Vec::N, channels - c);
      const Vec v = sub(load_n(x + r * d.x_row + c, w), load_n(mean + c, w));
      store_n(y + r * d.y_row + c, fma(v, load_n(factor + c, w), shift ? load_n(shift + c, w) : zero()), w);
    }
}

}  // namespace

void normalize(const Normalize& d, const Buffers& b, int64_t begin, int64_t end) {
  if (d.rows == 0 || d.width == 0 || d.groups == 0) return;
  const bool wide = d.width >= WIDE || (d.rows == 1 && d.groups == 1);
  const int64_t at_once = wide ? 1 : max_i(1, BLOCK / d.width);
  const int64_t blocks = (d.groups + at_once - 1) / at_once, items = d.outer * blocks;
  const int64_t last = chunk_begin(items, d.chunks, end);
  for (int64_t item = chunk_begin(items, d.chunks, begin); item < last; item++) {
    const int64_t o = item / blocks, g = item % blocks * at_once, c = g * d.width;
    const float* x = b.in[0] + o * d.x_outer + c;
    float* y = b.out + o * d.y_outer + c;
    const float *scale = b.in[1] ? b.in[1] + c : nullptr, *shift = b.in[2] ? b.in[2] + c : nullptr;
    if (wide)
      wide_group(d, x, y, scale, shift);
    else
      narrow_groups(d, x, y, scale, shift, min_i(at_once, d.groups - g) * d.width);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
