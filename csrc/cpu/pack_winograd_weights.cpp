// Plain weights into Winograd's panels at run time, U = G g G^T: [panel][plane][c][columns], as cpu/pack.cpp makes them
// of constants. Those are transformed in double precision, once; here in float32, a vector of filters at a time, whose
// few roundings are below those of the products that follow. Filters are read by transposition where their taps touch.
// Chunks are ranges of (panel, block of 4 c). Lanes beyond K are zero.
#include "cpu/gemm.h"
#include "cpu/math.h"
#include "cpu/winograd.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { BLOCK = 4 };  // channels of a work item; conv_backward_checks.cpp counts chunks alike

struct Matrix {
  float g[6][5];
};

Matrix filter_matrix(int edge, int taps) {
  const double* points = edge == 4 ? WINOGRAD_POINTS_4 : edge == 5 ? WINOGRAD_POINTS_5 : WINOGRAD_POINTS_6;
  Matrix m = {};
  for (int j = 0; j < edge - 1; j++) {
    double value = 1;
    for (int k = 0; k < edge - 1; k++) value /= k == j ? 1 : points[j] - points[k];
    for (int i = 0; i < taps; i++, value *= points[j]) m.g[j][i] = (float)value;
  }
  m.g[edge - 1][taps - 1] = 1;
  return m;
}

// The taps of up to Vec::N filters, w_k apart.
template <int TAPS>
inline void read_filters(const PackWeights& d, const float* w, int64_t lanes, Vec (&g)[TAPS]) {
  if (d.w_k == 1) {
    for (int t = 0; t < TAPS; t++) {
      const float* p = w + t * d.w_tap;
      g[d.flip ? TAPS - 1 - t : t] = lanes == Vec::N ? load(p) : load_n(p, (int)lanes);
    }
    return;
  }
  for (int t0 = 0; t0 < TAPS; t0 += Vec::N) {
    const int n = TAPS - t0 < Vec::N ? TAPS - t0 : Vec::N;
    Vec r[Vec::N];
    for (int j = 0; j < Vec::N; j++) r[j] = j < lanes ? load_n(w + j * d.w_k + t0, n) : zero();
    transpose(r);
    for (int t = 0; t < n; t++) g[d.flip ? TAPS - 1 - (t0 + t) : t0 + t] = r[t];
  }
}

template <int T, int R>
void transform(const Matrix& m, const Vec (&g)[R * R], float* out, int64_t plane) {
  Vec t[T][R];
#pragma GCC unroll 8
  for (int i = 0; i < T; i++)
#pragma GCC unroll 8
    for (int s = 0; s < R; s++) {
      Vec total = mul(set1(m.g[i][0]), g[s]);
#pragma GCC unroll 8
      for (int k = 1; k < R; k++) total = fma(set1(m.g[i][k]), g[k * R + s], total);
      t[i][s] = total;
    }
#pragma GCC unroll 8
  for (int i = 0; i < T; i++)
#pragma GCC unroll 8
    for (int s = 0; s < T; s++) {
      Vec total = mul(t[i][0], set1(m.g[s][0]));
#pragma GCC unroll 8
      for (int k = 1; k < R; k++) total = fma(t[i][k], set1(m.g[s][k]), total);
      store(out + (i * T + s) * plane, total);
    }
}

template <int T, int R>
void pack(const PackWeights& d, const Buffers& b, int64_t begin, int64_t end) {
  const Panels panels(d.K, MAX_NV);
  const Matrix matrix = filter_matrix(T, R);
  const int64_t blocks = (d.C + BLOCK - 1) / BLOCK, items = panels.count * blocks;
  const int64_t last = chunk_begin(items, d.chunks, end);
  for (int64_t item = chunk_begin(items, d.chunks, begin); item < last; item++) {
    const int64_t panel = item / blocks, c0 = item % blocks * BLOCK, c1 = min_i(d.C, c0 + BLOCK);
    const int64_t k0 = panels.start(panel) * Vec::N, width = panels.width(panel) * Vec::N;
    float* out = b.out + k0 * T * T * d.C;
    for (int64_t c = c0; c < c1; c++)
      for (int64_t k = 0; k < width; k += Vec::N) {
        Vec g[R * R];
        const float* w = b.in[0] + (k0 + k) * d.w_k + c * d.w_c;
        read_filters(d, w, max_i(0, min_i(Vec::N, d.K - k0 - k)), g);
        transform<T, R>(matrix, g, out + c * width + k, d.C * width);
      }
  }
}

}  // namespace

void pack_winograd_weights(const PackWeights& d, const Buffers& b, int64_t begin, int64_t end) {
  if (d.m == 2 && d.taps == 25) return pack<6, 5>(d, b, begin, end);
  if (d.m == 2) return pack<4, 3>(d, b, begin, end);
  if (d.m == 3) return pack<5, 3>(d, b, begin, end);
  pack<6, 3>(d, b, begin, end);
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
