// Chunks, scratch and buffer sizes of convolutions and dense layers (checks.h: the other operations), and the one way
// to ask for those of any descriptor.
#pragma once
#include "checks.h"
#include "training_checks.h"

namespace fastconv {

void prepare(Conv2d& d, Isa isa);
void prepare(Winograd& d, Isa isa, Op op);
void prepare(DepthwiseConv2d& d);
void prepare(Linear& d, Isa isa);

Extent extent(const Conv2d& d, Isa isa);
Extent extent(const Winograd& d, Isa isa, Op op);
Extent extent(const DepthwiseConv2d& d, Isa isa);
Extent extent(const Linear& d, Isa isa);

// per thread
int64_t scratch_bytes(const Conv2d& d, Isa isa);
int64_t scratch_bytes(const Winograd& d, Isa isa, Op op);
int64_t scratch_bytes(const Linear& d);

// Floats between the two operations of a Winograd convolution; 0 where one does it all.
int64_t winograd_workspace(int64_t N, int64_t P, int64_t Q, int64_t C, int64_t K, int64_t m, int64_t r, int64_t axes);

// Enough chunks to keep eight threads busy, none below a few microseconds of work.
constexpr int64_t CHUNKS = 32, CHUNK_FLOPS = 1 << 20;
constexpr int64_t SMALL_WEIGHTS = 256 << 10;  // bytes: a quarter of L2

// Into how many ranges rows are cut, of which none has a unit more than another. Chunks are ranges times `parts`; of
// `most` ranges down to half as many, those at whose end two threads wait least, each with half of the chunks. tile:
// most rows of one.
int64_t even_ranges(int64_t rows, int64_t most, int64_t parts, int64_t unit, int64_t tile);

// Into how many bands of rows a depthwise convolution cuts the sums over an image of P rows.
int64_t depthwise_bands(int64_t P);

// Chunk i reads part i % weight_parts of the weights; 0 where they are few.
int64_t weight_parts(const Conv2d& d);
int64_t weight_parts(const Winograd& d, Isa isa, Op op);
int64_t weight_parts(const Linear& d, Isa isa);

// The operation of a convolution's algorithm.
Op operation_of(const Conv2d& d);
// Throws std::invalid_argument unless that is `op`: in a file they may differ.
void check_operation(const Conv2d& d, Op op);

// What differs between operations: some need the ISA, one also which kernel it is, and few need scratch.
template <typename D>
void prepare_for(D& d, Isa, Op) {
  prepare(d);
}
template <typename D>
Extent extent_for(const D& d, Isa, Op) {
  return extent(d);
}
template <typename D>
int64_t scratch_for(const D&, Isa, Op) {
  return 0;
}
template <typename D>
int64_t weight_parts_for(const D&, Isa, Op) {
  return 0;
}

template <>
inline void prepare_for(Conv2d& d, Isa isa, Op) {
  prepare(d, isa);
}
template <>
inline void prepare_for(Linear& d, Isa isa, Op) {
  prepare(d, isa);
}
template <>
inline void prepare_for(Winograd& d, Isa isa, Op op) {
  prepare(d, isa, op);
}
template <>
inline Extent extent_for(const Conv2d& d, Isa isa, Op op) {
  check_operation(d, op);
  return extent(d, isa);
}
template <>
inline Extent extent_for(const Linear& d, Isa isa, Op) {
  return extent(d, isa);
}
template <>
inline Extent extent_for(const DepthwiseConv2d& d, Isa isa, Op) {
  return extent(d, isa);
}
template <>
inline Extent extent_for(const Winograd& d, Isa isa, Op op) {
  return extent(d, isa, op);
}
template <>
inline int64_t scratch_for(const Conv2d& d, Isa isa, Op) {
  return scratch_bytes(d, isa);
}
template <>
inline int64_t scratch_for(const Winograd& d, Isa isa, Op op) {
  return scratch_bytes(d, isa, op);
}
template <>
inline int64_t scratch_for(const Linear& d, Isa, Op) {
  return scratch_bytes(d);
}

template <>
inline int64_t weight_parts_for(const Conv2d& d, Isa, Op) {
  return weight_parts(d);
}
template <>
inline int64_t weight_parts_for(const Winograd& d, Isa isa, Op op) {
  return weight_parts(d, isa, op);
}
template <>
inline int64_t weight_parts_for(const Linear& d, Isa isa, Op) {
  return weight_parts(d, isa);
}

// Training: some need the ISA, others which kernel it is, or both.
#define NEEDS_BOTH(D)                                    \
  template <>                                            \
  inline void prepare_for(D& d, Isa isa, Op op) {        \
    prepare(d, isa, op);                                 \
  }                                                      \
  template <>                                            \
  inline Extent extent_for(const D& d, Isa isa, Op op) { \
    return extent(d, isa, op);                           \
  }                                                      \
  template <>                                            \
  inline int64_t scratch_for(const D& d, Isa isa, Op) {  \
    return scratch_bytes(d, isa);                        \
  }
NEEDS_BOTH(Conv2dBackwardWeight)
NEEDS_BOTH(Conv2dBackwardInput)
#undef NEEDS_BOTH

template <>
inline void prepare_for(PackWeights& d, Isa isa, Op op) {
  prepare(d, isa, op);
}
template <>
inline Extent extent_for(const PackWeights& d, Isa isa, Op op) {
  return extent(d, isa, op);
}
template <>
inline void prepare_for(BatchNorm& d, Isa, Op op) {
  prepare(d, op);
}

#define NEEDS_OP(D)                                  \
  template <>                                        \
  inline Extent extent_for(const D& d, Isa, Op op) { \
    return extent(d, op);                            \
  }
NEEDS_OP(BatchNorm)
NEEDS_OP(SoftmaxCrossEntropy)
NEEDS_OP(Pool2dBackward)
NEEDS_OP(Optimizer)
#undef NEEDS_OP

}  // namespace fastconv
