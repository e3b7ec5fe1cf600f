// The product of conv_gemm.cuh for sm_90a, fp16, bf16 and tf32: the copy engine brings both operands, warpgroups
// multiply.
//
// A block computes 128 x BN outputs. Depth goes by in steps of one tap and 128 bytes of its channels: 128 rows of
// pixels by the engine's im2col mode, which finds strides, dilations, padding and image borders itself and rounds float
// to tf32, and BN rows of filters.
// Warp 0 of the first warpgroup starts the copies, STAGES steps ahead; the other two multiply 64 rows each from shared
// memory (wgmma) and hand a stage back once the products of the next one are under way, by one arrival of each warp:
// another warp's quarter of a product may end later. Sums leave through shared memory as in conv_gemm.cuh, 32 columns
// at a time.
#pragma once
#include "conv_gemm.cuh"

namespace fastconv {
namespace cuda {

namespace hopper {

constexpr int ROWS = 128, GROUPS = 2, WARPGROUP = 128, PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
constexpr int THREADS = WARPGROUP * (1 + GROUPS), CONSUMER_WARPS = 4 * GROUPS, PATCH = 32, PATCH_LD = PATCH + 4;
constexpr int PATCHES = CONSUMER_WARPS * 16 * PATCH_LD * 4;  // bytes

template <class T>
constexpr int CHANNELS = STEP / (int)sizeof(T);  // of a step
template <int BN>
constexpr int STAGE_BYTES = (ROWS + BN) * STEP;
// 1024: so that the stages can start at a multiple of it.
template <int BN, int STAGES>
constexpr int SHARED_BYTES = 1024 + STAGES * STAGE_BYTES<BN> + PATCHES + 2 * STAGES * 8;

// Tiles of columns side by side, the steps of a tap, and where taps lie.
struct Depth {
  int across, chunks, S, dilation_h, dilation_w;
};

template <int BN, int STAGES>
struct Shared {
  char* stages;
  float* patches;
  uint64_t *full, *empty;
  __device__ Shared() {
    char* base = shared_bytes();
    stages = base + ((1024 - (shared_address(base) & 1023)) & 1023);
    patches = (float*)(stages + STAGES * STAGE_BYTES<BN>);
    full = (uint64_t*)((char*)patches + PATCHES);
    empty = full + STAGES;
  }
  __device__ char* stage(int i) const { return stages + i * STAGE_BYTES<BN>; }
};

template <class T, int BN, int STAGES>
__device__ inline void produce(const ConvArguments& d, const TensorMap& x, const TensorMap& w, const Depth& depth,
                               const Shared<BN, STAGES>& s, int begin, int count) {
  const Pixel first = pixel_of(d, (int64_t)(blockIdx.x / (unsigned)depth.across) * ROWS);
  const int top = first.p * d.stride_h - d.pad_t, left = first.q * d.stride_w - d.pad_l,
            k = (int)(blockIdx.x % (unsigned)depth.across) * BN;
  int tap = begin / depth.chunks, chunk = begin - tap * depth.chunks, r = tap / depth.S, c = tap - r * depth.S;
  for (int i = 0; i < count; i++) {
    const int stage = i % STAGES;
    barrier_wait(s.empty + stage, (uint32_t)(i / STAGES + 1) & 1);
    barrier_arrive_and_expect(s.full + stage, STAGE_BYTES<BN>);
    copy_pixels(s.stage(stage), x, chunk * CHANNELS<T>, left, top, (int)first.n, c * depth.dilation_w,
                r * depth.dilation_h, s.full + stage);
    copy_filters(s.stage(stage) + ROWS * STEP, w, chunk * CHANNELS<T>, tap, k, s.full + stage);
    if (++chunk < depth.chunks) continue;
    chunk = 0, tap++;
    if (++c == depth.S) c = 0, r++;
  }
}

// BN columns as NV vectors of eight, at most 16 of them in one product.
template <class T, int BN, int STAGES>
struct Consumer {
  static constexpr int NV = BN < 128 ? BN / 8 : 16, PARTS = BN / (8 * NV);
  float c[PARTS][NV][4];

