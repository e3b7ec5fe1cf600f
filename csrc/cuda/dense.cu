// A dense layer for up to eight rows: y[m, k] = act(bias[k] + sum x[m, c] w[k, c] + residual[m, k]). The weights are
// all the work: a warp reads WARP_ROWS rows of w, 16 bytes a lane and several loads in flight, each byte once; x comes
// from L1. Sums are in float, over lanes by shuffles.
#include "conv_launch.h"

namespace fastconv {
namespace cuda {
namespace {

struct DenseArguments {
  const void *x, *w, *residual;
  const float* bias;
  void* y;
  int64_t x_ld, y_ld, res_ld, w_ld;
  int M, C, K;
  Activation act;
};

constexpr int WARPS = 4, WARP_ROWS = 2;

// Wide: rows of x lie on 16 bytes and have no tail. Rows beyond M are computed, too, and thrown away.
template <class T, int ROWS, bool Wide>
__global__ void __launch_bounds__(32 * WARPS) dense_rows(const __grid_constant__ DenseArguments d) {
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  const int64_t k = ((int64_t)blockIdx.x * WARPS + warp) * WARP_ROWS;
  if (k >= d.K) return;
  float sum[WARP_ROWS][ROWS] = {};
  const T* w[WARP_ROWS];
  FASTCONV_UNROLL
  for (int i = 0; i < WARP_ROWS; i++) w[i] = (const T*)d.w + min_i(k + i, d.K - 1) * d.w_ld;
  const T* x = (const T*)d.x;
#if defined(__CUDACC__)
#pragma unroll 4
#endif
  for (int c = lane * WIDTH<T>; c < d.C; c += 32 * WIDTH<T>) {
    Pack<T> pw[WARP_ROWS];
    FASTCONV_UNROLL
    for (int i = 0; i < WARP_ROWS; i++) pw[i] = load_pack(w[i] + c);
    FASTCONV_UNROLL
    for (int m = 0; m < ROWS; m++) {
      const T* from = x + min_i(m, d.M - 1) * d.x_ld + c;
      Pack<T> px;
      if (Wide) {
        px = load_pack(from);
      } else {
        FASTCONV_UNROLL
        for (int e = 0; e < WIDTH<T>; e++) px.v[e] = c + e < d.C ? to_float(from[e]) : 0.0f;
      }
      FASTCONV_UNROLL
      for (int i = 0; i < WARP_ROWS; i++) FASTCONV_UNROLL
      for (int e = 0; e < WIDTH<T>; e++) sum[i][m] = fmaf(px.v[e], pw[i].v[e], sum[i][m]);
    }
  }
  FASTCONV_UNROLL
  for (int i = 0; i < WARP_ROWS; i++) FASTCONV_UNROLL
  for (int m = 0; m < ROWS; m++) FASTCONV_UNROLL
  for (int o = 16; o > 0; o /= 2) sum[i][m] += __shfl_xor_sync(0xffffffffu, sum[i][m], o);
  FASTCONV_UNROLL
  for (int i = 0; i < WARP_ROWS; i++) FASTCONV_UNROLL
  for (int m = 0; m < ROWS; m++) {
    if (lane != (i * ROWS + m) % 32 || m >= d.M || k + i >= d.K) continue;
    float v = sum[i][m] + (d.bias ? d.bias[k + i] : 0.0f);
    if (d.residual) v += to_float(((const T*)d.residual)[m * d.res_ld + k + i]);
    ((T*)d.y)[m * d.y_ld + k + i] = from_float<T>(activate(d.act, v));
  }
}

}  // namespace

void dense(const Linear& d, const Call& c) {
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    const int64_t width = WIDTH<T>;
    if (d.C > 0x3fffffff || d.K > 0x3fffffff) throw std::invalid_argument("linear: too large for the GPU's kernels");
    DenseArguments a{c.in[0],  c.in[1],  c.in[3],  (const float*)c.in[2],        c.out,
                     d.x_ld,   d.y_ld,   d.res_ld, ceil_div(d.C, width) * width, (int)d.M,
                     (int)d.C, (int)d.K, d.act};
    const bool wide = (uintptr_t)a.x % 16 == 0 && d.C % width == 0 && (d.M == 1 || d.x_ld % width == 0);
    const dim3 grid((unsigned)ceil_div(d.K, WARPS * WARP_ROWS));
    auto kernel = d.M == 1 ? (wide ? dense_rows<T, 1, true> : dense_rows<T, 1, false>)
                           : (wide ? dense_rows<T, FEW_ROWS, true> : dense_rows<T, FEW_ROWS, false>);
    launch(kernel, grid, dim3(32 * WARPS), 0, c.stream, a);
  });
}

}  // namespace cuda
}  // namespace fastconv
