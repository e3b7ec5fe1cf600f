// The ground of every kernel: CUDA itself, or the emulator of tests/cuda where the compiler knows no CUDA.
#pragma once
#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define FASTCONV_UNROLL _Pragma("unroll")
#define FASTCONV_PRAGMA(text) _Pragma(#text)
#define FASTCONV_UNROLL_BY(n) FASTCONV_PRAGMA(unroll(n))
#else
#include "simt.h"
#define FASTCONV_UNROLL
#define FASTCONV_UNROLL_BY(n)
#endif
#include <stdint.h>

#include <stdexcept>
#include <string>

namespace fastconv {
namespace cuda {

// The run-time library also keeps an error until somebody asks for the last one, which the check of the next launch
// would do: it is taken here.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// The block's dynamic shared memory, 16-byte aligned; no kernel has any other.
__device__ inline char* shared_bytes() {
#if defined(__CUDACC__)
  extern __shared__ uint4 fastconv_shared[];
  return (char*)fastconv_shared;
#else
  return simt::shared_memory;
#endif
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(__CUDACC__)
  if (shared > (48 << 10)) {
    check(cudaFuncSetAttribute((const void*)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
          "shared memory");
  }
  kernel<<<grid, block, shared, stream>>>(Parameters(arguments)...);
#else
  simt::enqueue(stream, [=] { simt::launch(grid, block, shared, [=] { kernel(Parameters(arguments)...); }); });
#endif
  check(cudaGetLastError(), "launch");
}

__host__ __device__ inline int64_t min_i(int64_t a, int64_t b) { return a < b ? a : b; }
__host__ __device__ inline int64_t max_i(int64_t a, int64_t b) { return a > b ? a : b; }
__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace cuda
}  // namespace fastconv
