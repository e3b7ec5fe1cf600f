// Operations that make each element of y from the elements of its own place: unary, affine, binary, where. A thread
// makes 16 bytes of y where the innermost dimension and all strides allow it, else one element.
#include "boxes.cuh"
#include "pack.cuh"

namespace fastconv {
namespace cuda {
namespace {

__device__ inline float binary_of(BinaryFunc func, float a, float b) {
  switch (func) {
    case BinaryFunc::add:
      return a + b;
    case BinaryFunc::sub:
      return a - b;
    case BinaryFunc::mul:
      return a * b;
    case BinaryFunc::div:
      return a / b;
    case BinaryFunc::max:
      return nan_max(a, b);
    case BinaryFunc::min:
      return nan_min(a, b);
    case BinaryFunc::pow:
      return b == 2.0f ? a * a : b == 3.0f ? a * a * a : powf(a, b);
    case BinaryFunc::prelu:
      return a < 0 ? a * b : a;
    case BinaryFunc::less:
      return a < b ? 1.0f : 0.0f;
    case BinaryFunc::less_equal:
      return a <= b ? 1.0f : 0.0f;
    case BinaryFunc::equal:
      return a == b ? 1.0f : 0.0f;
  }
  return 0.0f;
}

struct Rows {
  uint32_t total, n;  // packs of all rows, of a row
  int64_t x_ld, y_ld;
};

template <class T, int V>
__global__ void unary_kernel(Rows r, Activation act, const T* x, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= r.total) return;
  const uint32_t row = i / r.n, column = (i - row * r.n) * V;
  float v[V];
  read<T, V>(x + row * r.x_ld + column, 1, v);
  FASTCONV_UNROLL
  for (int e = 0; e < V; e++) v[e] = activate(act, v[e]);
  write<T, V>(y + row * r.y_ld + column, v);
}

template <class T, int V>
__global__ void affine_kernel(Rows r, Activation act, const T* x, const float* scale, const float* shift, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= r.total) return;
  const uint32_t row = i / r.n, column = (i - row * r.n) * V;
  float v[V];
  read<T, V>(x + row * r.x_ld + column, 1, v);
  FASTCONV_UNROLL
  for (int e = 0; e < V; e++) v[e] = activate(act, fmaf(v[e], scale[column + e], shift[column + e]));
  write<T, V>(y + row * r.y_ld + column, v);
}

template <class T, int V>
__global__ void binary_kernel(const __grid_constant__ Boxes<3> d, BinaryFunc func, Activation act, const T* a,
                              const T* b, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= d.total) return;
  int64_t at[3];
  d.locate(i, at);
  float va[V], vb[V];
  read<T, V>(a + at[0], d.stride[0][MAX_RANK - 1], va);
  read<T, V>(b + at[1], d.stride[1][MAX_RANK - 1], vb);
  FASTCONV_UNROLL
  for (int e = 0; e < V; e++) va[e] = activate(act, binary_of(func, va[e], vb[e]));
  write<T, V>(y + at[2], va);
}

template <class T>
__global__ void where_kernel(const __grid_constant__ Boxes<4> d, const T* c, const T* a, const T* b, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= d.total) return;
  int64_t at[4];
  d.locate(i, at);
  y[at[3]] = to_float(c[at[0]]) != 0 ? a[at[1]] : b[at[2]];
}

template <class X, class Y>
__global__ void convert_kernel(const X* x, Y* y, uint32_t n) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    y[i] = from_float<Y>(to_float(x[i]));
}

template <class T>
Rows rows_of(int64_t rows, int64_t n, int64_t x_ld, int64_t y_ld, int V) {
  return {count_of(rows * (n / V)), (uint32_t)(n / V), x_ld, y_ld};
}

}  // namespace

