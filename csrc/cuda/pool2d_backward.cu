// Backward passes of pooling, a thread for each element of dx, which looks at the windows that cover it; so overlapping
// windows add in one order and nothing is set to zero first. Float storage only.
//   max      a window gives its g to the first pixel that is not below its maximum, row by row (as torch and the CPU):
//            the thread looks for one before its own.
//   average  the sum of g / count.
#include "boxes.cuh"
#include "training.cuh"

namespace fastconv {
namespace cuda {
namespace {

struct Span {
  int first, last;
};

// Outputs of an axis whose windows may cover pixel h.
__device__ inline Span covering(int h, int pad, int stride, int reach, int outputs) {
  const int at = h + pad, low = at - reach + 1;
  return {low <= 0 ? 0 : (low + stride - 1) / stride, (int)min_i(outputs, at / stride + 1)};
}

// How many taps of a window from `start` an average counts.
__device__ inline int counted(int start, int size, int count, int dilation, int after, bool padding) {
  const int reach = size + (padding ? after : 0);
  const int last = start < reach ? (int)min_i(count, (reach - 1 - start) / dilation + 1) : 0;
  const int first = start < 0 && !padding ? (int)min_i(count, (-start + dilation - 1) / dilation) : 0;
  return last > first ? last - first : 0;
}

struct Geometry {
  int H, W, C, P, Q, R, S, stride_h, stride_w, dilation_h, dilation_w, pad_t, pad_l, pad_b, pad_r;
  int64_t g_ld, x_ld, y_ld, dx_ld;
  bool padding;
};

// Whether a pixel before (r, s) in its window is not below the maximum, too.
__device__ inline bool taken(const Geometry& d, const float* image, int top, int left, int r, int s, float largest) {
  for (int i = 0; i <= r; i++) {
    const int h = top + i * d.dilation_h, end = i == r ? s : d.S;
    if (h < 0 || h >= d.H) continue;
    for (int j = 0; j < end; j++) {
      const int w = left + j * d.dilation_w;
      if (w >= 0 && w < d.W && !(image[((int64_t)h * d.W + w) * d.x_ld] < largest)) return true;
    }
  }
  return false;
}

template <bool Max>
__global__ void pool_backward_kernel(const __grid_constant__ Geometry d, uint32_t total, const float* g, const float* x,
                                     const float* y, float* dx) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t pixel = i / (uint32_t)d.C, c = i - pixel * (uint32_t)d.C;
  const uint32_t row = pixel / (uint32_t)d.W, n = row / (uint32_t)d.H;
  const int w = (int)(pixel - row * (uint32_t)d.W), h = (int)(row - n * (uint32_t)d.H);
  const Span ps = covering(h, d.pad_t, d.stride_h, (d.R - 1) * d.dilation_h + 1, d.P);
  const Span qs = covering(w, d.pad_l, d.stride_w, (d.S - 1) * d.dilation_w + 1, d.Q);
  const float* image = Max ? x + (int64_t)n * d.H * d.W * d.x_ld + c : nullptr;
  const float mine = Max ? x[pixel * d.x_ld + c] : 0.0f;
  float sum = 0.0f;
  for (int p = ps.first; p < ps.last; p++) {
    const int top = p * d.stride_h - d.pad_t;
    if ((h - top) % d.dilation_h) continue;
    for (int q = qs.first; q < qs.last; q++) {
      const int left = q * d.stride_w - d.pad_l;
      if ((w - left) % d.dilation_w) continue;
      const int64_t at = ((int64_t)n * d.P + p) * d.Q + q;
      if (Max) {
        const float largest = y[at * d.y_ld + c];
        if (mine < largest || taken(d, image, top, left, (h - top) / d.dilation_h, (w - left) / d.dilation_w, largest))
          continue;
        sum += g[at * d.g_ld + c];
      } else {
        const int count = counted(top, d.H, d.R, d.dilation_h, d.pad_b, d.padding) *
                          counted(left, d.W, d.S, d.dilation_w, d.pad_r, d.padding);
        sum = fmaf(1.0f / (float)count, g[at * d.g_ld + c], sum);
      }
    }
  }
  dx[pixel * d.dx_ld + c] = sum;
}

template <bool Max>
void pool_backward(const Pool2dBackward& d, const Call& c) {
  require_float(c);
  const uint32_t total = count_of(d.N * d.H * d.W * d.C);
  count_of((d.H + d.pad_t + d.pad_b) * (d.stride_h + d.dilation_h)), count_of(d.N * d.P * d.Q);
  count_of((d.W + d.pad_l + d.pad_r) * (d.stride_w + d.dilation_w));
  count_of(d.R * d.dilation_h + d.P * d.stride_h), count_of(d.S * d.dilation_w + d.Q * d.stride_w);
  const Geometry a{(int)d.H,
                   (int)d.W,
                   (int)d.C,
                   (int)d.P,
                   (int)d.Q,
                   (int)d.R,
                   (int)d.S,
                   (int)d.stride_h,
                   (int)d.stride_w,
                   (int)d.dilation_h,
                   (int)d.dilation_w,
                   (int)d.pad_t,
                   (int)d.pad_l,
                   (int)d.pad_b,
                   (int)d.pad_r,
                   d.g_ld,
                   d.x_ld,
                   d.y_ld,
                   d.dx_ld,
                   d.count_include_pad != 0};
  launch(pool_backward_kernel<Max>, grid_of(total), dim3(BLOCK), 0, c.stream, a, total, (const float*)c.in[0],
         (const float*)c.in[1], (const float*)c.in[2], (float*)c.out);
}

}  // namespace

void max_pool2d_backward(const Pool2dBackward& d, const Call& c) { pool_backward<true>(d, c); }
void avg_pool2d_backward(const Pool2dBackward& d, const Call& c) { pool_backward<false>(d, c); }

}  // namespace cuda
}  // namespace fastconv
