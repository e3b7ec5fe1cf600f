// Max and average pooling, and the places of maxima: a thread for 16 bytes of channels of one output pixel, or for one
// channel. Neighbouring threads share their rows in L1. Max: NaN never wins.
#include "boxes.cuh"
#include "pack.cuh"

namespace fastconv {
namespace cuda {
namespace {

// The taps [first, last) that lie in the image, and how many an average counts.
struct Taps {
  int64_t first, last, counted;
};

__device__ inline Taps taps(int64_t start, int64_t size, int64_t count, int64_t dilation, int64_t pad_after,
                            bool count_padding) {
  Taps t;
  t.first = start < 0 ? min_i(count, (-start + dilation - 1) / dilation) : 0;
  t.last = start < size ? min_i(count, (size - 1 - start) / dilation + 1) : 0;
  t.last = max_i(t.last, t.first);
  const int64_t reach = size + pad_after;
  t.counted = !count_padding ? t.last - t.first : start < reach ? min_i(count, (reach - 1 - start) / dilation + 1) : 0;
  return t;
}

struct Pixel {
  uint32_t n, p, q, c;
};

__device__ inline Pixel pixel_of(const Pool2d& d, uint32_t i, uint32_t across) {
  Pixel x;
  x.c = i % across, i /= across;
  x.q = i % (uint32_t)d.Q, i /= (uint32_t)d.Q;
  x.p = i % (uint32_t)d.P, x.n = i / (uint32_t)d.P;
  return x;
}

template <class T, int V, bool average>
__global__ void pool_kernel(const __grid_constant__ Pool2d d, uint32_t total, const T* x, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const Pixel o = pixel_of(d, i, (uint32_t)d.C / V);
  const int64_t top = o.p * d.stride_h - d.pad_t, left = o.q * d.stride_w - d.pad_l;
  const bool padding = d.count_include_pad != 0;
  const Taps h = taps(top, d.H, d.R, d.dilation_h, d.pad_b, padding);
  const Taps w = taps(left, d.W, d.S, d.dilation_w, d.pad_r, padding);
  const T* image = x + o.n * d.x_image + (int64_t)o.c * V;
  float total_of[V];
  FASTCONV_UNROLL
  for (int e = 0; e < V; e++) total_of[e] = average ? 0.0f : -infinity();
  for (int64_t r = h.first; r < h.last; r++)
    for (int64_t s = w.first; s < w.last; s++) {
      const T* from = image + (top + r * d.dilation_h) * d.x_row + (left + s * d.dilation_w) * d.x_ld;
      float v[V];
      if (V > 1) {
        const Pack<T> pack = load_pack(from);
        FASTCONV_UNROLL
        for (int e = 0; e < V; e++) v[e] = pack.v[e];
      } else {
        v[0] = to_float(*from);
      }
      FASTCONV_UNROLL
      for (int e = 0; e < V; e++) total_of[e] = average ? total_of[e] + v[e] : v[e] > total_of[e] ? v[e] : total_of[e];
    }
  const int64_t counted = h.counted * w.counted;
  const float inverse = average ? (counted ? 1.0f / (float)counted : 0.0f) : 1.0f;
  T* to = y + ((int64_t)o.n * d.P * d.Q + (int64_t)o.p * d.Q + o.q) * d.y_ld + (int64_t)o.c * V;
  if (V > 1) {
    Pack<T> pack;
    FASTCONV_UNROLL
    for (int e = 0; e < V; e++) pack.v[e] = average ? total_of[e] * inverse : total_of[e];
    store_pack(to, pack);
  } else {
    *to = from_float<T>(average ? total_of[0] * inverse : total_of[0]);
  }
}

template <class T>
__global__ void index_kernel(const __grid_constant__ Pool2d d, uint32_t total, const T* x, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const Pixel o = pixel_of(d, i, (uint32_t)d.C);
  const int64_t top = o.p * d.stride_h - d.pad_t, left = o.q * d.stride_w - d.pad_l;
  const Taps rows = taps(top, d.H, d.R, d.dilation_h, d.pad_b, false);
  const Taps columns = taps(left, d.W, d.S, d.dilation_w, d.pad_r, false);
  float best = -infinity();
  int64_t at = -1;
  for (int64_t r = rows.first; r < rows.last; r++)
    for (int64_t s = columns.first; s < columns.last; s++) {
      const int64_t h = top + r * d.dilation_h, w = left + s * d.dilation_w;
      const float v = to_float(x[o.n * d.x_image + h * d.x_row + w * d.x_ld + o.c]);
      if (v > best || at < 0) {
        best = v;
        at = d.columns_first ? w * d.H + h : h * d.W + w;
      }
    }
  const int64_t place = ((int64_t)o.n * d.C + o.c) * d.H * d.W + max_i(at, 0);
  y[((int64_t)o.n * d.P * d.Q + (int64_t)o.p * d.Q + o.q) * d.y_ld + o.c] = from_float<T>((float)place);
}

template <bool average>
void pool(const Pool2d& d, const Call& c) {
  const int64_t total = d.N * d.P * d.Q * d.C;
  if (total == 0) return;
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    bool wide = (uintptr_t)c.in[0] % 16 == 0 && (uintptr_t)c.out % 16 == 0;
    for (int64_t s : {d.C, d.x_image, d.x_row, d.x_ld, d.y_ld}) wide = wide && s % WIDTH<T> == 0;
    const uint32_t threads = count_of(wide ? total / WIDTH<T> : total);
    launch(wide ? pool_kernel<T, WIDTH<T>, average> : pool_kernel<T, 1, average>, grid_of(threads), dim3(BLOCK), 0,
           c.stream, d, threads, (const T*)c.in[0], (T*)c.out);
  });
}

}  // namespace

void max_pool2d(const Pool2d& d, const Call& c) { pool<false>(d, c); }
void avg_pool2d(const Pool2d& d, const Call& c) { pool<true>(d, c); }

void max_pool2d_index(const Pool2d& d, const Call& c) {
  const uint32_t total = count_of(d.N * d.P * d.Q * d.C);
  if (total == 0) return;
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    launch(index_kernel<T>, grid_of(total), dim3(BLOCK), 0, c.stream, d, total, (const T*)c.in[0], (T*)c.out);
  });
}

}  // namespace cuda
}  // namespace fastconv
