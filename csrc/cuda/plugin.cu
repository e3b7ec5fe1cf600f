// The plugin's C interface (fastconv/cuda/library.py calls it): devices, memory, plans, runs. Every function returns 0,
// or -1 with the reason in fastconv_cuda_error(). Plans hold descriptors and addresses, nothing of Python; sizes are
// checked by fastconv/cuda/plan.py before they come here.
#include <string.h>

#include <mutex>

#include "device_plan.h"

using namespace fastconv;
using namespace fastconv::cuda;

namespace {

thread_local std::string last_error;

Forced forced;  // of the plans to come

// What every interface function does: no exception crosses into C.
template <class Body>
int guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    last_error = e.what();
    return -1;
  }
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API const char* fastconv_cuda_error() { return last_error.c_str(); }
API int fastconv_cuda_version() { return 8; }

struct DeviceInfo {
  char name[256];
  int32_t major, minor, multiprocessors, driver;
  int64_t memory;
};

// -2: no driver; -3: no device
API int fastconv_cuda_open(int device, DeviceInfo* info) {
  memset(info, 0, sizeof *info);
  int driver = 0, count = 0;
  cudaError_t error = cudaDriverGetVersion(&driver);
  info->driver = driver;
  if (error != cudaSuccess || driver == 0) {
    last_error = "no NVIDIA driver is loaded";
    return -2;
  }
  error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || device >= count) {
    last_error = error != cudaSuccess ? cudaGetErrorString(error)
                                      : "the driver shows " + std::to_string(count) + " devices, asked for number " +
                                            std::to_string(device);
    cudaGetLastError();
    return -3;
  }
  return guarded([&] {
    check(cudaSetDevice(device), "device");
    cudaDeviceProp p;
    check(cudaGetDeviceProperties(&p, device), "device properties");
    memcpy(info->name, p.name, sizeof info->name - 1);
    info->major = p.major, info->minor = p.minor;
    info->multiprocessors = p.multiProcessorCount;
    info->memory = (int64_t)p.totalGlobalMem;
  });
}

API int fastconv_cuda_set_device(int device) {
  return guarded([&] { check(cudaSetDevice(device), "device"); });
}
API int fastconv_cuda_allocate(int64_t bytes, void** p) {
  return guarded([&] {
    check(cudaMalloc(p, (size_t)max_i(bytes, 1)), ("device memory, " + std::to_string(bytes) + " bytes").c_str());
  });
}
API int fastconv_cuda_free(void* p) {
  return guarded([&] { check(cudaFree(p), "free"); });
}
API int fastconv_cuda_allocate_host(int64_t bytes, void** p) {
  return guarded([&] { check(cudaMallocHost(p, (size_t)max_i(bytes, 1)), "pinned memory"); });
}
API int fastconv_cuda_free_host(void* p) {
  return guarded([&] { check(cudaFreeHost(p), "free"); });
}
// When it returns the bytes are there for every stream: cudaMemcpy alone may return when they have left `from`, and our
// streams do not wait for the default one, which it works on.
API int fastconv_cuda_upload(void* to, const void* from, int64_t bytes) {
  return guarded([&] {
    check(cudaMemcpy(to, from, (size_t)bytes, cudaMemcpyHostToDevice), "upload");
    check(cudaStreamSynchronize(nullptr), "upload");
  });
}
API int fastconv_cuda_download(void* to, const void* from, int64_t bytes) {
  return guarded([&] { check(cudaMemcpy(to, from, (size_t)bytes, cudaMemcpyDeviceToHost), "download"); });
}
// The device that this memory lies on; -1 where every device reaches it (managed, pinned) or CUDA does not know it.
API int fastconv_cuda_device_of(const void* p, int* device) {
  return guarded([&] {
    cudaPointerAttributes a;
    check(cudaPointerGetAttributes(&a, p), "address");
    *device = a.type == cudaMemoryTypeDevice ? a.device : -1;
  });
}
// kind: 1 to the device, 2 to the host, 3 on the device
API int fastconv_cuda_copy(void* to, const void* from, int64_t bytes, int kind, cudaStream_t stream) {
  return guarded([&] { check(cudaMemcpyAsync(to, from, (size_t)bytes, (cudaMemcpyKind)kind, stream), "copy"); });
}
API int fastconv_cuda_stream(cudaStream_t* stream) {
  return guarded([&] { check(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "stream"); });
}
API int fastconv_cuda_stream_destroy(cudaStream_t stream) {
  return guarded([&] { check(cudaStreamDestroy(stream), "stream"); });
}
API int fastconv_cuda_synchronize(cudaStream_t stream) {
  return guarded([&] { check(cudaStreamSynchronize(stream), "run"); });
}
// Until all that was started on this thread's device, by anybody, is done.
API int fastconv_cuda_synchronize_device() {
  return guarded([&] {
    const std::lock_guard<std::mutex> hold(capture_lock());
    check(cudaDeviceSynchronize(), "synchronize");
  });
}
API int fastconv_cuda_convert(const void* x, int x_float, void* y, int y_float, int64_t n, int precision,
                              cudaStream_t stream) {
  return guarded([&] { convert(x, x_float != 0, y, y_float != 0, n, (Precision)precision, stream); });
}

