// A pipeline of the copy engine and a warpgroup, right or wrong in one way that the emulator must name. One stage,
// three steps: C[64 x 64] += A[64 x 128 bytes] B[64 x 128 bytes]^T each time. Sums leave through the stage's place.
#include <string.h>

#include <stdexcept>

#include "ptx.cuh"

using namespace fastconv::cuda;

namespace {

enum Fault {
  none,
  no_wait_for_copies,
  no_wait_for_products,
  released_early,
  uninitialised,
  announced_too_much,
  ordinary_read,
  tile_off,
  arrives_twice,
  never_multiplied,
  written_early,
};

constexpr int STEPS = 3, TILE = 64 * 128, BARRIERS = 2 * TILE;

__device__ void produce(char* shared, uint64_t* full, uint64_t* empty, const TensorMap& a, const TensorMap& b,
                        int fault) {
  for (int i = 0; i < STEPS; i++) {
    if (fault != no_wait_for_products) barrier_wait(empty, (uint32_t)(i + 1) & 1);
    barrier_arrive_and_expect(full, fault == announced_too_much ? 3 * TILE : 2 * TILE);
    if (fault == arrives_twice) barrier_arrive(full), barrier_arrive(full);
    copy_pixels(shared + (fault == tile_off ? 128 : 0), a, 0, 0, 0, 0, 0, 0, full);
    copy_filters(shared + TILE, b, 0, 0, 0, full);
  }
}

template <class T>
__global__ void pipeline(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* y,
                         int fault) {
  char* shared = shared_bytes();
  uint64_t *full = (uint64_t*)(shared + BARRIERS), *empty = full + 1, *ended = full + 2;
  const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32;
  if (tid == 128 && fault != uninitialised) {
    barrier_init(full, 1);
    barrier_init(empty, 4);
    barrier_init(ended, 4);
    barrier_fence();
  }
  __syncthreads();
  if (warp == 4) {
    if (lane == 0) produce(shared, full, empty, a, b, fault);
    return;
  }
  float c[8][4] = {};
  for (int i = 0; i < STEPS; i++) {
    if (fault != no_wait_for_copies) barrier_wait(full, (uint32_t)i & 1);
    if (fault == ordinary_read) c[0][0] += *(float*)(shared + tid * 4);
    product_fence();
    const uint64_t da = tile_descriptor(shared), db = tile_descriptor(shared + TILE);
    for (int k = 0; k < 4; k++) product(T{}, c, da + 2 * k, db + 2 * k);
    product_commit();
    if (fault == never_multiplied) return;
    if (fault == released_early && lane == 0) barrier_arrive(empty);
    if (fault == released_early && i + 1 < STEPS) continue;  // waits for all at the end
    product_wait<0>();
    if (fault != released_early && lane == 0) barrier_arrive(empty);
  }
  if (lane == 0) barrier_arrive(ended);
  if (fault != written_early) barrier_wait(ended, 0);
  float* sums = (float*)shared + 16 * warp * 64;
  for (int j = 0; j < 8; j++)
    for (int e = 0; e < 4; e++) sums[(lane / 4 + e / 2 * 8) * 64 + 8 * j + lane % 4 * 2 + e % 2] = c[j][e];
  __syncwarp();
  for (int i = lane; i < 16 * 64; i += 32) y[16 * warp * 64 + i] = sums[i];
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

// kind: 0 half, 1 bfloat, 2 tf32
API const char* probe_hopper(int kind, int fault, const void* a, const void* b, float* c, char* found, int size) {
  static const char* const NAMES[] = {"none",          "no_wait_for_copies", "no_wait_for_products", "released_early",
                                      "uninitialised", "announced_too_much", "ordinary_read",        "tile_off",
                                      "arrives_twice", "never_multiplied",   "written_early"};
  if (fault > written_early) return nullptr;
  void *da, *db, *dc;
  cudaMalloc(&da, TILE), cudaMalloc(&db, TILE), cudaMalloc(&dc, 64 * 64 * 4);
  cudaMemcpy(da, a, TILE, cudaMemcpyHostToDevice);
  cudaMemcpy(db, b, TILE, cudaMemcpyHostToDevice);
  TensorMap image{}, filters{};
  image.address = (const char*)da, image.rank = 4, image.image = true, image.rows = 64;
  image.size[0] = kind == 2 ? 32 : 64, image.size[1] = image.size[2] = 1, image.size[3] = 64;
  image.stride[0] = kind == 2 ? 4 : 2, image.stride[1] = image.stride[2] = image.stride[3] = 128;
  image.step[0] = image.step[1] = 1;
  filters.address = (const char*)db, filters.rank = 3, filters.rows = 64;
  filters.size[0] = image.size[0], filters.size[1] = 1, filters.size[2] = 64;
  filters.stride[0] = image.stride[0], filters.stride[1] = filters.stride[2] = 128;
  if (kind == 2) image.convert = filters.convert = host::to_tf32;
  const auto kernel = kind == 0 ? pipeline<half_t> : kind == 1 ? pipeline<bfloat_t> : pipeline<float>;
  found[0] = 0;
  try {
    launch(kernel, dim3(1), dim3(160), BARRIERS + 24, nullptr, image, filters, (float*)dc, fault);
  } catch (const std::exception& e) {
    strncpy(found, e.what(), size - 1);
    found[size - 1] = 0;
  }
  cudaMemcpy(c, dc, 64 * 64 * 4, cudaMemcpyDeviceToHost);
  cudaFree(da), cudaFree(db), cudaFree(dc);
  return NAMES[fault];
}
