// conv2d and linear: arguments, choice of the tile and the slices, launch. The kernels: conv_gemm.cuh, compiled for
// each precision by conv_gemm_*.cu; for one to eight rows of a dense layer: dense.cu.
#include <algorithm>

#include "conv_choice.h"
#include "conv_launch.h"

namespace fastconv {
namespace cuda {

// Whether sm_90a's kernel is for this card, or a test asks for it.
static bool hopper_wanted(int capability, const Forced& forced) {
  return forced.tile < 0 ? capability == 90 : forced.tile >= TILES;
}

static ConvChoice forced_choice(int64_t steps, const Forced& forced) {
  const int64_t per = ceil_div(steps, max_i(1, min_i(forced.slices, steps)));
  return {forced.tile, (int)ceil_div(steps, per), (int)per};
}

ConvChoice choose_conv(int64_t M, int64_t K, int64_t groups, int64_t steps, int multiprocessors, const Forced& forced) {
  // Relative cost of a step and of a block's start and end, in units of 64 x 64 outputs; not fitted to measurements.
  constexpr double START = 6.0, SLICE = 3.0;
  ConvChoice best{0, 1, (int)steps};
  double least = 0;
  if (forced.tile >= 0 && forced.tile < TILES) return forced_choice(steps, forced);
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

// Microseconds of a step, and of a block's start and end, where one block is on a multiprocessor and where two are.
struct HopperCost {
  double step[2], block[2];
};

ConvChoice choose_hopper(int64_t M, int64_t K, int64_t steps, int multiprocessors, const Forced& forced) {
  // Fitted to 1058 times of ResNet50's and VGG16's layers on an H200, fp16 and tf32 (median error 5%; of 136 layers the
  // choice takes 1.007 of the best tile's time in the mean, 1.22 at worst), before sums left without bank conflicts: a
  // wave of blocks after the other, and partial sums written and read.
  constexpr HopperCost COST[HOPPER_TILES] = {{{0.62}, {7.2}}, {{0.33, 0.75}, {5.2, 6.5}}, {{0.23, 0.49}, {3.6, 4.1}}};
  constexpr double JOIN = 1.8, SLICE = 0.15, FLOAT = 2.2e-6;
  if (forced.tile >= TILES) return forced_choice(steps, forced);
  ConvChoice best{TILES, 1, (int)steps};
  double least = 0;
  for (int t = 0; t < HOPPER_TILES; t++) {
    const int64_t blocks = ceil_div(M, 128) * ceil_div(K, HOPPER_COLUMNS[t]);
    const int resident = hopper_blocks(HOPPER_COLUMNS[t]);
    for (int slices = 1; slices <= 16; slices++) {
      const int64_t per = ceil_div(steps, slices);
      if (ceil_div(steps, per) != slices || (slices > 1 && per < 4)) continue;
      const int64_t waves = blocks * slices / (multiprocessors * resident),
                    rest = blocks * slices % (multiprocessors * resident);
      const auto wave = [&](int64_t there) { return per * COST[t].step[there - 1] + COST[t].block[there - 1]; };
      double cost = waves * wave(resident) + (rest ? wave(ceil_div(rest, multiprocessors)) : 0.0);
      if (slices > 1) cost += JOIN + slices * (SLICE + FLOAT * M * K);
      if (least == 0 || cost < least) least = cost, best = {TILES + t, slices, (int)per};
    }
  }
  return best;
}

namespace {

int64_t width_of(Precision p) { return p == Precision::fp16 || p == Precision::bf16 ? 8 : 4; }

int64_t steps_of(int64_t depth, Precision p) { return max_i(1, ceil_div(depth, 8 * width_of(p))); }

// The kernel of sm_90a starts each tap at a step of its own.
int64_t hopper_steps(int64_t depth, int64_t taps, Precision p) {
  return taps * ceil_div(depth / taps, 8 * width_of(p));
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

int64_t partial_floats(int64_t M, int64_t K, int64_t groups, int64_t depth, int64_t taps, const Machine& m) {
  const int64_t steps = steps_of(depth, m.precision), by_tap = hopper_steps(depth, taps, m.precision);
  int64_t slices = choose_conv(M, K / groups, groups, steps, m.multiprocessors, m.forced).slices;
  if (hopper_wanted(m.capability, m.forced) && m.precision != Precision::fp32 && groups == 1 && depth > 0)
    slices = max_i(slices, choose_hopper(M, K, by_tap, m.multiprocessors, m.forced).slices);
  return slices > 1 ? slices * M * K : 0;
}

int64_t workspace_floats(const Conv2d& d, const Machine& m) {
  return partial_floats(d.N * d.P * d.Q, d.K, d.groups, d.C / d.groups * d.R * d.S, d.R * d.S, m);
}

int64_t workspace_floats(const Linear& d, const Machine& m) {
  return d.M <= FEW_ROWS ? 0 : workspace_floats(as_conv(d), m);
}

static void run_hopper(ConvArguments a, const Call& c, float* partial) {
  a.steps = narrow(hopper_steps(a.depth, a.depth / a.C, c.precision));
  const ConvChoice choice = choose_hopper(a.M, a.K, a.steps, c.multiprocessors, c.forced);
  a.steps_per_slice = choice.steps_per_slice;
  a.partial = choice.slices > 1 ? partial : nullptr;
  launch_conv_hopper(a, choice, c.precision, c.stream);
}

// Whether steps of 128 bytes of a tap suit: at least three quarters of them are no padding.
static bool suits_hopper(const ConvArguments& a, int64_t width) {
  const int64_t step = 8 * width;
  return 4 * a.C >= 3 * ceil_div(a.C, step) * step;
}

void run_product(ConvArguments a, const Call& c, float* partial) {
  const int64_t width = width_of(c.precision);
  narrow(a.M);
  a.steps = narrow(steps_of(a.depth, c.precision));
  const ConvChoice choice = choose_conv(a.M, a.K, a.groups, a.steps, c.multiprocessors, c.forced);
  a.steps_per_slice = choice.steps_per_slice;
  a.partial = choice.slices > 1 ? partial : nullptr;
  a.wide_partial = (uintptr_t)partial % 16 == 0 && a.K % 4 == 0;
  const auto wide = [&](const void* p, std::initializer_list<int64_t> strides) {
    bool all = (uintptr_t)p % 16 == 0;
    for (int64_t s : strides) all = all && s % width == 0;
    return all;
  };
  a.wide_y = wide(a.y, {a.y_ld, a.y_row, a.y_image, a.groups == 1 ? 0 : a.K}) && (uintptr_t)a.bias % 16 == 0 &&
             (!a.residual || wide(a.residual, {a.res_ld, a.res_row, a.res_image}));
  const bool wide_x = wide(a.x, {a.x_ld, a.x_row, a.x_image, a.C});
  const bool suits = hopper_wanted(c.capability, c.forced) && (c.forced.tile >= TILES || suits_hopper(a, width));
  if (c.precision != Precision::fp32 && wide_x && suits && hopper_can(a) && hopper_built())
    return run_hopper(a, c, partial);
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

void conv2d(const Conv2d& d, const Call& c) {
  const int64_t width = width_of(c.precision);
  if (d.N * d.P * d.Q == 0) return;
  ConvArguments a{};
  a.x = c.in[0], a.w = c.in[1], a.bias = (const float*)c.in[2], a.residual = c.in[3], a.y = c.out;
  a.M = d.N * d.P * d.Q, a.x_image = d.x_image, a.y_ld = d.y_ld, a.res_ld = d.res_ld, a.dense_y = 1;
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
  run_product(a, c, c.workspace);
}

void linear(const Linear& d, const Call& c) {
  if (d.M == 0) return;
  if (d.M <= FEW_ROWS) return dense(d, c);
  conv2d(as_conv(d), c);
}

}  // namespace cuda
}  // namespace fastconv
