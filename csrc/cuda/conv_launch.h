// The instances of conv_gemm, one file for each precision, and the kernel for few rows.
#pragma once
#include "conv_choice.h"
#include "conv_gemm.cuh"

namespace fastconv {
namespace cuda {

void launch_conv_fp32(const ConvArguments& d, const ConvChoice& choice, bool gather, cudaStream_t stream);
void launch_conv_tf32(const ConvArguments& d, const ConvChoice& choice, bool gather, cudaStream_t stream);
void launch_conv_fp16(const ConvArguments& d, const ConvChoice& choice, bool gather, cudaStream_t stream);
void launch_conv_bf16(const ConvArguments& d, const ConvChoice& choice, bool gather, cudaStream_t stream);

// sm_90a's kernel (conv_wgmma.cu), of all precisions but fp32: whether this library has it and the environment does not
// say FASTCONV_CUDA_HOPPER=0, whether it can do this convolution, of channels that are 16 bytes wide, and its launch.
bool hopper_built();
bool hopper_can(const ConvArguments& d);
int64_t hopper_launches();  // so far: for tests, and for what measures to say what it measured
void launch_conv_hopper(const ConvArguments& d, const ConvChoice& choice, Precision precision, cudaStream_t stream);

// Fills in what follows from the others (steps, slices, what is 16 bytes wide), chooses and launches. partial: at least
// partial_floats() of workspace.
void run_product(ConvArguments a, const Call& c, float* partial);
int64_t partial_floats(int64_t M, int64_t K, int64_t groups, int64_t depth, int64_t taps, const Machine& m);

inline int narrow(int64_t v) {
  if (v > 0x3fffffff || v < -0x3fffffff) throw std::invalid_argument("a dimension is too large for the GPU's kernels");
  return (int)v;
}

constexpr int FEW_ROWS = 8;  // of a dense layer: its weights are read once, at memory speed
void dense(const Linear& d, const Call& c);

template <template <int, int> class Engine, int tile, int WM, int WN, bool Gather>
void launch_tile(const ConvArguments& d, int slices, cudaStream_t stream) {
  constexpr Tile t = TILE[tile];
  static_assert(t.rows / WM * (t.columns / WN) * 32 == t.threads, "threads of the tile");
  const int64_t blocks = ceil_div(d.K, t.columns) * d.groups * ceil_div(d.M, t.rows);
  const dim3 grid((unsigned)narrow(blocks), 1, (unsigned)slices);
  launch(conv_gemm<Engine, t.rows, t.columns, WM, WN, t.stages, Gather>, grid, dim3(t.threads),
         (size_t)t.stages * (t.rows + t.columns) * STEP, stream, d);
}

template <template <int, int> class Engine, bool Gather>
void launch_engine(const ConvArguments& d, const ConvChoice& choice, cudaStream_t stream) {
  switch (choice.tile) {
    case 0:
      launch_tile<Engine, 0, 64, 32, Gather>(d, choice.slices, stream);
      break;
    case 1:
      launch_tile<Engine, 1, 64, 32, Gather>(d, choice.slices, stream);
      break;
    case 2:
      launch_tile<Engine, 2, 32, 32, Gather>(d, choice.slices, stream);
      break;
    default:
      launch_tile<Engine, 3, 32, 32, Gather>(d, choice.slices, stream);
  }
  if (choice.slices > 1) launch_join<typename Engine<64, 32>::Storage>(d, choice.slices, stream);
}

template <template <int, int> class Engine>
void launch_conv(const ConvArguments& d, const ConvChoice& choice, bool gather, cudaStream_t stream) {
  gather ? launch_engine<Engine, true>(d, choice, stream) : launch_engine<Engine, false>(d, choice, stream);
}

}  // namespace cuda
}  // namespace fastconv
