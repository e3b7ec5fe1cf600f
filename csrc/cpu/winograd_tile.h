// Winograd's transforms of one vector of channels: of an edge of T numbers in registers, and of whole tiles.
#pragma once
#include "cpu/kernels.h"
#include "cpu/winograd.h"

namespace fastconv {
namespace FASTCONV_ISA {

constexpr float A = 0.625f, B = 1.5f, A2 = A * A, B2 = B * B;
constexpr float A3 = A * A2, B3 = B * B2;
constexpr float A_5 = 0.75f, B_5 = 1.75f;
constexpr float A_8 = 0.5f, B_8 = 1.0f, C_8 = 2.25f;

// B^T d, points 0, 1, -1
static inline void transform_in(const Vec (&d)[4], Vec (&t)[4]) {
  t[0] = sub(d[2], d[0]);
  t[1] = add(d[1], d[2]);
  t[2] = sub(d[2], d[1]);
  t[3] = sub(d[3], d[1]);
}

// B^T d, points 0, a, -a, b
static inline void transform_in(const Vec (&d)[5], Vec (&t)[5]) {
  const Vec a = set1(A_5), a2 = set1(-A_5 * A_5), b = set1(-B_5);
  const Vec u = fma(b, d[2], d[3]), v = fma(b, d[1], d[2]), av = mul(a, v);
  t[0] = fma(a2, fma(b, d[0], d[1]), u);
  t[1] = add(u, av);
  t[2] = sub(u, av);
  t[3] = fma(a2, d[1], d[3]);
  t[4] = fma(a2, v, fma(b, d[3], d[4]));
}

// B^T d, points 0, a, -a, b, -b
static inline void transform_in(const Vec (&d)[6], Vec (&t)[6]) {
  const Vec a = set1(A), b = set1(B), a2 = set1(-A2), b2 = set1(-B2), sum = set1(-(A2 + B2)), product = set1(A2 * B2);
  Vec u = fma(b2, d[2], d[4]), v = mul(a, fma(b2, d[1], d[3]));
  t[1] = add(u, v);
  t[2] = sub(u, v);
  u = fma(a2, d[2], d[4]), v = mul(b, fma(a2, d[1], d[3]));
  t[3] = add(u, v);
  t[4] = sub(u, v);
  t[0] = fma(product, d[0], fma(sum, d[2], d[4]));
  t[5] = fma(product, d[1], fma(sum, d[3], d[5]));
}

// One pair of rows of B^T d for the points +-a of an edge of 8: even and odd parts of x^2 (x^2 - b^2)(x^2 - c^2), p and
// q being b^2 + c^2 and b^2 c^2.
static inline void pair_in(const Vec (&d)[8], float a, float p, float q, Vec& plus, Vec& minus) {
  const Vec mp = set1(-p), mq = set1(q);
  const Vec u = fma(mq, d[2], fma(mp, d[4], d[6])), v = mul(set1(a), fma(mq, d[1], fma(mp, d[3], d[5])));
  plus = add(u, v);
  minus = sub(u, v);
}

// B^T d, points 0, a, -a, b, -b, c, -c
static inline void transform_in(const Vec (&d)[8], Vec (&t)[8]) {
  constexpr float a = A_8 * A_8, b = B_8 * B_8, c = C_8 * C_8;
  pair_in(d, A_8, b + c, b * c, t[1], t[2]);
  pair_in(d, B_8, a + c, a * c, t[3], t[4]);
  pair_in(d, C_8, a + b, a * b, t[5], t[6]);
  const Vec e1 = set1(-(a + b + c)), e2 = set1(a * b + a * c + b * c), e3 = set1(-(a * b * c));
  t[0] = fma(e3, d[0], fma(e2, d[2], fma(e1, d[4], d[6])));
  t[7] = fma(e3, d[1], fma(e2, d[3], fma(e1, d[5], d[7])));
}

// A^T m of four numbers, two out
static inline void transform_out(const Vec (&m)[4], Vec (&y)[2]) {
  y[0] = add(m[0], add(m[1], m[2]));
  y[1] = add(m[3], sub(m[1], m[2]));
}

// A^T m of five numbers, three out
static inline void transform_out(const Vec (&m)[5], Vec (&y)[3]) {
  const Vec s = add(m[1], m[2]), d = sub(m[1], m[2]);
  y[0] = add(add(m[0], m[3]), s);
  y[1] = fma(set1(B_5), m[3], mul(set1(A_5), d));
  y[2] = fma(set1(B_5 * B_5), m[3], fma(set1(A_5 * A_5), s, m[4]));
}

// A^T m of six numbers, four out
static inline void transform_out(const Vec (&m)[6], Vec (&y)[4]) {
  const Vec sa = add(m[1], m[2]), da = sub(m[1], m[2]), sb = add(m[3], m[4]), db = sub(m[3], m[4]);
  y[0] = add(m[0], add(sa, sb));
  y[1] = fma(set1(B), db, mul(set1(A), da));
  y[2] = fma(set1(B2), sb, mul(set1(A2), sa));
  y[3] = add(fma(set1(B3), db, mul(set1(A3), da)), m[5]);
}

// A^T m of six numbers, three out
static inline void transform_out(const Vec (&m)[6], Vec (&y)[3]) {
  const Vec sa = add(m[1], m[2]), da = sub(m[1], m[2]), sb = add(m[3], m[4]), db = sub(m[3], m[4]);
  y[0] = add(m[0], add(sa, sb));
  y[1] = fma(set1(B), db, mul(set1(A), da));
  y[2] = add(fma(set1(B2), sb, mul(set1(A2), sa)), m[5]);
}

// A^T m of eight numbers, six out
static inline void transform_out(const Vec (&m)[8], Vec (&y)[6]) {
  constexpr float a = A_8, b = B_8, c = C_8;
  const Vec sa = add(m[1], m[2]), da = sub(m[1], m[2]), sb = add(m[3], m[4]), db = sub(m[3], m[4]);
  const Vec sc = add(m[5], m[6]), dc = sub(m[5], m[6]);
  y[0] = add(m[0], add(sa, add(sb, sc)));
  y[1] = fma(set1(c), dc, fma(set1(b), db, mul(set1(a), da)));
  y[2] = fma(set1(c * c), sc, fma(set1(b * b), sb, mul(set1(a * a), sa)));
  y[3] = fma(set1(c * c * c), dc, fma(set1(b * b * b), db, mul(set1(a * a * a), da)));
  y[4] = fma(set1(c * c * c * c), sc, fma(set1(b * b * b * b), sb, mul(set1(a * a * a * a), sa)));
  y[5] =
      add(fma(set1(c * c * c * c * c), dc, fma(set1(b * b * b * b * b), db, mul(set1(a * a * a * a * a), da))), m[7]);
}

// A^T m of six numbers, two out
static inline void transform_out(const Vec (&m)[6], Vec (&y)[2]) {
  const Vec sa = add(m[1], m[2]), da = sub(m[1], m[2]), sb = add(m[3], m[4]), db = sub(m[3], m[4]);
  y[0] = add(m[0], add(sa, sb));
  y[1] = add(fma(set1(B), db, mul(set1(A), da)), m[5]);
}

// One vector of channels of one tile, from x (its top left pixel, maybe outside the image) to T * T planes.
template <int T, bool INSIDE>
static inline void tile_in(const Winograd& d, const float* x, int64_t ih, int64_t iw, int n, float* planes,
                           int64_t plane) {
  Vec t[T][T];
#pragma GCC unroll 8
  for (int j = 0; j < T; j++) {
    Vec column[T], out[T];
#pragma GCC unroll 8
    for (int i = 0; i < T; i++) {
      const float* p = x + i * d.x_row + j * d.x_ld;
      if (INSIDE) {
        column[i] = load(p);
      } else {
        const bool ok = (uint64_t)(ih + i) < (uint64_t)d.H && (uint64_t)(iw + j) < (uint64_t)d.W;
        column[i] = ok ? (n == Vec::N ? load(p) : load_n(p, n)) : zero();
      }
    }
    transform_in(column, out);
#pragma GCC unroll 8
    for (int i = 0; i < T; i++) t[i][j] = out[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < T; i++) {
    Vec out[T];
    transform_in(t[i], out);
#pragma GCC unroll 8
    for (int j = 0; j < T; j++) {
      float* p = planes + (i * T + j) * plane;
      if (INSIDE || n == Vec::N) {
        store(p, out[j]);
      } else {
        store_n(p, out[j], n);
      }
    }
  }
}

// One vector of channels of a tile of one axis, to T planes of [PARTS][C].
template <int T, int PARTS, bool INSIDE>
static inline void line_in(const Winograd& d, const float* x, int64_t ih, int64_t iw, int n, float* planes,
                           int64_t plane) {
  constexpr int TAPS = 4, SIDE = T + (PARTS - 1) * TAPS;
  const bool down = d.axes == WINOGRAD_DOWN;
  const int64_t step = down ? d.x_row : d.x_ld;
  Vec pixels[SIDE];
#pragma GCC unroll 10
  for (int i = 0; i < SIDE; i++) {
    const float* p = x + i * step;
    if (INSIDE) {
      pixels[i] = load(p);
    } else {
      const int64_t h = ih + (down ? i : 0), w = iw + (down ? 0 : i);
      const bool ok = (uint64_t)h < (uint64_t)d.H && (uint64_t)w < (uint64_t)d.W;
      pixels[i] = ok ? (n == Vec::N ? load(p) : load_n(p, n)) : zero();
    }
  }
#pragma GCC unroll 2
  for (int part = 0; part < PARTS; part++) {
    Vec edge[T], out[T];
#pragma GCC unroll 6
    for (int i = 0; i < T; i++) edge[i] = pixels[part * TAPS + i];
    transform_in(edge, out);
#pragma GCC unroll 6
    for (int i = 0; i < T; i++) {
      float* p = planes + i * plane + part * d.C;
      if (INSIDE || n == Vec::N) {
        store(p, out[i]);
      } else {
        store_n(p, out[i], n);
      }
    }
  }
}

// What is done to each output, and where a tile's outputs go: pixels lie y_ld apart, rows of them y_row.
struct Output {
  Vec bias, lo, hi;
  float* y;
  int64_t y_ld, y_row;
};

static inline Vec clip(Vec v, const Output& o) { return min(o.hi, max(o.lo, v)); }

// One vector of columns of one tile: T * T planes to M x M pixels, or their maxima by twos.
template <int T, int M, bool POOL>
static inline void tile_out(const float* planes, int64_t plane, const Output& o) {
  Vec t[T][M];
#pragma GCC unroll 8
  for (int i = 0; i < T; i++) {
    Vec m[T];
#pragma GCC unroll 8
    for (int j = 0; j < T; j++) m[j] = load(planes + (i * T + j) * plane);
    transform_out(m, t[i]);
  }
  Vec left[M / 2];
#pragma GCC unroll 6
  for (int j = 0; j < M; j++) {
    Vec m[T], out[M];
#pragma GCC unroll 8
    for (int i = 0; i < T; i++) m[i] = t[i][j];
    transform_out(m, out);
#pragma GCC unroll 6
    for (int i = 0; i < M; i++) {
      out[i] = add(out[i], o.bias);
      if (!POOL) store(o.y + i * o.y_row + j * o.y_ld, clip(out[i], o));
    }
#pragma GCC unroll 3
    for (int i = 0; POOL && i < M / 2; i++) {
      const Vec pair = max(out[2 * i], out[2 * i + 1]);
      if (j % 2 == 0) {
        left[i] = pair;
      } else {
        store(o.y + i * o.y_row + j / 2 * o.y_ld, clip(max(left[i], pair), o));
      }
    }
  }
}

// One vector of columns of a tile of one axis: T planes to M pixels that lie `step` apart.
template <int T, int M>
static inline void line_out(const float* planes, int64_t plane, int64_t step, const Output& o) {
  Vec m[T], out[M];
#pragma GCC unroll 6
  for (int i = 0; i < T; i++) m[i] = load(planes + i * plane);
  transform_out(m, out);
#pragma GCC unroll 4
  for (int i = 0; i < M; i++) store(o.y + i * step, clip(add(out[i], o.bias), o));
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
