// The kernels of one ISA level behind one table.
#pragma once
#include "cpu/winograd.h"
#include "ops.h"

namespace fastconv {

// Element (k, c, tap) of w, but for other orders in pack_weights.cpp, lies at k * w_k + c * w_c + tap and goes to
// out[(tap * depth + c) * ld + k], times scale[k] where there is a scale. Lanes from `columns` to `width` become zero.
// flip: taps in reverse order.
struct FilterPanel {
  const float *w, *scale;
  float* out;
  int64_t w_k, w_c, columns, width, ld, depth, taps;
  bool flip;
};

struct KernelTable {
#define KERNEL(name, Descriptor) void (*name)(const Descriptor&, const Buffers&, int64_t, int64_t);
#include "cpu/kernels.def"
#undef KERNEL
  // U = G g G^T of `lanes` <= 16 filters that lie `stride` floats apart: out[e * plane + lane]; scale may be null.
  void (*winograd_filter)(const WinogradFilter& G, float* out, int64_t plane, const float* w, int64_t stride,
                          const float* scale, int64_t lanes);
  void (*pack_panel)(const FilterPanel& p);  // of any level's width; w_c == taps
  float (*fma_rate)(int64_t iterations);     // does iterations * fma_rate_flops floating-point operations in registers
  double fma_rate_flops;
};

// How a level's kernels want weights: known of every level, so that any can be packed and planned anywhere.
struct Geometry {
  int vector_length;  // floats
  int max_panel;      // vectors in the widest weight panel of a convolution
  int dense_panel;    // vectors in a weight panel of a dense layer of few rows, unless they come from memory
  int rows[5];        // most rows of a tile, by its width in vectors
  int half_rows[5];   // of one whose last vector two rows share; 0: there is none
};

// By Isa; table.cpp and half_tile.h assert them.
constexpr Geometry GEOMETRY[] = {{4, 2, 4, {0, 4, 4, 2, 2}, {}},
                                 {8, 2, 8, {0, 12, 6, 0, 0}, {}},
                                 {16, 4, 8, {0, 14, 12, 8, 7}, {0, 0, 14, 10, 0}},
                                 {4, 4, 8, {0, 12, 12, 8, 6}, {}}};

}  // namespace fastconv
