// Batch normalisation with the statistics of the batch over rows [rows, C], and its gradient; each in three steps.
//   forward   y = (x - mean) f + shift, f = scale / sqrt(variance + epsilon)
//   backward  dshift = sum g, dscale = sum g (x - mean) / s, s = sqrt(variance + epsilon), and
//             dx = f (g - dshift / rows - (x - mean) dscale / (s rows)) = a g + b (x - mean) + c
// Statistics run over parts of the rows (a chunk each), within a part over blocks of 32 rows that stay in L1: the
// block's mean, then its squared differences, joined to the part's by Chan's formula. Nothing cancels, and x is read
// once from memory. The finishing steps join the parts in double.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { ROWS_PER_BLOCK = 32 };

inline Vec get(const float* p, int n) { return n == Vec::N ? load(p) : load_n(p, n); }
inline void put(float* p, Vec a, int n) {
  if (n == Vec::N)
    store(p, a);
  else
    store_n(p, a, n);
}

// Joins rows [0, rows) of NV vectors of channels to mean and m2, which hold `before` rows already.
template <int NV, bool tail>
inline void join_block(const float* x, int64_t ld, int64_t rows, float* mean, float* m2, float before, int n) {
  Vec total[NV], spread[NV];
  for (int v = 0; v < NV; v++) total[v] = spread[v] = zero();
  for (int64_t r = 0; r < rows; r++)
    for (int v = 0; v < NV; v++) total[v] = add(total[v], tail ? load_n(x + r * ld, n) : load(x + r * ld + v * Vec::N));
  const Vec inverse = set1(1.0f / (float)rows);
  for (int v = 0; v < NV; v++) total[v] = mul(total[v], inverse);
  for (int64_t r = 0; r < rows; r++)
    for (int v = 0; v < NV; v++) {
      const Vec e = sub(tail ? load_n(x + r * ld, n) : load(x + r * ld + v * Vec::N), total[v]);
      spread[v] = fma(e, e, spread[v]);
    }
  const float all = before + (float)rows;
  const Vec share = set1((float)rows / all), weight = set1(before * ((float)rows / all));
  for (int v = 0; v < NV; v++) {
    const Vec m = tail ? load_n(mean, n) : load(mean + v * Vec::N), s = tail ? load_n(m2, n) : load(m2 + v * Vec::N);
    const Vec delta = sub(total[v], m), joined = fma(delta, share, m);
    const Vec sum = add(s, fma(mul(delta, delta), weight, spread[v]));
    if (tail) {
      store_n(mean, joined, n);
      store_n(m2, sum, n);
    } else {
      store(mean + v * Vec::N, joined);
      store(m2 + v * Vec::N, sum);
    }
  }
}

// Adds the sums of g and of g (x - mean) over `rows` rows to s and sx.
template <int NV, bool tail>
inline void join_gradient(const BatchNorm& d, const float* g, const float* x, int64_t rows, const float* mean, float* s,
                          float* sx, int n) {
  Vec total[NV], product[NV], m[NV];
  for (int v = 0; v < NV; v++) {
    total[v] = product[v] = zero();
    m[v] = tail ? load_n(mean, n) : load(mean + v * Vec::N);
  }
  for (int64_t r = 0; r < rows; r++)
    for (int v = 0; v < NV; v++) {
      const Vec a = tail ? load_n(g + r * d.g_ld, n) : load(g + r * d.g_ld + v * Vec::N);
      const Vec e = sub(tail ? load_n(x + r * d.x_ld, n) : load(x + r * d.x_ld + v * Vec::N), m[v]);
      total[v] = add(total[v], a);
      product[v] = fma(a, e, product[v]);
    }
  for (int v = 0; v < NV; v++) {
    if (tail) {
      store_n(s, add(load_n(s, n), total[v]), n);
      store_n(sx, add(load_n(sx, n), product[v]), n);
    } else {
      store(s + v * Vec::N, add(load(s + v * Vec::N), total[v]));
      store(sx + v * Vec::N, add(load(sx + v * Vec::N), product[v]));
    }
  }
}

inline int64_t part_begin(const BatchNorm& d, int64_t part) { return chunk_begin(d.rows, d.parts, part); }

}  // namespace

void batch_norm_stats(const BatchNorm& d, const Buffers& b, int64_t begin, int64_t end) {
  for (int64_t part = begin; part < end; part++) {
    float *mean = b.out + part * 2 * d.C, *m2 = mean + d.C;
    for (int64_t c = 0; c < 2 * d.C; c++) mean[c] = 0;
    const int64_t first = part_begin(d, part), last = part_begin(d, part + 1);
    for (int64_t r = first; r < last; r += ROWS_PER_BLOCK) {
      const int64_t rows = min_i(ROWS_PER_BLOCK, last - r);
      const float *x = b.in[0] + r * d.x_ld, before = (float)(r - first);
      int64_t c = 0;
      for (; c + 4 * Vec::N <= d.C; c += 4 * Vec::N)
        join_block<4, false>(x + c, d.x_ld, rows, mean + c, m2 + c, before, 0);
      for (; c + Vec::N <= d.C; c += Vec::N) join_block<1, false>(x + c, d.x_ld, rows, mean + c, m2 + c, before, 0);
      if (c < d.C) join_block<1, true>(x + c, d.x_ld, rows, mean + c, m2 + c, before, (int)(d.C - c));
    }
  }
}