  __device__ void multiply(const Shared<BN, STAGES>& s, int group, int lane, int count) {
    FASTCONV_UNROLL
    for (int i = 0; i < PARTS; i++) FASTCONV_UNROLL
    for (int j = 0; j < NV; j++) FASTCONV_UNROLL
    for (int e = 0; e < 4; e++) c[i][j][e] = 0.0f;
    for (int i = 0; i < count; i++) {
      const int stage = i % STAGES;
      barrier_wait(s.full + stage, (uint32_t)(i / STAGES) & 1);
      const uint64_t a = tile_descriptor(s.stage(stage) + group * 64 * STEP);
      const uint64_t b = tile_descriptor(s.stage(stage) + ROWS * STEP);
      product_fence();
      FASTCONV_UNROLL
      for (int k = 0; k < STEP / 32; k++) FASTCONV_UNROLL
      for (int j = 0; j < PARTS; j++) product(T{}, c[j], a + 2 * k, b + 2 * k + j * (8 * NV * STEP >> 4));
      product_commit();
      product_wait<1>();
      if (i > 0 && lane == 0) barrier_arrive(s.empty + (i - 1) % STAGES);
    }
    product_wait<0>();
  }

  // This warp's 16 rows from row `first` on.
  __device__ void finish_rows(const ConvArguments& d, float* patch, int64_t first, int column0, int lane) const {
    constexpr int ACROSS = PATCH / WIDTH<T>;
    FASTCONV_UNROLL
    for (int part = 0; part < BN / PATCH; part++) {
      FASTCONV_UNROLL
      for (int j = 0; j < PATCH / 8; j++) FASTCONV_UNROLL
      for (int e = 0; e < 4; e++) {
        const int vector = part * (PATCH / 8) + j;
        patch[(lane / 4 + e / 2 * 8) * PATCH_LD + 8 * j + lane % 4 * 2 + e % 2] = c[vector / NV][vector % NV][e];
      }
      __syncwarp();
      for (int i = lane; i < 16 * ACROSS; i += 32) {
        const int row = i / ACROSS, column = i % ACROSS * WIDTH<T>;
        const int64_t m = first + row;
        const int k = column0 + part * PATCH + column;
        if (m < d.M && k < d.K) put_sums<T>(d, patch + row * PATCH_LD + column, m, k, (int)min_i(WIDTH<T>, d.K - k));
      }
      __syncwarp();
    }
  }
};

}  // namespace hopper

template <class T, int BN, int STAGES>
__global__ void __launch_bounds__(hopper::THREADS, 1)
    conv_wgmma(const __grid_constant__ ConvArguments d, const __grid_constant__ TensorMap x,
               const __grid_constant__ TensorMap w, const hopper::Depth depth) {
#if FASTCONV_HOPPER
  using namespace hopper;
  const Shared<BN, STAGES> s;
  const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32, group = warp / 4 - 1;
  const int begin = (int)blockIdx.z * d.steps_per_slice, count = (int)min_i(d.steps_per_slice, d.steps - begin);
  if (tid == 0) {
    prefetch_map(x);
    prefetch_map(w);
    for (int i = 0; i < STAGES; i++) {
      barrier_init(s.full + i, 1);
      barrier_init(s.empty + i, CONSUMER_WARPS);
    }
    barrier_fence();
  }
  __syncthreads();
  if (group < 0) {
    give_registers<PRODUCER_REGISTERS>();
    if (tid == 0) produce<T, BN, STAGES>(d, x, w, depth, s, begin, count);
  } else {
    take_registers<CONSUMER_REGISTERS>();
    Consumer<T, BN, STAGES> consumer;
    consumer.multiply(s, group, lane, count);
    const unsigned row = blockIdx.x / (unsigned)depth.across, column = blockIdx.x - row * depth.across;
    const int64_t first = (int64_t)row * ROWS + 64 * group + 16 * (warp % 4);
    consumer.finish_rows(d, s.patches + (warp - 4) * 16 * PATCH_LD, first, (int)column * BN, lane);
  }
#endif
}

}  // namespace cuda
}  // namespace fastconv
