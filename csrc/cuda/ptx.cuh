// Every instruction that C++ has no word for. For compilers that know no CUDA tests/cuda/ptx_host.h has a twin of each
// function here, which computes the same.
//
// Fragments of mma follow the PTX manual ("Matrix fragments for mma"): lane = 4 g + t holds of a 16 x (32 bytes)
// operand A four registers (rows g, g + 8, g, g + 8; 16-byte halves 0, 0, 1, 1, the t-th 4 bytes of each), of B
// [8 columns, 32 bytes each] two (column g, halves 0 and 1), of C (16 x 8 floats) rows g and g + 8, columns 2t, 2t + 1.
// ldmatrix gives exactly that from rows of 16 bytes, for tf32 too, whose elements are 4 bytes.
//
// From "barriers" on: what sm_90a alone has. Tiles in shared memory are rows of 128 bytes from an address that 1024
// divides; piece c of 16 bytes of row r lies at c ^ (r & 7): the copy engine's 128-byte swizzle, conv_gemm.cuh's order,
// and what product descriptors call mode 1.
#pragma once
#include "device.cuh"

namespace fastconv {
namespace cuda {

struct half_t {
  uint16_t bits;
};
struct bfloat_t {
  uint16_t bits;
};

}  // namespace cuda
}  // namespace fastconv

// Whether this pass of the compiler may use sm_90a's instructions.
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FASTCONV_HOPPER 1
#else
#define FASTCONV_HOPPER 0
#endif

#if !defined(__CUDACC__)
#include "ptx_host.h"
#else
#include <cuda.h>

namespace fastconv {
namespace cuda {

// -- conversions ----------------------------------------------------------------------------------------------------
__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(half_t x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
__device__ inline float to_float(bfloat_t x) { return __uint_as_float((uint32_t)x.bits << 16); }

template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline half_t from_float<half_t>(float x) {
  half_t y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
__device__ inline bfloat_t from_float<bfloat_t>(float x) {
  bfloat_t y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

__device__ inline uint32_t round_tf32(uint32_t x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(__uint_as_float(x)));
  return y;
}

// NaN in either passes.
__device__ inline float nan_min(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ inline float nan_max(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

__device__ inline float as_float(uint32_t x) { return __uint_as_float(x); }
__device__ inline uint32_t as_bits(float x) { return __float_as_uint(x); }

// 16 bytes to global memory in one instruction: among many stores the compiler takes some apart to save moves.
__device__ inline void store16(void* to, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}

// -- asynchronous copies --------------------------------------------------------------------------------------------
__device__ inline uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// 16 bytes from global to shared memory, past L1; zeros where !ok (then `from` is not read).
__device__ inline void copy_async16(void* to, const void* from, bool ok) {
  const int bytes = ok ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}
// The same for 4 bytes, which go through L1.
__device__ inline void copy_async4(void* to, const void* from, bool ok) {
  const int bytes = ok ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `pending` of this thread's groups are under way.
template <int pending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// -- tensor cores ---------------------------------------------------------------------------------------------------
// Four 8 x 16-byte matrices; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// C += A B. float: operands already rounded to tf32; the tensor cores ignore the lower 13 bits.
#define FASTCONV_MMA(T, types)                                                                      \
  __device__ inline void mma(T, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {    \
    asm volatile("mma.sync.aligned." types " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));               \
  }
FASTCONV_MMA(half_t, "m16n8k16.row.col.f32.f16.f16.f32")
FASTCONV_MMA(bfloat_t, "m16n8k16.row.col.f32.bf16.bf16.f32")
FASTCONV_MMA(float, "m16n8k8.row.col.f32.tf32.tf32.f32")

// -- barriers -------------------------------------------------------------------------------------------------------
// A phase of a barrier ends when `arrivals` have come and all bytes that were announced are there.
__device__ inline void barrier_init(uint64_t* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
// Makes initialised barriers known to the copy engine; the block's barrier follows.
__device__ inline void barrier_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_arrive(uint64_t* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ inline void barrier_arrive_and_expect(uint64_t* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}
// Until the phase of this parity has ended; at once where the barrier is new and parity is 1.
__device__ inline void barrier_wait(uint64_t* b, uint32_t parity) {
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
}

// -- copies of tensors ----------------------------------------------------------------------------------------------
using TensorMap = CUtensorMap;

// From output pixel (w, h, n), given as its first tap's place, on: as many rows as the map says of 128 bytes of
// channels from c on, all moved by the tap (right, down); zeros outside of the image and beyond the channels.
__device__ inline void copy_pixels(void* to, const TensorMap& map, int c, int w, int h, int n, int right, int down,
                                   uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
      "%6}], "
      "[%2], {%7, %8};" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n), "h"((uint16_t)right), "h"((uint16_t)down)
      : "memory");
}
// 128 bytes of channels from c on of one tap, for as many filters from k on as the map says.
__device__ inline void copy_filters(void* to, const TensorMap& map, int c, int tap, int k, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(tap), "r"(k)
      : "memory");
}
__device__ inline void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// -- products of a warpgroup ----------------------------------------------------------------------------------------
// A tile of swizzled rows as products read it: rows in groups of eight, 1024 bytes apart. 32 bytes along the row: + 2.
__device__ inline uint64_t tile_descriptor(const void* tile) {
  constexpr uint64_t SWIZZLE_128 = uint64_t(1) << 62, GROUP = uint64_t(1024 >> 4) << 32, UNUSED = uint64_t(1) << 16;
  return SWIZZLE_128 | GROUP | UNUSED | ((shared_address(tile) & 0x3ffff) >> 4);
}
// Before the first product, and where registers of sums were touched since the last.
__device__ inline void product_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void product_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending>
__device__ inline void product_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
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

// C[64 x 8 NV] += A[64 x 32 bytes] B[8 NV x 32 bytes]^T, a and b: descriptors; float: tf32, as in mma. Each warp has 16
// rows, its lanes as in mma. Runs until product_wait. 16-bit types say that both operands have the depth innermost,
// tf32 knows nothing else.
#define FASTCONV_PRODUCTS(T, types, depth_innermost)                                                                  \
  __device__ inline void product(T, float (&c)[8][4], uint64_t a, uint64_t b) {                                       \
    asm volatile(                                                                                                     \
        "{.reg .pred p; setp.ne.b32 p, %34, 0;\n"                                                                     \
        "wgmma.mma_async.sync.aligned.m64n64" types " {" FASTCONV_LIST_64 "}, %32, %33, p, 1, 1" depth_innermost ";}" \
        : FASTCONV_SUM32(0)                                                                                           \
        : "l"(a), "l"(b), "r"(1));                                                                                    \
  }                                                                                                                   \
  __device__ inline void product(T, float (&c)[16][4], uint64_t a, uint64_t b) {                                      \
    asm volatile(                                                                                                     \
        "{.reg .pred p; setp.ne.b32 p, %66, 0;\n"                                                                     \
        "wgmma.mma_async.sync.aligned.m64n128" types " {" FASTCONV_LIST_128 "}, %64, %65, p, 1, 1" depth_innermost    \
        ";}"                                                                                                          \
        : FASTCONV_SUM32(0), FASTCONV_SUM32(8)                                                                        \
        : "l"(a), "l"(b), "r"(1));                                                                                    \
  }
FASTCONV_PRODUCTS(half_t, "k16.f32.f16.f16", ", 0, 0")
FASTCONV_PRODUCTS(bfloat_t, "k16.f32.bf16.bf16", ", 0, 0")
FASTCONV_PRODUCTS(float, "k8.f32.tf32.tf32", "")

}  // namespace cuda
}  // namespace fastconv
#endif
