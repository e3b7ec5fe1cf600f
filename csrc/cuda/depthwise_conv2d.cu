// Depthwise convolution: bound by memory, so a thread keeps 16 bytes of channels of RUN neighbouring outputs in
// registers and reads each pixel of their common window once. Filters are float32 [R S][K]. Any other filter or channel
// count takes the plain kernel, one channel of one pixel a thread.
#include "boxes.cuh"
#include "pack.cuh"

namespace fastconv {
namespace cuda {
namespace {

struct Pointers {
  const void *x, *residual;
  const float *w, *bias;
  void* y;
};

template <class T, int R, int S, int STRIDE, int RUN>
__global__ void depthwise_run(const __grid_constant__ DepthwiseConv2d d, const __grid_constant__ Pointers b,
                              uint32_t total) {
  constexpr int V = WIDTH<T>, SPAN = (RUN - 1) * STRIDE + S;
  uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t across = (uint32_t)d.C / V, runs = ((uint32_t)d.Q + RUN - 1) / RUN;
  const int64_t k = (int64_t)(i % across) * V;
  i /= across;
  const int q0 = (int)(i % runs) * RUN;
  i /= runs;
  const int64_t p = i % (uint32_t)d.P, n = i / (uint32_t)d.P;
  const int top = (int)(p * STRIDE - d.pad_t), left = (int)(q0 * STRIDE - d.pad_l);
  float sum[RUN][V];
  FASTCONV_UNROLL
  for (int j = 0; j < RUN; j++) FASTCONV_UNROLL
  for (int e = 0; e < V; e++) sum[j][e] = b.bias ? b.bias[k + e] : 0.0f;
  FASTCONV_UNROLL
  for (int r = 0; r < R; r++) {
    if ((unsigned)(top + r) >= (unsigned)d.H) continue;
    const T* row = (const T*)b.x + n * d.x_image + (top + r) * d.x_row + k;
    float w[S][V];
    FASTCONV_UNROLL
    for (int s = 0; s < S; s++) FASTCONV_UNROLL
    for (int e = 0; e < V; e += 4) {
      const Pack<float> four = load_pack(b.w + (int64_t)(r * S + s) * d.K + k + e);
      FASTCONV_UNROLL
      for (int f = 0; f < 4; f++) w[s][e + f] = four.v[f];
    }
    FASTCONV_UNROLL
    for (int at = 0; at < SPAN; at++) {
      if ((unsigned)(left + at) >= (unsigned)d.W) continue;
      const Pack<T> x = load_pack(row + (left + at) * d.x_ld);
      FASTCONV_UNROLL
      for (int j = 0; j < RUN; j++) {
        const int s = at - j * STRIDE;
        if (s < 0 || s >= S) continue;
        FASTCONV_UNROLL
        for (int e = 0; e < V; e++) sum[j][e] = fmaf(x.v[e], w[s][e], sum[j][e]);
      }
    }
  }
  FASTCONV_UNROLL
  for (int j = 0; j < RUN; j++) {
    if (q0 + j >= d.Q) continue;
    const int64_t m = (n * d.P + p) * d.Q + q0 + j;
    Pack<T> y;
    if (b.residual) y = load_pack((const T*)b.residual + m * d.res_ld + k);
    FASTCONV_UNROLL
    for (int e = 0; e < V; e++) y.v[e] = activate(d.act, sum[j][e] + (b.residual ? y.v[e] : 0.0f));
    store_pack((T*)b.y + m * d.y_ld + k, y);
  }
}

template <class T>
__global__ void depthwise_plain(const __grid_constant__ DepthwiseConv2d d, const __grid_constant__ Pointers b,
                                uint32_t total) {
  uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t k = i % (uint32_t)d.K, m = i / (uint32_t)d.K;
  const uint32_t q = m % (uint32_t)d.Q, p = m / (uint32_t)d.Q % (uint32_t)d.P, n = m / (uint32_t)(d.P * d.Q);
  const T* x = (const T*)b.x + n * d.x_image + k / (uint32_t)d.multiplier;
  float sum = b.bias ? b.bias[k] : 0.0f;
  for (int64_t r = 0; r < d.R; r++) {
    const int64_t h = p * d.stride_h - d.pad_t + r * d.dilation_h;
    if (h < 0 || h >= d.H) continue;
    for (int64_t s = 0; s < d.S; s++) {
      const int64_t w = q * d.stride_w - d.pad_l + s * d.dilation_w;
      if (w < 0 || w >= d.W) continue;
      sum = fmaf(to_float(x[h * d.x_row + w * d.x_ld]), b.w[(r * d.S + s) * d.K + k], sum);
    }
  }
  if (b.residual) sum += to_float(((const T*)b.residual)[m * d.res_ld + k]);
  ((T*)b.y)[m * d.y_ld + k] = from_float<T>(activate(d.act, sum));
}

template <class T, int R, int S, int STRIDE, int RUN>
void launch_run(const DepthwiseConv2d& d, const Pointers& b, cudaStream_t stream) {
  const uint32_t threads = count_of(d.N * d.P * ceil_div(d.Q, RUN) * (d.C / WIDTH<T>));
  launch(depthwise_run<T, R, S, STRIDE, RUN>, dim3((threads + 127) / 128), dim3(128), 0, stream, d, b, threads);
}

}  // namespace

void depthwise_conv2d(const DepthwiseConv2d& d, const Call& c) {
  const int64_t total = d.N * d.P * d.Q * d.K;
  if (total == 0) return;
  const Pointers b{c.in[0], c.in[3], (const float*)c.in[1], (const float*)c.in[2], c.out};
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    bool wide = d.multiplier == 1 && d.dilation_h == 1 && d.dilation_w == 1 && d.stride_h == d.stride_w && d.R == d.S;
    for (const void* p : {b.x, b.residual, (const void*)b.y}) wide = wide && (uintptr_t)p % 16 == 0;
    for (int64_t s : {d.C, d.x_image, d.x_row, d.x_ld, d.y_ld, b.residual ? d.res_ld : 0})
      wide = wide && s % WIDTH<T> == 0;
    if (wide && d.R == 3 && d.stride_h == 1) return launch_run<T, 3, 3, 1, 4>(d, b, c.stream);
    if (wide && d.R == 3 && d.stride_h == 2) return launch_run<T, 3, 3, 2, 2>(d, b, c.stream);
    if (wide && d.R == 5 && d.stride_h == 1) return launch_run<T, 5, 5, 1, 4>(d, b, c.stream);
    if (wide && d.R == 5 && d.stride_h == 2) return launch_run<T, 5, 5, 2, 2>(d, b, c.stream);
    launch(depthwise_plain<T>, grid_of(count_of(total)), dim3(BLOCK), 0, c.stream, d, b, (uint32_t)total);
  });
}

}  // namespace cuda
}  // namespace fastconv
