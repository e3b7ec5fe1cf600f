// Winograd's transform of filters, U = G g G^T, sixteen filters at a time, in double precision: weights are made once,
// and their rounding would add to every result. Plain loops over lanes that the compiler vectorises; no fused
// multiply-add, so that each level gives the same numbers.
#include <string.h>

#include "cpu/kernels.h"
#include "cpu/winograd.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int L = 16;  // filters at a time

// T: edge of the transformed filter; R: edge of the filter.
template <int T, int R>
void transform(const WinogradFilter& f, float* out, int64_t plane, const float* w, int64_t stride, const float* scale,
               int64_t lanes) {
  float rows[R * R][L];
  double g[R * R][L], t[T][R][L];
  if (lanes < L) memset(rows, 0, sizeof(rows));
  for (int64_t i = 0; i < lanes; i++) {
    for (int e = 0; e < R * R; e++) rows[e][i] = w[i * stride + e];
  }
  float factor[L];
  for (int i = 0; i < L; i++) factor[i] = 1.0f;
  if (scale) memcpy(factor, scale, sizeof(float) * lanes);
  for (int e = 0; e < R * R; e++) {
    for (int i = 0; i < L; i++) g[e][i] = (double)rows[e][i] * (double)factor[i];
  }
  for (int r = 0; r < T; r++) {
    for (int s = 0; s < R; s++) {
      for (int i = 0; i < L; i++) {
        double sum = f.g[r][0] * g[s][i];
        for (int k = 1; k < R; k++) sum += f.g[r][k] * g[k * R + s][i];
        t[r][s][i] = sum;
      }
    }
  }
  for (int r = 0; r < T; r++) {
    for (int s = 0; s < T; s++) {
      float u[L];
      for (int i = 0; i < L; i++) {
        double sum = t[r][0][i] * f.g[s][0];
        for (int k = 1; k < R; k++) sum += t[r][k][i] * f.g[s][k];
        u[i] = (float)sum;
      }
      float* o = out + (r * T + s) * plane;
      if (lanes == L) {
        memcpy(o, u, sizeof(u));
      } else {
        memcpy(o, u, sizeof(float) * lanes);
      }
    }
  }
}

// U = G g of filters of one axis, R taps each, of which f.there are in memory.
template <int T, int R>
void transform_line(const WinogradFilter& f, float* out, int64_t plane, const float* w, int64_t stride,
                    const float* scale, int64_t lanes) {
  double g[R][L] = {};
  for (int64_t i = 0; i < lanes; i++) {
    for (int e = 0; e < f.there; e++) g[e][i] = (double)w[i * stride + e] * (double)(scale ? scale[i] : 1.0f);
  }
  for (int r = 0; r < T; r++) {
    float u[L];
    for (int i = 0; i < L; i++) {
      double sum = f.g[r][0] * g[0][i];
      for (int k = 1; k < R; k++) sum += f.g[r][k] * g[k][i];
      u[i] = (float)sum;
    }
    memcpy(out + r * plane, u, sizeof(float) * lanes);
  }
}

}  // namespace

void winograd_filter(const WinogradFilter& f, float* out, int64_t plane, const float* w, int64_t stride,
                     const float* scale, int64_t lanes) {
  if (f.line) {
    if (f.taps == 4) return transform_line<6, 4>(f, out, plane, w, stride, scale, lanes);
    if (f.edge == 4) return transform_line<4, 3>(f, out, plane, w, stride, scale, lanes);
    if (f.edge == 5) return transform_line<5, 3>(f, out, plane, w, stride, scale, lanes);
    return transform_line<6, 3>(f, out, plane, w, stride, scale, lanes);
  }
  if (f.edge == 8) return transform<8, 3>(f, out, plane, w, stride, scale, lanes);
  if (f.edge == 4) return transform<4, 3>(f, out, plane, w, stride, scale, lanes);
  if (f.edge == 5) return transform<5, 3>(f, out, plane, w, stride, scale, lanes);
  if (f.taps == 3) return transform<6, 3>(f, out, plane, w, stride, scale, lanes);
  transform<6, 5>(f, out, plane, w, stride, scale, lanes);
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
