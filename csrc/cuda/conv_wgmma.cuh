// The product of conv_gemm.cuh for sm_90a, fp16, bf16 and tf32: the copy engine brings both operands, warpgroups
// multiply.
//
// A block computes 128 x BN outputs. Depth goes by in steps of one tap and 128 bytes of its channels: 128 rows of
// pixels by the engine's im2col mode, which finds strides, dilations, padding and image borders itself and rounds float
// to tf32, and BN rows of filters.
// The last warp starts the copies, STAGES steps ahead; two warpgroups multiply 64 rows each from shared memory (wgmma)
// and hand a stage back once the products of the next one are under way, by one arrival of each warp: another warp's
// quarter of a product may end later. Once all products have ended, sums leave through the place of the stages as in
// conv_gemm.cuh. Of blocks up to 128 columns two are resident, so that one multiplies while the other writes.
#pragma once
#include "conv_choice.h"
#include "conv_gemm.cuh"

namespace fastconv {
namespace cuda {

namespace hopper {

constexpr int ROWS = 128, GROUPS = 2, CONSUMER_WARPS = 4 * GROUPS, THREADS = 32 * (CONSUMER_WARPS + 1);
template <class T>
constexpr int CHANNELS = STEP / (int)sizeof(T);  // of a step
template <int BN>
constexpr int STAGE_BYTES = (ROWS + BN) * STEP;
template <int BN>
constexpr int SUMS_LD = BN + SUMS_PAD;
// 1024: so that the stages can start at a multiple of it.
template <int BN, int STAGES>
constexpr int SHARED_BYTES = 1024 + STAGES * STAGE_BYTES<BN> + (2 * STAGES + 1) * 8;

// Tiles of columns side by side, the steps of a tap, and where taps lie.
struct Depth {
  int across, chunks, S, dilation_h, dilation_w;
};

template <int BN, int STAGES>
struct Shared {
  static_assert(ROWS * SUMS_LD<BN> * 4 <= STAGES * STAGE_BYTES<BN>, "sums in the place of the stages");
  static_assert(hopper_blocks(BN) * (SHARED_BYTES<BN, STAGES> + 1024) <= 228 << 10, "blocks on a multiprocessor");
  char* stages;
  uint64_t *full, *empty, *ended;  // ended: all products of the block
  __device__ Shared() {
    char* base = shared_bytes();
    stages = base + ((1024 - (shared_address(base) & 1023)) & 1023);
    full = (uint64_t*)(stages + STAGES * STAGE_BYTES<BN>);
    empty = full + STAGES;
    ended = empty + STAGES;
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
    if (lane == 0) barrier_arrive(s.ended);
    barrier_wait(s.ended, 0);
  }

  // This warp's 16 rows to memory with rows SUMS_LD apart.
  __device__ void store(float* to, int lane) const {
    FASTCONV_UNROLL
    for (int j = 0; j < BN / 8; j++) store_sums(c[j / NV][j % NV], to + 8 * j, SUMS_LD<BN>, lane);
  }
};

}  // namespace hopper

template <class T, int BN, int STAGES>
__global__ void __launch_bounds__(hopper::THREADS, hopper_blocks(BN))
    conv_wgmma(const __grid_constant__ ConvArguments d, const __grid_constant__ TensorMap x,
               const __grid_constant__ TensorMap w, const hopper::Depth depth) {
#if FASTCONV_HOPPER
  using namespace hopper;
  const Shared<BN, STAGES> s;
  const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32;
  const int begin = (int)blockIdx.z * d.steps_per_slice, count = (int)min_i(d.steps_per_slice, d.steps - begin);
  if (tid == 0) {
    prefetch_map(x);
    prefetch_map(w);
    for (int i = 0; i < STAGES; i++) {
      barrier_init(s.full + i, 1);
      barrier_init(s.empty + i, CONSUMER_WARPS);
    }
    barrier_init(s.ended, CONSUMER_WARPS);
    barrier_fence();
  }
  __syncthreads();
  if (warp == CONSUMER_WARPS) {
    if (lane == 0) produce<T, BN, STAGES>(d, x, w, depth, s, begin, count);
    return;
  }
  Consumer<T, BN, STAGES> consumer;
  consumer.multiply(s, warp / 4, lane, count);
  const unsigned row = blockIdx.x / (unsigned)depth.across, column = blockIdx.x - row * depth.across;
  float* sums = (float*)s.stages + 16 * warp * SUMS_LD<BN>;
  consumer.store(sums, lane);
  __syncwarp();
  finish_tile<T, 16, BN>(d, sums, SUMS_LD<BN>, (int64_t)row * ROWS + 16 * warp, (int)column * BN, 0, lane);
#endif
}

}  // namespace cuda
}  // namespace fastconv
