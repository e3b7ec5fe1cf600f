// What the plan calls: one function for each row of kernels.def, which launches the kernel on a stream.
#pragma once
#include <stdint.h>

#include "device.cuh"
#include "ops.h"

namespace fastconv {
namespace cuda {

// How tensors are stored, and which units multiply. tf32 stores float32 and rounds what the tensor cores read.
enum class Precision : int32_t { fp32, tf32, fp16, bf16 };

// For tests and for measuring: this tile and number of slices for every product, tile -1: the usual choice. Winograd: 1
// wherever its kernels can, 0 never, -1 as choose_winograd() says; winograd_tiles at a time, 0: the most.
struct Forced {
  int tile = -1, slices = 1;
  int winograd = -1;
  int64_t winograd_tiles = 0;
};

struct Call {
  const void* in[4];  // of the storage type but where weights.py says float32
  void* out;
  void* more[2];
  float* workspace;  // partial sums, workspace_floats() of them
  Precision precision;
  int multiprocessors;
  int capability;  // of the device, 10 major + minor
  Forced forced;   // as in the plan's Machine
  cudaStream_t stream;
};

#define KERNEL(name, Descriptor) void name(const Descriptor& d, const Call& c);
#include "cpu/kernels.def"
#undef KERNEL

bool present(Op op);  // whether the GPU has a kernel for it: absent.def

// What a plan's operations have in common.
struct Machine {
  Precision precision;
  int multiprocessors, capability;  // capability: 10 major + minor
  Forced forced;
};

int64_t workspace_floats(const Conv2d& d, const Machine& m);
int64_t workspace_floats(const Linear& d, const Machine& m);
int64_t workspace_floats(const Winograd& d, const Machine& m);
int64_t workspace_floats(const Conv2dBackwardInput& d, const Machine& m);
int64_t workspace_floats(const NormalizeBackward& d, const Machine& m);
template <class D>
int64_t workspace_floats(const D&, const Machine&) {
  return 0;
}

// Elements of a tensor whose layout is the GPU's own: packed weights, sums of weight gradients; -1 for all others,
// which are as the CPU's.
int64_t own_size(const PackWeights& d, Precision precision, int multiprocessors);
int64_t own_size(const Conv2dBackwardWeight& d, Precision precision, int multiprocessors);
template <class D>
int64_t own_size(const D&, Precision, int) {
  return -1;
}

// y = x, element by element, between float32 and the storage type.
void convert(const void* x, bool x_float, void* y, bool y_float, int64_t n, Precision precision, cudaStream_t stream);

}  // namespace cuda
}  // namespace fastconv
