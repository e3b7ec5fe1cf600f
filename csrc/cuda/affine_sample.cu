// y[n,p,q,c] = x[n] at column a q + b p + t and row d q + e p + u, where matrix[n] = (a, b, t, d, e, u), between pixels
// bilinear or the nearest one: a thread for each element. The matrix is float32 whatever the storage.
#include "boxes.cuh"
#include "pack.cuh"

namespace fastconv {
namespace cuda {
namespace {

constexpr float FAR = 16777216.0f;  // beyond it floats do not count pixels any more

// The coordinate of x that stands for i, -1 for the constant.
__device__ inline int64_t inside(int64_t i, int64_t n, FillMode mode) {
  if (i >= 0 && i < n) return i;
  if (mode == FillMode::constant) return -1;
  if (mode == FillMode::nearest) return i < 0 ? 0 : n - 1;
  const int64_t period = mode == FillMode::wrap ? n : 2 * n, k = (i % period + period) % period;
  return k < n ? k : period - 1 - k;
}

struct Coordinate {
  int64_t whole;
  float part;
};
__device__ inline Coordinate split(float at) {
  const float near = fminf(fmaxf(at, -FAR), FAR), f = floorf(near);  // NaN ends somewhere
  return {(int64_t)f, near - f};
}

template <class T>
__device__ inline float pixel(const AffineSample& d, const T* x, int64_t h, int64_t w) {
  const int64_t r = inside(h, d.H, d.fill), s = inside(w, d.W, d.fill);
  return r < 0 || s < 0 ? d.value : to_float(x[(r * d.W + s) * d.x_ld]);
}

template <class T>
__global__ void affine_sample_kernel(const __grid_constant__ AffineSample d, uint32_t total, const T* x,
                                     const float* matrix, T* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t place = i / (uint32_t)d.C, c = i - place * (uint32_t)d.C;
  const uint32_t line = place / (uint32_t)d.Q, n = line / (uint32_t)d.P;
  const float q = (float)(place - line * (uint32_t)d.Q), p = (float)(line - n * (uint32_t)d.P);
  const float *m = matrix + n * 6, half = d.bilinear ? 0.0f : 0.5f;
  const Coordinate w = split(fmaf(m[0], q, m[1] * p + m[2]) + half), h = split(fmaf(m[3], q, m[4] * p + m[5]) + half);
  const T* image = x + n * d.H * d.W * d.x_ld + c;
  float v;
  if (d.bilinear) {
    const float right = w.part, below = h.part, left = 1 - right, above = 1 - below;
    v = above * left * pixel(d, image, h.whole, w.whole);
    v += above * right * pixel(d, image, h.whole, w.whole + 1);
    v += below * left * pixel(d, image, h.whole + 1, w.whole);
    v += below * right * pixel(d, image, h.whole + 1, w.whole + 1);
  } else {
    v = pixel(d, image, h.whole, w.whole);
  }
  y[place * d.y_ld + c] = from_float<T>(v);
}

}  // namespace

void affine_sample(const AffineSample& d, const Call& c) {
  const uint32_t total = count_of(d.N * d.P * d.Q * d.C);
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    launch(affine_sample_kernel<T>, grid_of(total), dim3(BLOCK), 0, c.stream, d, total, (const T*)c.in[0],
           (const float*)c.in[1], (T*)c.out);
  });
}

}  // namespace cuda
}  // namespace fastconv
