// Blocks of TX columns i and TY rows that share the j of x[o, j, i]: 32 x 8, or 1 x 256 where there is one column, so
// that neighbouring threads read neighbouring elements. Partial results are joined through shared memory in a fixed
// order.
#pragma once
#include "boxes.cuh"
#include "pack.cuh"

namespace fastconv {
namespace cuda {

struct Shape {
  unsigned tx, ty;
};
inline Shape shape_of(int64_t inner) { return inner == 1 ? Shape{1, 256} : Shape{32, 8}; }

struct Sum {
  __device__ static float join(float a, float b) { return a + b; }
};
struct Largest {  // NaN passes
  __device__ static float join(float a, float b) { return nan_max(a, b); }
};
struct Smallest {
  __device__ static float join(float a, float b) { return nan_min(a, b); }
};

// The join of the values that the TY threads of a column bring, for all of them.
template <class F>
__device__ inline float join_rows(float value) {
  float* shared = (float*)shared_bytes();
  const unsigned tx = threadIdx.x, ty = threadIdx.y, width = blockDim.x;
  __syncthreads();  // what an earlier call left has been read
  shared[ty * width + tx] = value;
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (ty < half) shared[ty * width + tx] = F::join(shared[ty * width + tx], shared[(ty + half) * width + tx]);
  }
  __syncthreads();
  return shared[tx];
}

struct Place {
  int64_t o, i;
  bool live;
};
__device__ inline Place place_of(int64_t inner) {
  const unsigned blocks = (unsigned)((inner + blockDim.x - 1) / blockDim.x);
  Place p;
  p.o = blockIdx.x / blocks;
  p.i = (int64_t)(blockIdx.x % blocks) * blockDim.x + threadIdx.x;
  p.live = p.i < inner;
  return p;
}

inline dim3 blocks_of(int64_t outer, int64_t inner, Shape s) { return dim3(count_of(outer * ceil_div(inner, s.tx))); }

}  // namespace cuda
}  // namespace fastconv
