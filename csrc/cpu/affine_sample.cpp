// y[n,p,q,c] = x[n] at column a q + b p + t and row d q + e p + u, where matrix[n] = (a, b, t, d, e, u): rotations,
// zooms, translations and flips of images, each image by its own matrix. Between pixels bilinear, or the nearest one.
// Chunks are rows of y. Coordinates of a block of pixels are computed with vectors, the pixels one after the other:
// augmented images have one to four channels, which fill no vector; more of them are read in vectors. A pixel whose
// neighbours all lie inside x needs no look at the fill mode.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { BLOCK = 128 };
constexpr float FAR = 16777216.0f;  // beyond it floats do not count pixels any more

// The coordinate of x that stands for i, -1 for the constant.
inline int64_t place(int64_t i, int64_t n, FillMode mode) {
  if (i >= 0 && i < n) return i;
  if (mode == FillMode::constant) return -1;
  if (mode == FillMode::nearest) return i < 0 ? 0 : n - 1;
  const int64_t period = mode == FillMode::wrap ? n : 2 * n, k = (i % period + period) % period;
  return k < n ? k : period - 1 - k;
}

struct Block {
  float column[BLOCK], row[BLOCK];            // whole
  float column_part[BLOCK], row_part[BLOCK];  // what lies behind them, in [0, 1)
};

// whole + part = slope * (q0 + i) + start for i < n; NaN and what is far away end somewhere.
void coordinates(float slope, float start, int64_t q0, int64_t n, bool bilinear, float* whole, float* part) {
  float ramp[Vec::N];
  for (int i = 0; i < Vec::N; i++) ramp[i] = (float)i;
  const Vec s = set1(slope), half = set1(bilinear ? 0.0f : 0.5f);
  for (int64_t i = 0; i < n; i += Vec::N) {
    const Vec q = add(load(ramp), set1((float)(q0 + i)));
    const Vec at = add(fma(s, q, set1(start)), half), near = min(max(at, set1(-FAR)), set1(FAR)), f = floor(near);
    store(whole + i, f);
    store(part + i, sub(near, f));
  }
}

void mix(const float* const (&x)[4], const float (&w)[4], int64_t C, float* y) {
  int64_t c = 0;
  for (; c + Vec::N <= C; c += Vec::N) {
    Vec v = mul(set1(w[0]), load(x[0] + c));
    for (int k = 1; k < 4; k++) v = fma(set1(w[k]), load(x[k] + c), v);
    store(y + c, v);
  }
  for (; c < C; c++) y[c] = w[0] * x[0][c] + w[1] * x[1][c] + w[2] * x[2][c] + w[3] * x[3][c];
}

// The same where some neighbours lie outside of x: null for the constant.
void mix_some(const float* const (&x)[4], const float (&w)[4], float value, int64_t C, float* y) {
  for (int64_t c = 0; c < C; c++) {
    float v = 0;
    for (int k = 0; k < 4; k++) v += w[k] * (x[k] ? x[k][c] : value);
    y[c] = v;
  }
}

void bilinear(const AffineSample& d, const float* x, const Block& b, int64_t n, float* y) {
  const int64_t ld = d.x_ld, line = d.W * ld;
  for (int64_t i = 0; i < n; i++, y += d.y_ld) {
    const int64_t h = (int64_t)b.row[i], w = (int64_t)b.column[i];
    const float right = b.column_part[i], below = b.row_part[i], left = 1 - right, above = 1 - below;
    const float weight[4] = {above * left, above * right, below * left, below * right};
    if (h >= 0 && w >= 0 && h + 1 < d.H && w + 1 < d.W) {
      const float* p = x + h * line + w * ld;
      const float* const at[4] = {p, p + ld, p + line, p + line + ld};
      mix(at, weight, d.C, y);
      continue;
    }
    const float* at[4];
    for (int k = 0; k < 4; k++) {
      const int64_t r = place(h + k / 2, d.H, d.fill), s = place(w + k % 2, d.W, d.fill);
      at[k] = r < 0 || s < 0 ? nullptr : x + r * line + s * ld;
    }
    mix_some(at, weight, d.value, d.C, y);
  }
}

void nearest(const AffineSample& d, const float* x, const Block& b, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i++, y += d.y_ld) {
    const int64_t r = place((int64_t)b.row[i], d.H, d.fill), s = place((int64_t)b.column[i], d.W, d.fill);
    const float* p = r < 0 || s < 0 ? nullptr : x + (r * d.W + s) * d.x_ld;
    for (int64_t c = 0; c < d.C; c++) y[c] = p ? p[c] : d.value;
  }
}

}  // namespace

void affine_sample(const AffineSample& d, const Buffers& b, int64_t begin, int64_t end) {
  Block block;
  const int64_t rows = d.N * d.P, last = chunk_begin(rows, d.chunks, end);
  for (int64_t r = chunk_begin(rows, d.chunks, begin); r < last; r++) {
    const int64_t image = r / d.P;
    const float p = (float)(r % d.P), *m = b.in[1] + image * 6, *x = b.in[0] + image * d.H * d.W * d.x_ld;
    for (int64_t q = 0; q < d.Q; q += BLOCK) {
      const int64_t n = min_i(BLOCK, d.Q - q);
      float* y = b.out + (r * d.Q + q) * d.y_ld;
      coordinates(m[0], m[1] * p + m[2], q, n, d.bilinear, block.column, block.column_part);
      coordinates(m[3], m[4] * p + m[5], q, n, d.bilinear, block.row, block.row_part);
      if (d.bilinear)
        bilinear(d, x, block, n, y);
      else
        nearest(d, x, block, n, y);
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
