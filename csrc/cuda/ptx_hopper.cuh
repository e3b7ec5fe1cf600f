// The second part of ptx.cuh: what sm_90a alone has. Barriers in shared memory, copies of tensors by the copy engine,
// products of a warpgroup, each with a twin for the host (tests/cuda/simt_async.cpp), which does asynchronous work at
// the latest moment that the hardware allows: a copy when nothing else can go on, a product when its group is waited
// for.
//
// Tiles in shared memory are rows of 128 bytes from an address that 1024 divides; piece c of 16 bytes of row r lies at
// c ^ (r & 7): the copy engine's 128-byte swizzle, conv_gemm.cuh's order, and what product descriptors call mode 1.
#pragma once
#include "ptx.cuh"
#if FASTCONV_ON_DEVICE
#include <cuda.h>
#endif

// Whether this pass of the compiler may use the instructions.
#if !FASTCONV_ON_DEVICE || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FASTCONV_HOPPER 1
#else
#define FASTCONV_HOPPER 0
#endif

namespace fastconv {
namespace cuda {

#if FASTCONV_ON_DEVICE
using TensorMap = CUtensorMap;
#else
using TensorMap = simt::TensorMap;
#endif

// x as the copies of a convolution see it: C, W, H, N with byte strides of the outer three; steps between output
// pixels, and how far the filter's first tap goes in each direction. Each copy takes `pixels` of them and 128 bytes of
// channels.
struct ImageMap {
  const void* address;
  int64_t size[4], stride[3];
  int lower[2], upper[2];  // w, h: corners of the first tap's box, relative to the image's
  int step[2], pixels;
};
// Filters as C, taps, K with byte strides of the outer two; each copy takes one tap of `rows` filters.
struct FilterMap {
  const void* address;
  int64_t size[3], stride[2];
  int rows;
};
TensorMap image_map(const ImageMap& m, bool bfloat);  // conv_wgmma.cu
TensorMap filter_map(const FilterMap& m, bool bfloat);

__device__ inline uint32_t shared_address(const void* p) {
#if FASTCONV_ON_DEVICE
  return (uint32_t)__cvta_generic_to_shared(p);
#else
  return (uint32_t)((const char*)p - simt::shared_memory);
#endif
}

// -- barriers -------------------------------------------------------------------------------------------------------
// A phase of a barrier ends when `arrivals` have come and all bytes that were announced are there.
__device__ inline void barrier_init(uint64_t* b, int arrivals) {
#if FASTCONV_ON_DEVICE
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
#else
  simt::barrier_init(b, arrivals);
#endif
}
// Makes initialised barriers known to the copy engine; the block's barrier follows.
__device__ inline void barrier_fence() {
#if FASTCONV_ON_DEVICE
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ inline void barrier_arrive(uint64_t* b) {
#if FASTCONV_ON_DEVICE
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
#else
  simt::barrier_arrive(b, 0);
#endif
}
__device__ inline void barrier_arrive_and_expect(uint64_t* b, int bytes) {
#if FASTCONV_ON_DEVICE
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
#else
  simt::barrier_arrive(b, bytes);
#endif
}
// Until the phase of this parity has ended; at once where the barrier is new and parity is 1.
__device__ inline void barrier_wait(uint64_t* b, uint32_t parity) {
#if FASTCONV_ON_DEVICE
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(shared_address(b)), "r"(parity)
        : "memory");
  }
#else
  simt::barrier_wait(b, parity);
#endif
}

// -- copies of tensors ----------------------------------------------------------------------------------------------
// From output pixel (w, h, n), given as its first tap's place, on: `pixels` rows of 64 channels from c on, all moved by
// the tap (right, down); zeros outside of the image and beyond the channels.
__device__ inline void copy_pixels(void* to, const TensorMap& map, int c, int w, int h, int n, int right, int down,
                                   uint64_t* barrier) {
#if FASTCONV_ON_DEVICE
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
      "%6}], "
      "[%2], {%7, %8};" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n), "h"((uint16_t)right), "h"((uint16_t)down)
      : "memory");
#else
  const int at[4] = {c, w, h, n}, moved[2] = {right, down};
  simt::copy_tensor(to, map, at, moved, barrier);
#endif
}
// 64 channels from c on of one tap, for `rows` filters from k on.
__device__ inline void copy_filters(void* to, const TensorMap& map, int c, int tap, int k, uint64_t* barrier) {
#if FASTCONV_ON_DEVICE
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(tap), "r"(k)
      : "memory");
#else
  const int at[4] = {c, tap, k, 0}, moved[2] = {0, 0};
  simt::copy_tensor(to, map, at, moved, barrier);
