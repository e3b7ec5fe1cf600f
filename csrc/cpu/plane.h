// y[i][j] = x[i][j] on a plane of a x b elements with any strides: the inner part of Copy and Pad.
//   rows        both contiguous along b
//   transpose   x contiguous along a, y along b: N x N registers at a time, a whole cache line per row of a tile;
//               planes of 2 to 4 rows or columns (images with 3 channels, channel shuffles) interleave directly
//   strided     anything else, element by element
#pragma once
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

struct Plane {
  const float* x;
  float* y;
  int64_t a, b;            // sizes
  int64_t xa, xb, ya, yb;  // strides
};

inline void copy_rows(const Plane& p) {
  for (int64_t i = 0; i < p.a; i++) {
    const float* x = p.x + i * p.xa;
    float* y = p.y + i * p.ya;
    if (p.b >= 512) {
      __builtin_memcpy(y, x, (size_t)p.b * sizeof(float));
      continue;
    }
    int64_t j = 0;
    for (; j + Vec::N <= p.b; j += Vec::N) store(y + j, load(x + j));
    if (j < p.b) store_n(y + j, load_n(x + j, (int)(p.b - j)), (int)(p.b - j));
  }
}

inline void copy_strided(const Plane& p) {
  for (int64_t i = 0; i < p.a; i++) {
    const float* x = p.x + i * p.xa;
    float* y = p.y + i * p.ya;
    if (p.xb == 0 && p.yb == 1)
      for (int64_t j = 0; j < p.b; j++) y[j] = *x;
    else
      for (int64_t j = 0; j < p.b; j++) y[j * p.yb] = x[j * p.xb];
  }
}

// y[i][j] = x[j][i] for j < M; the compiler turns a dense y into shuffles.
template <int M>
inline void interleave(const float* __restrict x, int64_t xb, float* __restrict y, int64_t ya, int64_t n) {
  if (ya == M) {
    for (int64_t i = 0; i < n; i++)
      for (int j = 0; j < M; j++) y[i * M + j] = x[j * xb + i];
  } else {
    for (int64_t i = 0; i < n; i++)
      for (int j = 0; j < M; j++) y[i * ya + j] = x[j * xb + i];
  }
}

// y[i][j] = x[j][i] for i < M
template <int M>
inline void deinterleave(const float* __restrict x, int64_t xb, float* __restrict y, int64_t ya, int64_t n) {
  if (xb == M) {
    for (int64_t j = 0; j < n; j++)
      for (int i = 0; i < M; i++) y[i * ya + j] = x[j * M + i];
  } else {
    for (int64_t j = 0; j < n; j++)
      for (int i = 0; i < M; i++) y[i * ya + j] = x[j * xb + i];
  }
}

template <bool whole>
inline void transpose_square(const Plane& p, int64_t i, int64_t j, int na, int nb) {
  Vec r[Vec::N];
  for (int k = 0; k < Vec::N; k++) {
    const float* x = p.x + (j + k) * p.xb + i;
    r[k] = whole ? load(x) : k < nb ? load_n(x, na) : zero();
  }
  transpose(r);
  for (int k = 0; k < Vec::N; k++) {
    float* y = p.y + (i + k) * p.ya + j;
    if (whole)
      store(y, r[k]);
    else if (k < na)
      store_n(y, r[k], nb);
  }
}

inline void copy_transposed(const Plane& p) {
  switch (p.b) {
    case 2:
      return interleave<2>(p.x, p.xb, p.y, p.ya, p.a);
    case 3:
      return interleave<3>(p.x, p.xb, p.y, p.ya, p.a);
    case 4:
      return interleave<4>(p.x, p.xb, p.y, p.ya, p.a);
  }
  switch (p.a) {
    case 2:
      return deinterleave<2>(p.x, p.xb, p.y, p.ya, p.b);
    case 3:
      return deinterleave<3>(p.x, p.xb, p.y, p.ya, p.b);
    case 4:
      return deinterleave<4>(p.x, p.xb, p.y, p.ya, p.b);
  }
  for (int64_t i = 0; i < p.a; i += Vec::N)
    for (int64_t j = 0; j < p.b; j += Vec::N) {
      const int na = (int)min_i(Vec::N, p.a - i), nb = (int)min_i(Vec::N, p.b - j);
      if (na == Vec::N && nb == Vec::N)
        transpose_square<true>(p, i, j, na, nb);
      else
        transpose_square<false>(p, i, j, na, nb);
    }
}

inline void copy_plane(const Plane& p) {
  const bool dense = p.yb == 1 || p.b == 1;
  if (dense && (p.xb == 1 || p.b == 1)) return copy_rows(p);
  if (dense && p.xa == 1) return copy_transposed(p);
  copy_strided(p);
}

}  // namespace
}  // namespace FASTCONV_ISA
}  // namespace fastconv
