// Operations over one axis j of x[o, j, i]: reduce, softmax, normalize, lrn, by blocks as rows.cuh describes them. Sums
// are in float.
#include "rows.cuh"

namespace fastconv {
namespace cuda {
namespace {

template <class T, class F>
__global__ void reduce_kernel(const __grid_constant__ Reduce d, float first, float scale, const T* x, T* y) {
  const Place p = place_of(d.inner);
  float total = first;
  if (p.live) {
    const T* from = x + p.o * d.x_outer + p.i;
    for (int64_t j = threadIdx.y; j < d.n; j += blockDim.y) total = F::join(total, to_float(from[j * d.x_n]));
  }
  total = join_rows<F>(total);
  if (p.live && threadIdx.y == 0) y[p.o * d.y_outer + p.i] = from_float<T>(total * scale);
}

// The place of an extreme; NaN never wins, and of equal ones the first or the last does.
struct Best {
  float value;
  int32_t at;
};

__device__ inline Best better(Best a, Best b, bool last) {
  if (b.at < 0) return a;
  if (a.at < 0) return b;
  if (b.value > a.value) return b;
  if (b.value == a.value && (last ? b.at > a.at : b.at < a.at)) return b;
  return a;
}

template <class T>
__global__ void arg_kernel(const __grid_constant__ Reduce d, const T* x, T* y) {
  const Place p = place_of(d.inner);
  const bool largest = d.func == ReduceFunc::arg_max || d.func == ReduceFunc::last_arg_max;
  const bool last = d.func == ReduceFunc::last_arg_max || d.func == ReduceFunc::last_arg_min;
  Best best{0.0f, -1};
  if (p.live) {
    const T* from = x + p.o * d.x_outer + p.i;
    for (int64_t j = threadIdx.y; j < d.n; j += blockDim.y) {
      const float v = to_float(from[j * d.x_n]);
      if (v == v) best = better(best, Best{largest ? v : -v, (int32_t)j}, last);
    }
  }
  Best* shared = (Best*)shared_bytes();
  const unsigned tx = threadIdx.x, ty = threadIdx.y, width = blockDim.x;
  shared[ty * width + tx] = best;
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (ty < half) shared[ty * width + tx] = better(shared[ty * width + tx], shared[(ty + half) * width + tx], last);
  }
  if (!p.live || ty != 0) return;
  best = shared[tx];
  const bool none = best.at < 0 || (!last && best.value == -infinity());
  y[p.o * d.y_outer + p.i] = from_float<T>(none ? 0.0f : (float)best.at);
}

template <class T>
__global__ void softmax_kernel(const __grid_constant__ Softmax d, const T* x, T* y) {
  const Place p = place_of(d.inner);
  const T* from = x + p.o * d.x_outer + p.i;
  float top = -infinity();
  if (p.live)
    for (int64_t j = threadIdx.y; j < d.n; j += blockDim.y) top = Largest::join(top, to_float(from[j * d.x_n]));
  top = join_rows<Largest>(top);
  float total = 0.0f;
  if (p.live)
    for (int64_t j = threadIdx.y; j < d.n; j += blockDim.y) total += expf(to_float(from[j * d.x_n]) - top);
  total = join_rows<Sum>(total);
  const float shift = d.log ? logf(total) : 0.0f, inverse = 1.0f / total;
  if (!p.live) return;
  T* to = y + p.o * d.y_outer + p.i;
  for (int64_t j = threadIdx.y; j < d.n; j += blockDim.y) {
    const float v = to_float(from[j * d.x_n]) - top;
    to[j * d.y_n] = from_float<T>(d.log ? v - shift : expf(v) * inverse);
  }
}

// A block for each (o, g): mean, variance of what is left, then y.
template <class T>
__global__ void normalize_kernel(const __grid_constant__ Normalize d, const T* x, const T* scale, const T* shift,
                                 T* y) {
  const int64_t o = blockIdx.x / (unsigned)d.groups, g = blockIdx.x % (unsigned)d.groups, c0 = g * d.width;
  const T* from = x + o * d.x_outer + c0;
  T* to = y + o * d.y_outer + c0;
  const uint32_t count = (uint32_t)(d.rows * d.width), width = (uint32_t)d.width;
  float sum = 0.0f;
  for (uint32_t i = threadIdx.y; i < count; i += blockDim.y) sum += to_float(from[i / width * d.x_row + i % width]);
  const float mean = join_rows<Sum>(sum) / (float)count;
  float squares = 0.0f;
  for (uint32_t i = threadIdx.y; i < count; i += blockDim.y) {
    const float v = to_float(from[i / width * d.x_row + i % width]) - mean;
    squares = fmaf(v, v, squares);
  }
  const float factor = 1.0f / sqrtf(join_rows<Sum>(squares) / (float)count + d.epsilon);
  for (uint32_t i = threadIdx.y; i < count; i += blockDim.y) {
    const uint32_t r = i / width, c = i % width;
    float v = (to_float(from[r * d.x_row + c]) - mean) * factor;
    if (scale) v *= to_float(scale[c0 + c]);
    if (shift) v += to_float(shift[c0 + c]);
    to[r * d.y_row + c] = from_float<T>(v);
  }
}

template <class T>
__global__ void lrn_kernel(const __grid_constant__ Lrn d, uint32_t total, const T* x, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t row = i / (uint32_t)d.C;
  const int64_t c = i - row * (uint32_t)d.C;
  const T* from = x + row * d.x_ld;
  float sum = 0.0f;
  const int64_t end = min_i(d.C, c + d.size / 2 + 1);
  for (int64_t k = max_i(0, c - (d.size - 1) / 2); k < end; k++) {
    const float v = to_float(from[k]);
    sum = fmaf(v, v, sum);
  }
  const float base = fmaf(d.alpha / (float)d.size, sum, d.bias), root = sqrtf(base);
  const float power = d.beta == 0.75f ? root * sqrtf(root) : powf(base, d.beta);
  y[row * d.y_ld + c] = from_float<T>(to_float(from[c]) / power);
}

}  // namespace

void reduce(const Reduce& d, const Call& c) {
  if (d.outer == 0 || d.inner == 0) return;
  const Shape s = shape_of(d.inner);
  const dim3 grid = blocks_of(d.outer, d.inner, s), block(s.tx, s.ty);
  const float inf = INFINITY, scale = d.func == ReduceFunc::mean ? 1.0f / (float)d.n : 1.0f;
  if (d.func >= ReduceFunc::arg_max) count_of(d.n);
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    const T* x = (const T*)c.in[0];
    T* y = (T*)c.out;
    const size_t floats = BLOCK * sizeof(float);
    if (d.func >= ReduceFunc::arg_max)
      launch(arg_kernel<T>, grid, block, BLOCK * sizeof(Best), c.stream, d, x, y);
    else if (d.func == ReduceFunc::max)
      launch(reduce_kernel<T, Largest>, grid, block, floats, c.stream, d, -inf, 1.0f, x, y);
    else if (d.func == ReduceFunc::min)
      launch(reduce_kernel<T, Smallest>, grid, block, floats, c.stream, d, inf, 1.0f, x, y);
    else
      launch(reduce_kernel<T, Sum>, grid, block, floats, c.stream, d, 0.0f, scale, x, y);
  });
}

void softmax(const Softmax& d, const Call& c) {
  if (d.outer == 0 || d.inner == 0 || d.n == 0) return;
  const Shape s = shape_of(d.inner);
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    launch(softmax_kernel<T>, blocks_of(d.outer, d.inner, s), dim3(s.tx, s.ty), BLOCK * sizeof(float), c.stream, d,
           (const T*)c.in[0], (T*)c.out);
  });
}

void normalize(const Normalize& d, const Call& c) {
  if (d.outer == 0 || d.rows == 0 || d.width == 0 || d.groups == 0) return;
  count_of(d.rows * d.width);
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    launch(normalize_kernel<T>, dim3(count_of(d.outer * d.groups)), dim3(1, BLOCK), BLOCK * sizeof(float), c.stream, d,
           (const T*)c.in[0], (const T*)c.in[1], (const T*)c.in[2], (T*)c.out);
  });
}

void lrn(const Lrn& d, const Call& c) {
  const uint32_t total = count_of(d.rows * d.C);
  if (total == 0) return;
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    launch(lrn_kernel<T>, grid_of(total), dim3(BLOCK), 0, c.stream, d, total, (const T*)c.in[0], (T*)c.out);
  });
}

}  // namespace cuda
}  // namespace fastconv