#endif
}
__device__ inline void prefetch_map(const TensorMap& map) {
#if FASTCONV_ON_DEVICE
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#else
  (void)map;
#endif
}

// -- registers ------------------------------------------------------------------------------------------------------
// All warps of a warpgroup: give registers back, or take what others gave.
template <int count>
__device__ inline void give_registers() {
#if FASTCONV_ON_DEVICE
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
#endif
}
template <int count>
__device__ inline void take_registers() {
#if FASTCONV_ON_DEVICE
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
#endif
}

// -- products of a warpgroup ----------------------------------------------------------------------------------------
// A tile of swizzled rows as products read it: rows in groups of eight, 1024 bytes apart. 32 bytes along the row: + 2.
__device__ inline uint64_t tile_descriptor(const void* tile) {
  constexpr uint64_t SWIZZLE_128 = uint64_t(1) << 62, GROUP = uint64_t(1024 >> 4) << 32, UNUSED = uint64_t(1) << 16;
  return SWIZZLE_128 | GROUP | UNUSED | ((shared_address(tile) & 0x3ffff) >> 4);
}
// Before the first product, and where registers of sums were touched since the last.
__device__ inline void product_fence() {
#if FASTCONV_ON_DEVICE
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void product_commit() {
#if FASTCONV_ON_DEVICE
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  simt::product_commit();
#endif
}
template <int pending>
__device__ inline void product_wait() {
#if FASTCONV_ON_DEVICE
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#else
  simt::product_wait(pending);
#endif
}

#define FASTCONV_SUM4(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define FASTCONV_SUM32(i)                                                                                   \
  FASTCONV_SUM4(i), FASTCONV_SUM4(i + 1), FASTCONV_SUM4(i + 2), FASTCONV_SUM4(i + 3), FASTCONV_SUM4(i + 4), \
      FASTCONV_SUM4(i + 5), FASTCONV_SUM4(i + 6), FASTCONV_SUM4(i + 7)
#define FASTCONV_LIST_64                                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FASTCONV_LIST_128                                                                           \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, " \
  "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, " \
  "%59, %60, %61, %62, %63"
#define FASTCONV_PRODUCT64(type)                                                                                       \
  asm volatile(                                                                                                        \
      "{.reg .pred p; setp.ne.b32 p, %34, 0;\n"                                                                        \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" FASTCONV_LIST_64 "}, %32, %33, p, 1, 1, 0, 0;}" \
      : FASTCONV_SUM32(0)                                                                                              \
      : "l"(a), "l"(b), "r"(1))
#define FASTCONV_PRODUCT128(type)                                                         \
  asm volatile(                                                                           \
      "{.reg .pred p; setp.ne.b32 p, %66, 0;\n"                                           \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" FASTCONV_LIST_128 \
      "}, %64, %65, p, 1, 1, 0, 0;}"                                                      \
      : FASTCONV_SUM32(0), FASTCONV_SUM32(8)                                              \
      : "l"(a), "l"(b), "r"(1))

// C[64 x 8 NV] += A[64 x 16] B[8 NV x 16]^T, a and b: descriptors. Each warp has 16 rows, its lanes as in mma. Runs
// until product_wait.
__device__ inline void product(half_t, float (&c)[8][4], uint64_t a, uint64_t b) {
#if FASTCONV_ON_DEVICE
  FASTCONV_PRODUCT64("f16");
#else
  simt::product({&c[0][0], a, b, 64, [](uint16_t v) { return host::from_half(v); }});
#endif
}
__device__ inline void product(bfloat_t, float (&c)[8][4], uint64_t a, uint64_t b) {
#if FASTCONV_ON_DEVICE
  FASTCONV_PRODUCT64("bf16");
#else
  simt::product({&c[0][0], a, b, 64, [](uint16_t v) { return host::from_bfloat(v); }});
#endif
}
__device__ inline void product(half_t, float (&c)[16][4], uint64_t a, uint64_t b) {
#if FASTCONV_ON_DEVICE
  FASTCONV_PRODUCT128("f16");
#else
  simt::product({&c[0][0], a, b, 128, [](uint16_t v) { return host::from_half(v); }});
#endif
}
__device__ inline void product(bfloat_t, float (&c)[16][4], uint64_t a, uint64_t b) {
#if FASTCONV_ON_DEVICE
  FASTCONV_PRODUCT128("bf16");
#else
  simt::product({&c[0][0], a, b, 128, [](uint16_t v) { return host::from_bfloat(v); }});
#endif
}

}  // namespace cuda
}  // namespace fastconv
