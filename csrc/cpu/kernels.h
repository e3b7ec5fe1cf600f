// Declares the kernels of the level that a file is compiled for.
#pragma once
#include "cpu/simd/simd.h"
#include "cpu/table.h"
#include "ops.h"

namespace fastconv {
namespace FASTCONV_ISA {

#define KERNEL(name, Descriptor) void name(const Descriptor& d, const Buffers& b, int64_t begin, int64_t end);
#include "cpu/kernels.def"
#undef KERNEL

static inline int64_t min_i(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max_i(int64_t a, int64_t b) { return a > b ? a : b; }

constexpr int64_t FAR_IMAGE = 1 << 20;  // bytes: what a layer reads lies beyond L2 if it is more

// act in place on rows of n floats, y_ld from one to the next; on n floats (cpu/unary.cpp)
void activate_rows(const Activation& act, float* y, int64_t y_ld, int64_t rows, int64_t n);
static inline void activate_row(const Activation& act, float* y, int64_t n) { activate_rows(act, y, 0, 1, n); }

// Whether act is done where sums are in registers; other functions take long runs of what has been written.
static inline bool clips(const Activation& act) { return act.func == Func::clip || act.func == Func::identity; }

// cpu/conv2d_images.cpp, conv2d_backward_weight_images.cpp: parts of conv2d and conv2d_backward_weight
void conv2d_images(const Conv2d& d, const Buffers& b, int64_t begin, int64_t end);
void conv2d_backward_weight_images(const Conv2dBackwardWeight& d, const Buffers& b, int64_t begin, int64_t end);

// cpu/winograd_filter.cpp and pack_panel.cpp, see cpu/table.h
void winograd_filter(const WinogradFilter& G, float* out, int64_t plane, const float* w, int64_t stride,
                     const float* scale, int64_t lanes);
void pack_panel(const FilterPanel& p);

}  // namespace FASTCONV_ISA
}  // namespace fastconv
