// Chunks and sizes of the gradients of convolutions, and of weights packed at run time; see training_checks.h.
#include "check_tools.h"
#include "conv_checks.h"
#include "cpu/dispatch.h"
#include "cpu/select.h"
#include "cpu/winograd.h"
#include "images_checks.h"
#include "training_checks.h"

namespace fastconv {

namespace {

constexpr int64_t LIMIT = int64_t(1) << 31;
constexpr int64_t SLICE = 64, BLOCK = 128, LONGEST_RUN = 128;  // conv2d_backward_weight.cpp
constexpr int64_t WANTED = 16;                                 // chunks
constexpr double PART_FLOPS = 4e6;                             // of a part, at least
constexpr int64_t SUM_BYTES = 32 << 20;                        // of all parts, at most, where there are several

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename D>
void check_geometry(const char* op, const D& d) {
  CHECK(op, N, 0, LIMIT);
  CHECK(op, P, 0, LIMIT);
  CHECK(op, Q, 0, LIMIT);
  CHECK(op, H, 1, LIMIT);
  CHECK(op, W, 1, LIMIT);
  CHECK(op, C, 1, LIMIT);
  CHECK(op, K, 1, LIMIT);
  CHECK(op, R, 1, WINDOW_LIMIT);
  CHECK(op, S, 1, WINDOW_LIMIT);
  CHECK(op, groups, 1, LIMIT);
  CHECK(op, stride_h, 1, WINDOW_LIMIT);
  CHECK(op, stride_w, 1, WINDOW_LIMIT);
  CHECK(op, dilation_h, 1, WINDOW_LIMIT);
  CHECK(op, dilation_w, 1, WINDOW_LIMIT);
  CHECK(op, pad_t, 0, LIMIT);
  CHECK(op, pad_l, 0, LIMIT);
  CHECK(op, x_ld, d.C, SIZE_LIMIT);
  CHECK(op, g_ld, d.K, SIZE_LIMIT);
  if (d.C % d.groups || d.K % d.groups)
    throw std::invalid_argument(std::string(op) + ": channels do not divide into groups");
  int64_t size;
  if (d.R * d.S > WINDOW_LIMIT || __builtin_mul_overflow(d.C * d.R * d.S * 65, d.K, &size) ||
      size > (int64_t(1) << 58) || __builtin_mul_overflow(d.P * d.Q, d.N, &size) || size > SIZE_LIMIT ||
      __builtin_mul_overflow(d.H * d.W, d.N, &size) || size > SIZE_LIMIT)
    too_large(op, "w");
}

bool depthwise(const Conv2dBackwardWeight& d) { return d.groups > 1 && d.groups == d.C; }

// Floats of one part's sums.
int64_t part_size(const Conv2dBackwardWeight& d, Isa isa) {
  const int64_t V = geometry(isa).vector_length, groups = depthwise(d) ? 1 : d.groups;
  const int64_t Kg = d.K / groups, Cg = depthwise(d) ? 1 : d.C / groups;
  return groups * d.R * d.S * Cg * ceil_div(Kg, V) * V;
}

bool takes_images(const Conv2dBackwardWeight& d, Isa isa) {
  if (depthwise(d) || !images_pay(d, isa)) return false;
  const ImageBands cut = image_bands(d, isa, true);
  return cut.groups * cut.bands <= SUM_BYTES / 4 / part_size(d, isa);
}

int64_t parts_of(const Conv2dBackwardWeight& d, Isa isa) {
  if (takes_images(d, isa)) {
    const ImageBands cut = image_bands(d, isa, true);
    return cut.groups * cut.bands;
  }
  const int64_t groups = depthwise(d) ? 1 : d.groups, slices = groups * ceil_div(d.K / groups, SLICE);
  const int64_t M = d.N * d.P * d.Q, rows = depthwise(d) ? d.N * d.P : ceil_div(M, BLOCK);
  const double flops = 2.0 * M * d.K * (d.C / d.groups) * d.R * d.S * (depthwise(d) ? 8 : 1);
  const int64_t most = std::min<int64_t>(rows, std::max<int64_t>(1, SUM_BYTES / 4 / part_size(d, isa)));
  return std::max<int64_t>(
      1, std::min({ceil_div(WANTED, slices), most, static_cast<int64_t>(std::min(flops / PART_FLOPS, 1e6))}));
}

// Columns of dw are contiguous whole vectors, and no other part adds to them.
bool is_direct(const Conv2dBackwardWeight& d, Isa isa) {
  return d.groups == 1 && d.R * d.S == 1 && d.dw_k == 1 && d.K % geometry(isa).vector_length == 0 && d.stride_h == 1 &&
         d.stride_w == 1 && d.pad_t == 0 && d.pad_l == 0 && d.N * d.P * d.Q > 0 && parts_of(d, isa) == 1;
}

}  // namespace

Extent extent(const Conv2dBackwardWeight& d, Isa isa, Op op) {
  const char* name = "conv2d_backward_weight";
  check_geometry(name, d);
  if (op != Op::conv2d_backward_weight_sum && depthwise(d) != (op == Op::depthwise_backward_weight))
    throw std::invalid_argument(std::string(name) + ": depthwise filters have their own kernel");
  const bool direct = is_direct(d, isa);
  const int64_t sums = parts_of(d, isa) * part_size(d, isa);
  const int64_t dw = reach_distinct(name, {{d.K, d.dw_k}, {d.C / d.groups, d.dw_c}, {d.R * d.S, d.dw_tap}});
  Extent e{};
  if (op == Op::conv2d_backward_weight_sum) {
    e.in[0] = sums;
    e.out = dw;
    return e;
  }
  e.in[0] = reach(name, "x", {{d.N, d.x_image}, {d.H, d.x_row}, {d.W, d.x_ld}, {d.C, 1}});
  e.in[1] = rows_extent(name, "g", d.N * d.P * d.Q, d.g_ld, d.K);
  e.out = direct ? dw : sums;
  return e;
}

void prepare(Conv2dBackwardWeight& d, Isa isa, Op op) {
  d.parts = parts_of(d, isa);
  d.direct = is_direct(d, isa);
  d.images = takes_images(d, isa);
  const int64_t groups = depthwise(d) ? 1 : d.groups, Kg = d.K / groups;
  if (op == Op::conv2d_backward_weight_sum) {
    const double items =
        static_cast<double>(groups) * blocks(Kg, SLICE) * blocks((depthwise(d) ? 1 : d.C / d.groups) * d.R * d.S, 64);
    d.chunks = chunks_of(static_cast<double>(d.parts) * part_size(d, isa), 2 * CHUNK, items);
  } else if (d.direct) {
    const double flops = 2.0 * (double)(d.N * d.P * d.Q * d.K) * (double)d.C;
    d.chunks = chunks_of(flops, PART_FLOPS / 4, blocks(d.C, 12));
  } else {
    d.chunks = d.parts * groups * ceil_div(Kg, SLICE);
  }
}

int64_t scratch_bytes(const Conv2dBackwardWeight& d, Isa isa) {
  if (takes_images(d, isa)) {
    const int64_t rows = image_bands(d, isa, true).rows, sums = 4 * d.K * geometry(isa).vector_length;
    return (int64_t)image_bytes(d, rows, rows, isa) + 4 * sums;
  }
  return d.S * d.C <= LONGEST_RUN ? BLOCK * d.S * d.C * 4 : 0;
}

Extent extent(const Conv2dBackwardInput& d, Isa isa, Op op) {
  const char* name = "conv2d_backward_input";
  check_geometry(name, d);
  Extent e{};
  e.in[0] = rows_extent(name, "g", d.N * d.P * d.Q, d.g_ld, d.K);
  if (op == Op::depthwise_backward_input) {
    if (d.groups != d.C || d.K != d.C) throw std::invalid_argument("depthwise_backward_input: groups, C and K differ");
    e.in[1] = packed_depthwise_size(d.C, d.R, d.S, isa);
  } else {
    e.in[1] = packed_conv2d_size(d.C, d.K, d.R, d.S, d.groups, isa);
  }
  e.in[2] = rows_extent(name, "residual", d.N * d.H * d.W, d.res_ld, d.C);
  e.optional_from = 2;
  e.out = reach_distinct(name, {{d.N, d.x_image}, {d.H, d.x_row}, {d.W, d.x_ld}, {d.C, 1}});
  return e;
}

void prepare(Conv2dBackwardInput& d, Isa isa, Op op) {
  const int64_t rows = d.N * d.H, V = geometry(isa).vector_length, widest = geometry(isa).max_panel;
  const int64_t vectors = ceil_div(d.C / d.groups, V), panels = ceil_div(vectors, widest);
  const int64_t depth = d.K / d.groups * d.R * d.S;
  d.panels_per_chunk = 4 * vectors * V * depth <= SMALL_WEIGHTS ? panels : 1;
  d.panel_chunks = ceil_div(panels, d.panels_per_chunk);
  if (op == Op::depthwise_backward_input) d.panel_chunks = 1;
  const int64_t parts = op == Op::depthwise_backward_input ? 1 : d.groups * d.panel_chunks;
  const int64_t columns = op == Op::depthwise_backward_input ? 4 * d.C : std::min(d.C, d.panels_per_chunk * widest * V);
  const int64_t row_flops = std::max<int64_t>(1, 2 * d.W * depth * columns / (d.stride_h * d.stride_w));
  const int64_t rows_for_flops = ceil_div(CHUNK_FLOPS, row_flops);
  const int64_t most = std::min(ceil_div(CHUNKS, parts), ceil_div(rows, rows_for_flops));
  d.row_chunks = rows == 0 ? 0 : even_ranges(rows, most, parts, 1, 1);
  d.chunks = parts * d.row_chunks;
}

int64_t scratch_bytes(const Conv2dBackwardInput& d, Isa) {
  const int64_t columns = d.groups == d.C ? d.W * (2 * d.S + 1) * 4 : 0;  // of depthwise_backward_input
  return std::max(columns, ceil_div(d.K / d.groups, 16) * 64 + d.R * d.S * (16 * 8 + 4) + 64);
}

Extent extent(const PackWeights& d, Isa isa, Op kernel) {
  const char* op = "pack_weights";
  CHECK(op, K, 1, LIMIT);
  CHECK(op, C, 1, LIMIT);
  CHECK(op, taps, 1, WINDOW_LIMIT);
  CHECK(op, groups, 1, LIMIT);
  CHECK(op, flip, 0, 1);
  in_range(op, "layout", static_cast<int64_t>(d.layout), 0, static_cast<int64_t>(PanelLayout::depthwise));
  if (d.C % d.groups || d.K % d.groups) throw std::invalid_argument("pack_weights: groups");
  if (d.layout != PanelLayout::conv2d && d.groups != 1) throw std::invalid_argument("pack_weights: groups");
  if (d.layout == PanelLayout::depthwise && d.C != 1) throw std::invalid_argument("pack_weights: C");
  if (d.layout == PanelLayout::linear) {
    CHECK(op, panel, 1, LIMIT);
    if (d.panel % geometry(isa).vector_length) throw std::invalid_argument("pack_weights: panel");
  }
  int64_t size;
  if (__builtin_mul_overflow(d.C * d.taps * 65, d.K, &size) || size > (int64_t(1) << 58)) too_large(op, "w");
  Extent e{};
  const bool winograd = kernel == Op::pack_winograd_weights;
  const int64_t r = d.taps == 25 ? 5 : 3;
  const bool known = d.taps == r * r && d.m <= 4 && winograd_known(d.m, r, WINOGRAD_BOTH);  // what the kernel has
  if (winograd && (!known || d.groups != 1 || d.layout != PanelLayout::conv2d))
    throw std::invalid_argument("pack_weights: no such form of Winograd's convolution");
  if (winograd && d.w_k != 1) CHECK(op, w_tap, 1, 1);
  e.in[0] =
      reach(op, "w", {{d.groups, d.w_group}, {d.K / d.groups, d.w_k}, {d.C / d.groups, d.w_c}, {d.taps, d.w_tap}});
  e.out = winograd                             ? packed_winograd_size(d.K, d.C, d.m, r, WINOGRAD_BOTH, isa)
          : d.layout == PanelLayout::linear    ? packed_linear_size(d.K, d.C * d.taps, isa)
          : d.layout == PanelLayout::depthwise ? packed_depthwise_size(d.K, d.taps, 1, isa)
                                               : packed_conv2d_size(d.K, d.C, d.taps, 1, d.groups, isa);
  return e;
}

void prepare(PackWeights& d, Isa isa, Op op) {
  if (op == Op::pack_winograd_weights) {
    const double items = static_cast<double>(panel_count(d.K, isa)) * blocks(d.C, 4);
    d.chunks = chunks_of(static_cast<double>(d.K) * d.C * d.taps, CHUNK, items);
    return;
  }
  const Geometry& table = geometry(isa);
  const int64_t vectors = ceil_div(d.K / d.groups, table.vector_length);
  const int64_t widest = d.layout == PanelLayout::linear      ? d.panel / table.vector_length
                         : d.layout == PanelLayout::depthwise ? vectors
                                                              : table.max_panel;
  const double items = static_cast<double>(d.groups) * ceil_div(vectors, widest) * blocks(d.C / d.groups, 16);
  d.chunks = chunks_of(static_cast<double>(d.K) * d.C / d.groups * d.taps, 2 * CHUNK, items);
}

}  // namespace fastconv
