// What the operations of training share. They store float32: the gradients of a step span more than 16 bits hold.
#pragma once
#include "boxes.cuh"
#include "kernels.h"

namespace fastconv {
namespace cuda {

inline void require_float(const Call& c) {
  if (c.precision == Precision::fp16 || c.precision == Precision::bf16)
    throw std::invalid_argument("training computes in fp32 or tf32");
}

// The first of `n` items that part `i` of `parts` has; parts differ by at most one item.
__host__ __device__ inline int64_t part_begin(int64_t n, int64_t parts, int64_t i) {
  return n / parts * i + min_i(i, n % parts);
}

}  // namespace cuda
}  // namespace fastconv
