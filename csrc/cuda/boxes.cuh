// Several tensors over the same dimensions with strides of their own, and launches of one thread for each element.
#pragma once
#include <initializer_list>

#include "ops.h"
#include "ptx.cuh"

namespace fastconv {
namespace cuda {

constexpr int BLOCK = 256;

// Kernels count elements in 32 bits: divisions by 64-bit numbers cost ten times as much.
inline uint32_t count_of(int64_t n) {
  if (n < 0 || n > 0x7fffffff) throw std::invalid_argument("a tensor is too large for the GPU's kernels");
  return (uint32_t)n;
}
inline dim3 grid_of(uint32_t threads) { return dim3((threads + BLOCK - 1) / BLOCK); }

// Dimensions stand at the end, with 1s before them.
template <int n>
struct Boxes {
  uint32_t total, dims[MAX_RANK];
  int64_t stride[n][MAX_RANK];

  __device__ void locate(uint32_t i, int64_t (&at)[n]) const {
    FASTCONV_UNROLL
    for (int k = 0; k < n; k++) at[k] = 0;
    FASTCONV_UNROLL
    for (int axis = MAX_RANK - 1; axis >= 0; axis--) {
      if (dims[axis] == 1) continue;
      const uint32_t rest = i / dims[axis], index = i - rest * dims[axis];
      FASTCONV_UNROLL
      for (int k = 0; k < n; k++) at[k] += index * stride[k][axis];
      i = rest;
    }
  }

  // Whether `width` neighbours along the last dimension can go at once: contiguous in tensor `out`, contiguous or the
  // same in the others, everything on 16 bytes.
  bool wide(int width, std::initializer_list<const void*> pointers, int out) const {
    if (dims[MAX_RANK - 1] % (uint32_t)width) return false;
    int k = 0;
    for (const void* p : pointers) {
      const int64_t last = stride[k][MAX_RANK - 1];
      if (last == 1 ? (uintptr_t)p % 16 != 0 : last != 0 || k == out) return false;
      for (int axis = 0; axis < MAX_RANK - 1; axis++)
        if (last == 1 && dims[axis] > 1 && stride[k][axis] % width) return false;
      k++;
    }
    return true;
  }

  // One index of the last dimension for `width` elements.
  void narrow(int width) {
    dims[MAX_RANK - 1] /= (uint32_t)width;
    total /= (uint32_t)width;
    for (int k = 0; k < n; k++) stride[k][MAX_RANK - 1] *= width;
  }
};

template <int n>
Boxes<n> boxes_of(int64_t rank, const int64_t* dims, std::initializer_list<const int64_t*> strides) {
  Boxes<n> b{};
  int64_t total = 1;
  for (int axis = 0; axis < MAX_RANK; axis++) {
    const int64_t from = axis - (MAX_RANK - rank);
    b.dims[axis] = from < 0 ? 1 : count_of(dims[from]);
    total *= b.dims[axis];
    count_of(total);
    int k = 0;
    for (const int64_t* s : strides) b.stride[k++][axis] = from < 0 ? 0 : s[from];
  }
  b.total = count_of(total);
  return b;
}

}  // namespace cuda
}  // namespace fastconv