void batch_norm_finish(const BatchNorm& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t last = chunk_begin(d.C, d.chunks, end);
  for (int64_t c = chunk_begin(d.C, d.chunks, begin); c < last; c++) {
    double n = 0, mean = 0, m2 = 0;
    for (int64_t part = 0; part < d.parts; part++) {
      const double rows = (double)(part_begin(d, part + 1) - part_begin(d, part));
      if (rows == 0) continue;
      const float* p = b.in[0] + part * 2 * d.C + c;
      const double delta = (double)p[0] - mean, all = n + rows;
      mean += delta * rows / all;
      m2 += (double)p[d.C] + delta * delta * n * rows / all;
      n = all;
    }
    const double variance = n > 0 ? m2 / n : 0;
    b.out[c] = (float)mean;
    b.more[0][c] = (float)variance;
    b.more[1][c] = (float)((double)b.in[1][c] / __builtin_sqrt(variance + (double)d.epsilon));
  }
}

void batch_norm_apply(const BatchNorm& d, const Buffers& b, int64_t begin, int64_t end) {
  const float *mean = b.in[1], *factor = b.in[2], *shift = b.in[3];
  const int64_t last = chunk_begin(d.rows, d.chunks, end);
  for (int64_t r = chunk_begin(d.rows, d.chunks, begin); r < last; r++) {
    const float* x = b.in[0] + r * d.x_ld;
    float* y = b.out + r * d.y_ld;
    for (int64_t c = 0; c < d.C; c += Vec::N) {
      const int n = (int)min_i(Vec::N, d.C - c);
      put(y + c, fma(sub(get(x + c, n), get(mean + c, n)), get(factor + c, n), get(shift + c, n)), n);
    }
  }
}

void batch_norm_backward_stats(const BatchNorm& d, const Buffers& b, int64_t begin, int64_t end) {
  for (int64_t part = begin; part < end; part++) {
    float *s = b.out + part * 2 * d.C, *sx = s + d.C;
    for (int64_t c = 0; c < 2 * d.C; c++) s[c] = 0;
    const int64_t last = part_begin(d, part + 1);
    for (int64_t r = part_begin(d, part); r < last; r += ROWS_PER_BLOCK) {
      const int64_t rows = min_i(ROWS_PER_BLOCK, last - r);
      const float *g = b.in[0] + r * d.g_ld, *x = b.in[1] + r * d.x_ld, *mean = b.in[2];
      int64_t c = 0;
      for (; c + 4 * Vec::N <= d.C; c += 4 * Vec::N)
        join_gradient<4, false>(d, g + c, x + c, rows, mean + c, s + c, sx + c, 0);
      for (; c + Vec::N <= d.C; c += Vec::N) join_gradient<1, false>(d, g + c, x + c, rows, mean + c, s + c, sx + c, 0);
      if (c < d.C) join_gradient<1, true>(d, g + c, x + c, rows, mean + c, s + c, sx + c, (int)(d.C - c));
    }
  }
}

void batch_norm_backward_finish(const BatchNorm& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t last = chunk_begin(d.C, d.chunks, end);
  for (int64_t c = chunk_begin(d.C, d.chunks, begin); c < last; c++) {
    double s = 0, sx = 0;
    for (int64_t part = 0; part < d.parts; part++) {
      s += (double)b.in[0][part * 2 * d.C + c];
      sx += (double)b.in[0][part * 2 * d.C + d.C + c];
    }
    const double inverse = 1.0 / __builtin_sqrt((double)b.in[1][c] + (double)d.epsilon);
    const double a = (double)b.in[2][c] * inverse, n = d.rows > 0 ? (double)d.rows : 1.0;
    b.out[c] = (float)(sx * inverse);
    b.more[0][c] = (float)s;
    b.more[1][c] = (float)a;
    b.more[1][d.C + c] = (float)(-a * inverse * inverse * sx / n);
    b.more[1][2 * d.C + c] = (float)(-a * s / n);
  }
}

void batch_norm_backward_apply(const BatchNorm& d, const Buffers& b, int64_t begin, int64_t end) {
  const float *mean = b.in[2], *a = b.in[3], *slope = a + d.C, *shift = slope + d.C;
  const int64_t last = chunk_begin(d.rows, d.chunks, end);
  for (int64_t r = chunk_begin(d.rows, d.chunks, begin); r < last; r++) {
    const float *g = b.in[0] + r * d.g_ld, *x = b.in[1] + r * d.x_ld;
    float* y = b.out + r * d.y_ld;
    for (int64_t c = 0; c < d.C; c += Vec::N) {
      const int n = (int)min_i(Vec::N, d.C - c);
      const Vec e = fma(sub(get(x + c, n), get(mean + c, n)), get(slope + c, n), get(shift + c, n));
      put(y + c, fma(get(g + c, n), get(a + c, n), e), n);
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
