// Operations that only move elements: copy (transpose, slice, concat, expand), pad, resample, take.
#include "boxes.cuh"
#include "pack.cuh"

namespace fastconv {
namespace cuda {
namespace {

template <class T>
__global__ void copy_kernel(const __grid_constant__ Boxes<2> d, const T* x, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= d.total) return;
  int64_t at[2];
  d.locate(i, at);
  y[at[1]] = x[at[0]];
}

__global__ void copy_wide(const __grid_constant__ Boxes<2> d, const char* x, char* y, int size) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= d.total) return;
  int64_t at[2];
  d.locate(i, at);
  *(uint4*)(y + at[1] * size) = *(const uint4*)(x + at[0] * size);
}

// The coordinate of x that stands for i, or -1 for the constant.
__device__ inline int64_t source(int64_t i, int64_t n, PadMode mode) {
  if (i >= 0 && i < n) return i;
  if (mode == PadMode::constant) return -1;
  if (mode == PadMode::edge || n == 1) return i < 0 ? 0 : n - 1;
  const int64_t period = 2 * (n - 1), k = (i % period + period) % period;
  return k < n ? k : period - k;
}

// A thread makes V neighbours of the innermost dimension, from wherever they lie in x: an image that becomes N H W C is
// written 16 bytes at a time.
template <class T, int V>
__global__ void pad_kernel(const __grid_constant__ Pad d, uint32_t total, const T* x, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const int last = (int)d.rank - 1;
  const uint32_t across = (uint32_t)d.dims[last] / V, first = i % across * V;
  uint32_t rest = i / across;
  int64_t from = 0, to = first * d.y_stride[last];
  bool inside = true;
  for (int axis = last - 1; axis >= 0; axis--) {
    const uint32_t n = (uint32_t)d.dims[axis], next = rest / n, index = rest - next * n;
    const int64_t s = source((int64_t)index - d.before[axis], d.x_dims[axis], d.mode);
    inside = inside && s >= 0;
    from += s * d.x_stride[axis];
    to += index * d.y_stride[axis];
    rest = next;
  }
  float v[V];
  FASTCONV_UNROLL
  for (int e = 0; e < V; e++) {
    const int64_t s = source((int64_t)first + e - d.before[last], d.x_dims[last], d.mode);
    v[e] = inside && s >= 0 ? to_float(x[from + s * d.x_stride[last]]) : d.value;
  }
  write<T, V>(y + to, v);
}

__device__ inline int64_t clamped(float index, int64_t n) {
  return index >= (float)n ? n - 1 : index > 0 ? min_i((int64_t)index, n - 1) : 0;
}

template <class T, int V>
__global__ void resample_kernel(const __grid_constant__ Resample d, uint32_t total, const T* x, const float* index,
                                const float* weight, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t across = (uint32_t)d.C / V;
  uint32_t rest = i / across;
  const int64_t c = (int64_t)(i - rest * across) * V;
  const uint32_t r = rest % (uint32_t)d.rows;
  rest /= (uint32_t)d.rows;
  const uint32_t p = rest % (uint32_t)d.P, o = rest / (uint32_t)d.P;
  const T* from = x + o * d.x_outer + r * d.x_row + c;
  T* to = y + o * d.y_outer + p * d.y_p + r * d.y_row + c;
  float sum[V] = {};
  for (int64_t t = 0; t < d.taps; t++) {
    const float w = weight ? weight[p * d.taps + t] : 1.0f;
    const T* at = from + clamped(index[p * d.taps + t], d.n) * d.x_n;
    if (V > 1) {
      const Pack<T> v = load_pack(at);
      FASTCONV_UNROLL
      for (int e = 0; e < V; e++) sum[e] = weight ? fmaf(w, v.v[e], sum[e]) : v.v[e];
    } else {
      sum[0] = weight ? fmaf(w, to_float(*at), sum[0]) : to_float(*at);
    }
  }
  if (V > 1) {
    Pack<T> v;
    FASTCONV_UNROLL
    for (int e = 0; e < V; e++) v.v[e] = sum[e];
    store_pack(to, v);
  } else {
    *to = from_float<T>(sum[0]);
  }
}

template <class T>
__global__ void take_kernel(const __grid_constant__ Take d, uint32_t total, const T* x, const T* index, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const int64_t at = clamped(to_float(index[i]), d.n), row = d.k * d.inner;
  y[i] = x[i / row * d.n * d.inner + at * d.inner + i % d.inner];
}

}  // namespace

void copy(const Copy& d, const Call& c) {
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    Boxes<2> boxes = boxes_of<2>(d.rank, d.dims, {d.x_stride, d.y_stride});
    if (boxes.total == 0) return;
    if (boxes.stride[0][MAX_RANK - 1] == 1 && boxes.wide(WIDTH<T>, {c.in[0], c.out}, 1)) {
      boxes.narrow(WIDTH<T>);
      launch(copy_wide, grid_of(boxes.total), dim3(BLOCK), 0, c.stream, boxes, (const char*)c.in[0], (char*)c.out,
             (int)sizeof(T));
    } else {
      launch(copy_kernel<T>, grid_of(boxes.total), dim3(BLOCK), 0, c.stream, boxes, (const T*)c.in[0], (T*)c.out);
    }
  });
}

void pad(const Pad& given, const Call& c) {
  Pad d = given;
  if (d.rank == 0) d.rank = d.dims[0] = d.x_dims[0] = d.x_stride[0] = d.y_stride[0] = 1, d.before[0] = 0;
  int64_t total = 1;
  for (int64_t i = 0; i < d.rank; i++) total = count_of(total * count_of(d.dims[i]));
  if (total == 0) return;
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    const int64_t last = d.rank - 1;
    bool wide = (uintptr_t)c.out % 16 == 0 && d.y_stride[last] == 1 && d.dims[last] % WIDTH<T> == 0;
    for (int64_t i = 0; i < last; i++) wide = wide && d.y_stride[i] % WIDTH<T> == 0;
    const uint32_t threads = (uint32_t)(wide ? total / WIDTH<T> : total);
    launch(wide ? pad_kernel<T, WIDTH<T>> : pad_kernel<T, 1>, grid_of(threads), dim3(BLOCK), 0, c.stream, d, threads,
           (const T*)c.in[0], (T*)c.out);
  });
}

void resample(const Resample& d, const Call& c) {
  const int64_t total = d.outer * d.P * d.rows * d.C;
  if (total == 0) return;
  const float *index = (const float*)c.in[1], *weight = (const float*)c.in[2];
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    const int64_t strides[] = {d.C, d.x_outer, d.x_n, d.x_row, d.y_outer, d.y_p, d.y_row};
    bool wide = (uintptr_t)c.in[0] % 16 == 0 && (uintptr_t)c.out % 16 == 0;
    for (int64_t s : strides) wide = wide && s % WIDTH<T> == 0;
    const uint32_t threads = count_of(wide ? total / WIDTH<T> : total);
    launch(wide ? resample_kernel<T, WIDTH<T>> : resample_kernel<T, 1>, grid_of(threads), dim3(BLOCK), 0, c.stream, d,
           threads, (const T*)c.in[0], index, weight, (T*)c.out);
  });
}

void take(const Take& d, const Call& c) {
  const uint32_t total = count_of(d.outer * d.k * d.inner);
  if (total == 0) return;
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    launch(take_kernel<T>, grid_of(total), dim3(BLOCK), 0, c.stream, d, total, (const T*)c.in[0], (const T*)c.in[1],
           (T*)c.out);
  });
}

}  // namespace cuda
}  // namespace fastconv
