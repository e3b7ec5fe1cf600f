// Which tile and how many slices a product gets: a pure function of its sizes and the device's.
#pragma once
#include <stdint.h>

#include "kernels.h"

namespace fastconv {
namespace cuda {

constexpr int TILES = 4;
struct Tile {
  int rows, columns, threads, stages;
};
// conv_gemm's instances; the columns of the last suit layers with few filters.
constexpr Tile TILE[TILES] = {{128, 128, 256, 3}, {128, 64, 128, 4}, {64, 64, 128, 4}, {128, 32, 128, 4}};

struct ConvChoice {
  int tile, slices, steps_per_slice;
};

// steps: of 128 bytes of depth. The tile with the least estimated time wins: blocks go by in waves over the
// multiprocessors, a step takes as long as its operands and its arithmetic, slices cost their partial sums.
ConvChoice choose_conv(int64_t M, int64_t K, int64_t groups, int64_t steps, int multiprocessors,
                       const Forced& forced = {});

constexpr int HOPPER_TILES = 3;  // numbered behind the others: 128 rows by
constexpr int HOPPER_COLUMNS[HOPPER_TILES] = {256, 128, 64};
constexpr int hopper_blocks(int columns) { return columns > 128 ? 1 : 2; }  // resident on a multiprocessor

// The same among the tiles of conv_wgmma.cuh. steps: of 128 bytes of a tap.
ConvChoice choose_hopper(int64_t M, int64_t K, int64_t steps, int multiprocessors, const Forced& forced = {});

// Whether F(4x4, 3x3) (winograd.cu) should take less time in float32 than the direct product, for a 3x3 convolution of
// stride and dilation 1 in one group. FASTCONV_CUDA_WINOGRAD=0 in the environment: never.
bool choose_winograd(int64_t N, int64_t P, int64_t Q, int64_t C, int64_t K, int multiprocessors, const Forced& forced);

}  // namespace cuda
}  // namespace fastconv
