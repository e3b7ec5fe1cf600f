// Which algorithm a convolution takes, a pure function of shape and ISA, and how its weights are packed.
#pragma once
#include "ops.h"

namespace fastconv {

struct ConvShape {
  int64_t N, H, W, C, K, P, Q, R, S, groups;
  int64_t stride_h, stride_w, dilation_h, dilation_w, pad_t, pad_l, pad_b, pad_r;
};

enum class ConvChoice : int32_t { gemm, implicit, row_run, depthwise, winograd, grouped };

struct ConvPlan {
  ConvChoice algorithm;
  int m;  // Winograd: outputs of a tile and axis
};

struct Candidates {
  int count;
  ConvPlan plans[8];
};

constexpr int DEFAULT_WINOGRAD = 4, LARGEST_WINOGRAD = 6;  // m

// Whether every size is positive and no count of elements comes near 64 bits.
bool countable(const ConvShape& shape);
// What can compute a shape. `winograd` is the largest m of Winograd's F(m x m, r x r): 0 for precision "strict", whose
// rounding error is that of direct summation, 4 by default, 6 where a user asks for it.
Candidates conv2d_candidates(const ConvShape& shape, Isa isa, int winograd);
// The one that the cost model (cpu/cost.h) expects to be fastest.
ConvPlan choose_conv2d(const ConvShape& shape, Isa isa, int winograd);
// WinogradAxes of a filter.
int64_t winograd_axes(int64_t R, int64_t S);
// row_run: how many neighbouring outputs make one vector (fastconv/stems.py), a divisor of Q; 1 for most shapes.
int64_t row_run_group(const ConvShape& shape, Isa isa);
const char* choice_name(ConvChoice choice);
bool choice_from_name(const char* name, ConvChoice* choice);

// Number of floats of the packed weights of each kernel.
int64_t packed_conv2d_size(int64_t K, int64_t C, int64_t R, int64_t S, int64_t groups, Isa isa);
int64_t packed_winograd_size(int64_t K, int64_t C, int64_t m, int64_t r, int64_t axes, Isa isa);
int64_t packed_depthwise_size(int64_t K, int64_t R, int64_t S, Isa isa);
int64_t packed_linear_size(int64_t K, int64_t C, Isa isa);
// Columns of a panel of the weights of a dense layer of M rows; 0: panels are those of a convolution.
int64_t linear_panel(int64_t M, int64_t C, int64_t K, Isa isa);

// Layouts in cpu/conv2d.cpp, winograd.cpp, depthwise_conv2d.cpp and linear.cpp. `w` is [K][C/groups][R][S], `scale`
// null or K floats.
void pack_conv2d(float* out, const float* w, const float* scale, int64_t K, int64_t C, int64_t R, int64_t S,
                 int64_t groups, Isa isa);
void pack_winograd(float* out, const float* w, const float* scale, int64_t K, int64_t C, int64_t m, int64_t r,
                   int64_t axes, Isa isa);
// The same part by part: w begins at output `first`, where a panel begins, and holds `rows` outputs, whole panels.
int64_t panel_count(int64_t K, Isa isa);
int64_t panel_first(int64_t K, int64_t panel, Isa isa);  // K for the panel behind the last
void pack_conv2d_rows(float* out, const float* w, const float* scale, int64_t first, int64_t rows, int64_t K, int64_t C,
                      int64_t R, int64_t S, Isa isa);
void pack_winograd_rows(float* out, const float* w, const float* scale, int64_t first, int64_t rows, int64_t K,
                        int64_t C, int64_t m, int64_t r, int64_t axes, Isa isa);
void pack_depthwise(float* out, const float* w, const float* scale, int64_t K, int64_t R, int64_t S, Isa isa);
// The outputs [first, first + rows) of a [K][C] weight, of which w begins with the first, for a panel > 0; else see
// pack_conv2d_rows. taps > 1: C counts [C / taps][taps] in w, as an N C H W image flattens, and [taps][C / taps] in the
// input, as N H W C does.
void pack_linear_rows(float* out, const float* w, const float* scale, int64_t first, int64_t rows, int64_t K, int64_t C,
                      int64_t taps, int64_t panel, Isa isa);
// The inputs [first, first + rows) of a [C][K] weight; all of them where taps > 1.
void pack_linear_inputs(float* out, const float* w, const float* scale, int64_t first, int64_t rows, int64_t K,
                        int64_t C, int64_t taps, int64_t panel, Isa isa);

}  // namespace fastconv