void unary(const Unary& original, const Call& c) {
  Unary d = original;
  if (d.rows == 0 || d.n == 0) return;
  if (d.rows == 1 || (d.x_ld == d.n && d.y_ld == d.n)) d.n *= d.rows, d.rows = 1, d.x_ld = d.y_ld = 0;
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    const T* x = (const T*)c.in[0];
    if (d.n % WIDTH<T> == 0 && wide<T>(x, d.x_ld) && wide<T>(c.out, d.y_ld)) {
      const Rows r = rows_of<T>(d.rows, d.n, d.x_ld, d.y_ld, WIDTH<T>);
      launch(unary_kernel<T, WIDTH<T>>, grid_of(r.total), dim3(256), 0, c.stream, r, d.act, x, (T*)c.out);
    } else {
      const Rows r = rows_of<T>(d.rows, d.n, d.x_ld, d.y_ld, 1);
      launch(unary_kernel<T, 1>, grid_of(r.total), dim3(256), 0, c.stream, r, d.act, x, (T*)c.out);
    }
  });
}

void affine(const Affine& d, const Call& c) {
  if (d.rows == 0 || d.n == 0) return;
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    const T* x = (const T*)c.in[0];
    const float *scale = (const float*)c.in[1], *shift = (const float*)c.in[2];
    if (d.n % WIDTH<T> == 0 && wide<T>(x, d.x_ld) && wide<T>(c.out, d.y_ld)) {
      const Rows r = rows_of<T>(d.rows, d.n, d.x_ld, d.y_ld, WIDTH<T>);
      launch(affine_kernel<T, WIDTH<T>>, grid_of(r.total), dim3(256), 0, c.stream, r, d.act, x, scale, shift,
             (T*)c.out);
    } else {
      const Rows r = rows_of<T>(d.rows, d.n, d.x_ld, d.y_ld, 1);
      launch(affine_kernel<T, 1>, grid_of(r.total), dim3(256), 0, c.stream, r, d.act, x, scale, shift, (T*)c.out);
    }
  });
}

void binary(const Binary& d, const Call& c) {
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    const T *a = (const T*)c.in[0], *b = (const T*)c.in[1];
    T* y = (T*)c.out;
    Boxes<3> boxes = boxes_of<3>(d.rank, d.dims, {d.a_stride, d.b_stride, d.y_stride});
    if (boxes.total == 0) return;
    if (boxes.wide(WIDTH<T>, {a, b, y}, 2)) {
      boxes.narrow(WIDTH<T>);
      launch(binary_kernel<T, WIDTH<T>>, grid_of(boxes.total), dim3(256), 0, c.stream, boxes, d.func, d.act, a, b, y);
    } else {
      launch(binary_kernel<T, 1>, grid_of(boxes.total), dim3(256), 0, c.stream, boxes, d.func, d.act, a, b, y);
    }
  });
}

void where(const Where& d, const Call& c) {
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    const Boxes<4> boxes = boxes_of<4>(d.rank, d.dims, {d.c_stride, d.a_stride, d.b_stride, d.y_stride});
    if (boxes.total == 0) return;
    launch(where_kernel<T>, grid_of(boxes.total), dim3(256), 0, c.stream, boxes, (const T*)c.in[0], (const T*)c.in[1],
           (const T*)c.in[2], (T*)c.out);
  });
}

void convert(const void* x, bool x_float, void* y, bool y_float, int64_t n, Precision precision, cudaStream_t stream) {
  if (n == 0) return;
  with_type(precision, [&](auto t) {
    using T = decltype(t);
    const dim3 grid = grid_of(count_of(n)), block(256);
    if (x_float && y_float)
      launch(convert_kernel<float, float>, grid, block, 0, stream, (const float*)x, (float*)y, (uint32_t)n);
    else if (x_float)
      launch(convert_kernel<float, T>, grid, block, 0, stream, (const float*)x, (T*)y, (uint32_t)n);
    else if (y_float)
      launch(convert_kernel<T, float>, grid, block, 0, stream, (const T*)x, (float*)y, (uint32_t)n);
    else
      launch(convert_kernel<T, T>, grid, block, 0, stream, (const T*)x, (T*)y, (uint32_t)n);
  });
}

}  // namespace cuda
}  // namespace fastconv
