// conv2d and linear: arguments, choice of the tile and the slices, launch. The kernels: conv_gemm.cuh, compiled for
// each precision by conv_gemm_*.cu; for one to eight rows of a dense layer: dense.cu.
#include <algorithm>

#include "conv_choice.h"
#include "conv_launch.h"

namespace fastconv {
namespace cuda {

static int forced_tile = -1, forced_slices = 1;

void force_conv(int tile, int slices) { forced_tile = tile < TILES ? tile : -1, forced_slices = slices; }

ConvChoice choose_conv(int64_t M, int64_t K, int64_t groups, int64_t steps, int multiprocessors) {
  // Relative cost of a step and of a block's start and end, in units of 64 x 64 outputs; nothing here is measured yet.
  constexpr double START = 6.0, SLICE = 3.0;
  ConvChoice best{0, 1, (int)steps};
  double least = 0;
  if (forced_tile >= 0) {
    const int64_t per = ceil_div(steps, max_i(1, min_i(forced_slices, steps)));
    return {forced_tile, (int)ceil_div(steps, per), (int)per};
  }
  for (int t = 0; t < TILES; t++) {
    const Tile& tile = TILE[t];
    const double area = tile.rows * tile.columns / 4096.0, edge = (tile.rows + tile.columns) / 128.0;
    const double step = std::max(area, 0.6 * edge);  // small tiles wait for their operands
    const int64_t blocks = ceil_div(M, tile.rows) * ceil_div(K, tile.columns) * groups;
    const int64_t resident = (int64_t)multiprocessors * (area > 3 ? 2 : 3);
    for (int slices = 1; slices <= 16; slices++) {
      const int64_t per = ceil_div(steps, slices), used = ceil_div(steps, per);
      if (used != slices || (slices > 1 && per < 4)) continue;
      const double waves = (double)ceil_div(blocks * used, resident);
      const double share = std::max(1.0, std::min<double>(blocks * used, resident) / multiprocessors);
      const double partial = slices > 1 ? SLICE + 0.02 * slices * M * K * groups / 4096.0 / multiprocessors * 8 : 0;
      const double cost = waves * share * (per * step + START * area) + partial;
      if (least == 0 || cost < least) least = cost, best = {t, slices, (int)per};
    }
  }
  return best;
}

namespace {

bool aligned(const void* p) { return (uintptr_t)p % 16 == 0; }

int narrow(int64_t v) {
  if (v > 0x3fffffff) throw std::invalid_argument("conv2d: a dimension is too large for the GPU's kernels");
  return (int)v;
}

int64_t width_of(Precision p) { return p == Precision::fp16 || p == Precision::bf16 ? 8 : 4; }

ConvChoice choice_of(const Conv2d& d, Precision precision, int multiprocessors) {
  const int64_t depth = d.C / d.groups * d.R * d.S;
  return choose_conv(d.N * d.P * d.Q, d.K / d.groups, d.groups, ceil_div(depth, 8 * width_of(precision)),
                     multiprocessors);
}

Conv2d as_conv(const Linear& l) {
  Conv2d d{};
  d.N = l.M, d.H = d.W = d.P = d.Q = d.R = d.S = d.groups = 1;
  d.C = l.C, d.K = l.K;
  d.stride_h = d.stride_w = d.dilation_h = d.dilation_w = 1;
  d.x_image = d.x_row = d.x_ld = l.x_ld;
  d.y_ld = l.y_ld, d.res_ld = l.res_ld, d.act = l.act;
  return d;
}

}  // namespace

int64_t workspace_floats(const Conv2d& d, Precision precision, int multiprocessors) {
  const int slices = choice_of(d, precision, multiprocessors).slices;
  return slices > 1 ? slices * d.N * d.P * d.Q * d.K : 0;
}

int64_t workspace_floats(const Linear& d, Precision precision, int multiprocessors) {
  return d.M <= FEW_ROWS ? 0 : workspace_floats(as_conv(d), precision, multiprocessors);
}

void conv2d(const Conv2d& d, const Call& c) {
  const int64_t M = d.N * d.P * d.Q, width = width_of(c.precision);
  if (M == 0) return;
  ConvArguments a{};
  a.x = c.in[0], a.w = c.in[1], a.bias = (const float*)c.in[2], a.residual = c.in[3], a.y = c.out;
  a.M = M, a.x_image = d.x_image, a.y_ld = d.y_ld, a.res_ld = d.res_ld;
  a.H = narrow(d.H), a.W = narrow(d.W), a.P = narrow(d.P), a.Q = narrow(d.Q), a.S = narrow(d.S);
  a.groups = narrow(d.groups), a.C = narrow(d.C / d.groups), a.K = narrow(d.K / d.groups);
  a.depth = narrow(d.C / d.groups * d.R * d.S), a.w_ld = narrow(ceil_div(a.depth, width) * width);
  a.stride_h = narrow(d.stride_h), a.stride_w = narrow(d.stride_w);
  a.dilation_h = narrow(d.dilation_h), a.dilation_w = narrow(d.dilation_w);
  a.pad_t = narrow(d.pad_t), a.pad_l = narrow(d.pad_l);
  a.x_row = narrow(d.x_row), a.x_ld = narrow(d.x_ld);
  narrow((d.R * d.dilation_h + d.pad_t) * d.x_row + (d.S * d.dilation_w + d.pad_l) * d.x_ld + d.C);
  narrow(d.P * d.Q), narrow(d.P * d.stride_h), narrow(d.Q * d.stride_w);
  a.act = d.act;
  const ConvChoice choice = choice_of(d, c.precision, c.multiprocessors);
  a.steps = narrow(ceil_div(a.depth, 8 * width)), a.steps_per_slice = choice.steps_per_slice;
  a.partial = choice.slices > 1 ? c.workspace : nullptr;
  const bool residual_wide = !a.residual || (aligned(a.residual) && d.res_ld % width == 0);
  a.wide_y = aligned(a.y) && d.y_ld % width == 0 && residual_wide && (d.groups == 1 || a.K % width == 0);
  const bool wide_x =
      aligned(a.x) && d.x_ld % width == 0 && d.x_row % width == 0 && d.x_image % width == 0 && a.C % width == 0;
  switch (c.precision) {
    case Precision::fp32:
      return launch_conv_fp32(a, choice, !wide_x, c.stream);
    case Precision::tf32:
      return launch_conv_tf32(a, choice, !wide_x, c.stream);
    case Precision::fp16:
      return launch_conv_fp16(a, choice, !wide_x, c.stream);
    case Precision::bf16:
      return launch_conv_bf16(a, choice, !wide_x, c.stream);
  }
}

void linear(const Linear& d, const Call& c) {
  if (d.M == 0) return;
  if (d.M <= FEW_ROWS) return dense(d, c);
  conv2d(as_conv(d), c);
}

}  // namespace cuda
}  // namespace fastconv
