// Kernels that are wrong on purpose, each in one way that the emulator must name, and the twins of ptx.cuh one by one.
#include "kernels.h"
#include "pack.cuh"

using namespace fastconv::cuda;

namespace {

__global__ void right(float* y, int n) {
  float* shared = (float*)shared_bytes();
  shared[threadIdx.x] = (float)threadIdx.x;
  __syncthreads();
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = shared[blockDim.x - 1 - threadIdx.x];
}
__global__ void beyond_global(float* y, int n) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i + 1] = 1.0f;
}
__global__ void before_global(float* y, int) {
  if (threadIdx.x == 0) y[0] = y[-1];
}
__global__ void beyond_shared(float* y, int) {
  float* shared = (float*)shared_bytes();
  shared[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = shared[threadIdx.x + 1];
}
__global__ void unwritten_shared(float* y, int) { y[threadIdx.x] = ((float*)shared_bytes())[threadIdx.x]; }
__global__ void no_barrier(float* y, int) {
  float* shared = (float*)shared_bytes();
  shared[threadIdx.x] = 1.0f;
  y[threadIdx.x] = shared[(threadIdx.x + 32) % blockDim.x];
}
__global__ void no_barrier_in_warp(float* y, int) {
  float* shared = (float*)shared_bytes();
  shared[threadIdx.x] = 1.0f;
  y[threadIdx.x] = shared[threadIdx.x ^ 1];
}
__global__ void warp_barrier(float* y, int) {  // right
  float* shared = (float*)shared_bytes();
  shared[threadIdx.x] = 1.0f;
  __syncwarp();
  y[threadIdx.x] = shared[threadIdx.x ^ 1];
}
__global__ void warp_barrier_across(float* y, int) {
  float* shared = (float*)shared_bytes();
  shared[threadIdx.x] = 1.0f;
  __syncwarp();
  y[threadIdx.x] = shared[(threadIdx.x + 32) % blockDim.x];
}
__global__ void read_then_write(float* y, int) {
  float* shared = (float*)shared_bytes();
  shared[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = shared[(threadIdx.x + 32) % blockDim.x];
  shared[threadIdx.x] = 2.0f;
}
__global__ void two_writers(float* y, int) { y[threadIdx.x / 2] = (float)threadIdx.x; }
__global__ void two_blocks(float* y, int) { y[threadIdx.x] = (float)blockIdx.x; }
__global__ void in_place_shift(float* y, int) { y[threadIdx.x] = y[(threadIdx.x + blockDim.x - 1) % blockDim.x]; }
__global__ void copy_without_wait(float* y, int) {
  char* shared = shared_bytes();
  if (threadIdx.x == 0) {
    copy_async16(shared, y, true);
    copy_async_commit();
  }
  __syncthreads();
  if (threadIdx.x < 4) y[threadIdx.x + 4] = ((float*)shared)[threadIdx.x];
  copy_async_wait<0>();
}
__global__ void copy_never_waited(float* y, int) {
  if (threadIdx.x == 0) copy_async16(shared_bytes(), y, true);
}
__global__ void vector_unaligned(float* y, int) {
  if (threadIdx.x == 0) *(uint4*)shared_bytes() = *(const uint4*)(y + 1);
}
__global__ void vector_unaligned_write(float* y, int) {
  const uint4 v = *(const uint4*)y;
  if (threadIdx.x == 0) *(uint4*)(y + 2) = v;
}
__global__ void copy_unaligned(float* y, int) {
  if (threadIdx.x == 0) copy_async16(shared_bytes(), y + 1, true);
  copy_async_commit();
  copy_async_wait<0>();
}
__global__ void lanes_apart(float* y, int) {
  if (threadIdx.x % 2)
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  else
    __syncwarp();
}
__global__ void waits_for_ever(float* y, int) {
  if (threadIdx.x == 0)
    __syncthreads();
  else
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}

struct Case {
  const char* name;
  void (*kernel)(float*, int);
};
const Case CASES[] = {
#define CASE(name) {#name, name}
    CASE(right),
    CASE(beyond_global),
    CASE(before_global),
    CASE(beyond_shared),
    CASE(unwritten_shared),
    CASE(no_barrier),
    CASE(no_barrier_in_warp),
    CASE(warp_barrier),
    CASE(warp_barrier_across),
    CASE(read_then_write),
    CASE(two_writers),
    CASE(two_blocks),
    CASE(in_place_shift),
    CASE(copy_without_wait),
    CASE(copy_never_waited),
    CASE(vector_unaligned),
    CASE(vector_unaligned_write),
    CASE(copy_unaligned),
    CASE(lanes_apart),
    CASE(waits_for_ever),
#undef CASE
};

// One warp: C[16 x 8] = A[16 x 32 bytes] B[8 x 32 bytes]^T through ldmatrix and mma.
template <class T>
__global__ void product(const char* a, const char* b, float* c) {
  char* shared = shared_bytes();
  const int lane = (int)threadIdx.x;
  if (lane < 32) copy_async16(shared + lane * 16, a + lane * 16, true);
  if (lane < 16) copy_async16(shared + 512 + lane * 16, b + lane * 16, true);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  uint32_t fa[4], two[4];
  load_matrices(fa, shared + lane % 16 * 32 + lane / 16 * 16);
  load_matrices(two, shared + 512 + lane % 8 * 32 + lane / 8 % 2 * 16);
  const uint32_t fb[2] = {two[0], two[1]};
  float sum[4] = {};
  mma(T{}, sum, fa, fb);
  for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

// Runs case `i` on two warps; returns its name, null behind the last, and what was found.
API const char* probe(int i, char* found, int size) {
  if (i >= (int)(sizeof CASES / sizeof *CASES)) return nullptr;
  void* y = nullptr;
  cudaMalloc(&y, 64 * sizeof(float));
  found[0] = 0;
  try {
    const unsigned blocks = CASES[i].kernel == two_blocks ? 2 : 1;
    launch(CASES[i].kernel, dim3(blocks), dim3(64), 64 * sizeof(float), nullptr, (float*)y, 64);
  } catch (const std::exception& e) {
    strncpy(found, e.what(), size - 1);
    found[size - 1] = 0;
  }
  cudaFree(y);
  return CASES[i].name;
}

// type: 0 half, 1 bfloat, 2 tf32. a: 16 rows of 32 bytes, b: 8
API int probe_product(int type, const void* a, const void* b, float* c) {
  void *da, *db, *dc;
  cudaMalloc(&da, 512), cudaMalloc(&db, 256), cudaMalloc(&dc, 512);
  cudaMemcpy(da, a, 512, cudaMemcpyHostToDevice);
  cudaMemcpy(db, b, 256, cudaMemcpyHostToDevice);
  int status = 0;
  try {
    auto kernel = type == 0 ? product<half_t> : type == 1 ? product<bfloat_t> : product<float>;
    launch(kernel, dim3(1), dim3(32), 768, nullptr, (const char*)da, (const char*)db, (float*)dc);
  } catch (const std::exception&) {
    status = -1;
  }
  cudaMemcpy(c, dc, 512, cudaMemcpyDeviceToHost);
  cudaFree(da), cudaFree(db), cudaFree(dc);
  return status;
}

API void probe_convert(int type, const float* x, uint32_t* stored, float* back, int n) {
  for (int i = 0; i < n; i++) {
    if (type == 2) {
      stored[i] = round_tf32(as_bits(x[i]));
      back[i] = as_float(stored[i]);
    } else if (type == 1) {
      const bfloat_t b = from_float<bfloat_t>(x[i]);
      stored[i] = b.bits, back[i] = to_float(b);
    } else {
      const half_t h = from_float<half_t>(x[i]);
      stored[i] = h.bits, back[i] = to_float(h);
    }
  }
}
