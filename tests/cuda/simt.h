// A GPU on one CPU thread: what csrc/cuda needs of CUDA, for compilers that know no CUDA. Kernels are plain functions;
// each thread of a block is a fiber, blocks run one after the other, and operations of a warp are meetings of its
// lanes. Every memory access of a kernel is looked at (simt.cpp), because the kernels are compiled with
// -fsanitize=thread while its run-time functions are ours.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
namespace simt {
// The hardware insists that an access of `bytes` bytes lies at a multiple of them.
void aligned(const void* address, size_t bytes);
}  // namespace simt
// The compiler may move it in pieces, nvcc does not.
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
  uint4() = default;
  uint4(const uint4& from) : x(from.x), y(from.y), z(from.z), w(from.w) { simt::aligned(&from, 16); }
  uint4& operator=(const uint4& from) {
    simt::aligned(&from, 16);
    simt::aligned(this, 16);
    x = from.x, y = from.y, z = from.z, w = from.w;
    return *this;
  }
};
struct alignas(8) float2 {
  float x, y;
  float2() = default;
  float2(const float2& from) : x(from.x), y(from.y) { simt::aligned(&from, 8); }
  float2& operator=(const float2& from) {
    simt::aligned(&from, 8);
    simt::aligned(this, 8);
    x = from.x, y = from.y;
    return *this;
  }
};

namespace simt {

constexpr int WARP = 32;
struct Place {
  unsigned x, y, z;
};
extern Place thread_index, block_index, block_size, grid_size;
extern char* shared_memory;

void launch(dim3 grid, dim3 block, size_t shared, const std::function<void()>& body);
void sync_block();

// Each live lane of the warp brings `mine`; the last one runs op once for all, with null for lanes that have ended.
using Operation = void (*)(void* const lanes[WARP]);
void meet(void* mine, Operation op);

void copy_async(void* shared, const void* global, int bytes, int source_bytes);
void commit_group();
void wait_groups(int pending);

// What sm_90a has (simt_async.cpp); see csrc/cuda/ptx.cuh.
struct alignas(64) TensorMap {
  const char* address;
  int rank;
  int64_t size[4], stride[4];  // the innermost dimension first; strides in bytes
  bool image;                  // pixels of a convolution, else a box of `rows` along the last dimension
  int lower[2], upper[2], step[2], rows;
  uint32_t (*convert)(uint32_t);  // of elements of 4 bytes on their way, or null
};
struct Product {
  float* c;  // this lane's sums
  uint64_t a, b;
  int columns, bytes;  // bytes: of an element
  float (*element)(uint32_t word, int i);
};
void barrier_init(void* barrier, int arrivals);
void barrier_arrive(void* barrier, int bytes);
void barrier_wait(void* barrier, unsigned parity);
void copy_tensor(void* to, const TensorMap& map, const int (&at)[4], const int (&moved)[2], void* barrier);
void product(const Product& p);
void product_commit();
void product_wait(int pending);

// An access that no instrumented code makes: by the tensor cores, the copy engine or an atomic.
void touch(const void* address, size_t bytes, bool write);

void fail(const char* format, ...);

template <class T>
struct Exchange {
  T value, result;
  int lane;
};
template <class T>
T shuffle(T value, int lane) {
  Exchange<T> mine{value, value, lane};
  meet(&mine, [](void* const lanes[WARP]) {
    for (int i = 0; i < WARP; i++) {
      if (!lanes[i]) continue;
      auto* m = (Exchange<T>*)lanes[i];
      if (m->lane >= 0 && m->lane < WARP && lanes[m->lane]) m->result = ((Exchange<T>*)lanes[m->lane])->value;
    }
  });
  return mine.result;
}
inline int lane() {
  return (int)((thread_index.x + block_size.x * (thread_index.y + block_size.y * thread_index.z)) % WARP);
}

}  // namespace simt

#define threadIdx simt::thread_index
#define blockIdx simt::block_index
#define blockDim simt::block_size
#define gridDim simt::grid_size

inline void __syncthreads() { simt::sync_block(); }
inline void __syncwarp() {
  simt::meet(nullptr, [](void* const*) {});
}
template <class T>
T __shfl_xor_sync(unsigned, T v, int mask) {
  return simt::shuffle(v, simt::lane() ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T v, int lane) {
  return simt::shuffle(v, lane);
}
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

// -- the run-time library -------------------------------------------------------------------------------------------
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorUnknown = 999 };
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeDevice = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
namespace simt {
struct Stream;
struct Graph;
struct Event;
}  // namespace simt
typedef simt::Stream* cudaStream_t;
typedef simt::Graph* cudaGraph_t;
typedef simt::Graph* cudaGraphExec_t;
typedef simt::Event* cudaEvent_t;
constexpr unsigned cudaStreamNonBlocking = 1;

const char* cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaMalloc(void** p, size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p);
cudaError_t cudaMallocHost(void** p, size_t bytes);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);
cudaError_t cudaEventCreate(cudaEvent_t* e);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b);

namespace simt {
// Runs now, or when the graph that is being captured is launched.
void enqueue(cudaStream_t s, std::function<void()> work);
}  // namespace simt