API int fastconv_cuda_plan(int precision, int multiprocessors, int capability, cudaStream_t stream,
                           fastconv::cuda::Plan** plan) {
  return guarded(
      [&] { *plan = new fastconv::cuda::Plan({(Precision)precision, multiprocessors, capability, forced}, stream); });
}
API int fastconv_cuda_plan_destroy(fastconv::cuda::Plan* plan) {
  return guarded([&] { delete plan; });
}
API int fastconv_cuda_present(int op) { return present((Op)op); }
// Elements of the tensor of this operation whose layout is the GPU's own, or -1: see kernels.h.
API int fastconv_cuda_own_size(int op, const void* descriptor, int64_t bytes, int precision, int multiprocessors,
                               int64_t* size) {
  return guarded([&] {
    switch ((Op)op) {
#define KERNEL(name, Descriptor)                                                               \
  case Op::name: {                                                                             \
    Descriptor d;                                                                              \
    if (bytes != (int64_t)sizeof d) throw std::invalid_argument("descriptor of another size"); \
    memcpy(&d, descriptor, sizeof d);                                                          \
    *size = own_size(d, (Precision)precision, multiprocessors);                                \
    break;                                                                                     \
  }
#include "cpu/kernels.def"
#undef KERNEL
    }
  });
}
API int fastconv_cuda_add(fastconv::cuda::Plan* plan, int op, const void* descriptor, int64_t bytes,
                          const Reference* operands) {
  return guarded([&] { plan->add((Op)op, descriptor, (size_t)bytes, operands); });
}
API int64_t fastconv_cuda_workspace(const fastconv::cuda::Plan* plan) { return plan->workspace_bytes(); }
API int fastconv_cuda_captured(const fastconv::cuda::Plan* plan) { return plan->captured(); }
API int fastconv_cuda_run(fastconv::cuda::Plan* plan, void* const* externals, int count, void* arena, void* workspace) {
  return guarded([&] { plan->run(externals, count, (char*)arena, (float*)workspace); });
}
API int fastconv_cuda_profile(fastconv::cuda::Plan* plan, void* const* externals, void* arena, void* workspace,
                              int64_t* nanoseconds) {
  return guarded([&] { plan->profile(externals, (char*)arena, (float*)workspace, nanoseconds); });
}
API int fastconv_cuda_time(fastconv::cuda::Plan* plan, void* const* externals, int count, void* arena, void* workspace,
                           int repeats, double* nanoseconds) {
  return guarded([&] { *nanoseconds = plan->time(externals, count, (char*)arena, (float*)workspace, repeats); });
}
// Convolutions that sm_90a's own kernel was launched for, so far; -1 where this library or this device has none.
API int64_t fastconv_cuda_hopper_launches() { return hopper_built() ? hopper_launches() : -1; }
// For tests and for measuring: the tile and the slices of plans that are made from now on; those that there are keep
// theirs, for which their workspaces are. tile -1: the usual choice.
API int fastconv_cuda_force(int tile, int slices) {
  return guarded([&] { forced.tile = tile < TILES + HOPPER_TILES ? tile : -1, forced.slices = slices; });
}
// The same of Winograd's.
API int fastconv_cuda_force_winograd(int wanted, int64_t tiles) {
  return guarded([&] { forced.winograd = wanted, forced.winograd_tiles = tiles; });
}
// 1 or 0
API int fastconv_cuda_choose_winograd(int64_t N, int64_t P, int64_t Q, int64_t C, int64_t K, int multiprocessors) {
  return choose_winograd(N, P, Q, C, K, multiprocessors, forced);
}
API int fastconv_cuda_choose(int64_t M, int64_t K, int64_t groups, int64_t steps, int multiprocessors, int32_t* out) {
  return guarded([&] {
    const ConvChoice c = choose_conv(M, K, groups, steps, multiprocessors);
    out[0] = c.tile, out[1] = c.slices, out[2] = c.steps_per_slice;
  });
}
API int fastconv_cuda_choose_hopper(int64_t M, int64_t K, int64_t steps, int multiprocessors, int32_t* out) {
  return guarded([&] {
    const ConvChoice c = choose_hopper(M, K, steps, multiprocessors);
    out[0] = c.tile, out[1] = c.slices, out[2] = c.steps_per_slice;
  });
}
