// The cost model of convolutions: seconds = sum over terms of count x coefficient, all of them non-negative.
//
// Counts follow the kernels: tiles as gemm.h and half_tile.h cut them (a tile of mr rows and nv vectors, or nv - 1/2,
// takes mr * nv slots a step, at least the eight that two ports times four cycles of latency leave open), blocks as
// conv_checks.cpp makes them, bytes by where they come from. Coefficients are fitted to measurements with cold weights
// by bench/fit_cost.py. Nothing here knows of threads, time or the machine.
#include "cpu/cost.h"

#include <algorithm>

#include "conv_checks.h"
#include "cpu/cost_table.h"
#include "cpu/dispatch.h"
#include "cpu/winograd.h"
#include "grouped_checks.h"
#include "images_checks.h"

namespace fastconv {

namespace {

constexpr int64_t NEAR = 1 << 20;        // bytes that stay in L2
constexpr int64_t RESIDENT = 640 << 10;  // bytes of weights that stay there beside a block of tiles
constexpr double FEWEST = 8;             // slots of a step
constexpr double GROUP_POINTER = 3;      // pointers: as a group's pixels share no line; by hand, Zen 3, not fitted
constexpr double PRICE = 1e-11;          // seconds a byte: half of what reading it takes

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

double slots(int64_t rows, double width) { return std::max((double)rows * width, FEWEST); }

// Rows of a tile of nv vectors.
int64_t most_rows(const Geometry& table, int64_t rows, int64_t nv) {
  const bool same = nv == 4 && ceil_div(rows, 6) == ceil_div(rows, 7);
  return same ? std::min<int64_t>(table.rows[nv], 6) : table.rows[nv];
}

// `count` panels of `width` vectors over `steps` steps, as tiles of at most `most` rows; rows come in units.
void add_panels(Cost& cost, int64_t count, double width, int64_t rows, int64_t most, int64_t unit, double steps) {
  const int64_t units = rows / unit, blocks = ceil_div(units, most / unit);
  const int64_t fewest = units / blocks * unit, more = units % blocks;
  const double step = (double)(blocks - more) * slots(fewest, width) + (double)more * slots(fewest + unit, width);
  cost.terms[COST_FMA] += (double)count * steps * step;
  cost.terms[COST_STORE] += (double)(count * rows) * width;
}

// Products of `rows` rows by `columns` columns; halves: two rows may share the last vector (half_tile.h).
void add_products(Cost& cost, const Geometry& table, int64_t rows, int64_t columns, double steps, bool halves = false) {
  if (rows <= 0) return;
  const int64_t vectors = ceil_div(columns, table.vector_length), panels = ceil_div(vectors, table.max_panel);
  const int64_t nv = vectors / panels, wide = vectors % panels, tail = columns - (vectors - 1) * table.vector_length;
  const bool half = halves && table.half_rows[nv] && 2 * tail <= table.vector_length && rows % 2 == 0;
  if (wide > 0) add_panels(cost, wide, (double)(nv + 1), rows, most_rows(table, rows, nv + 1), 1, steps);
  add_panels(cost, panels - wide - half, (double)nv, rows, most_rows(table, rows, nv), 1, steps);
  if (half) add_panels(cost, 1, (double)nv - 0.5, rows, table.half_rows[nv], 2, steps);
}

void add_images(Cost& cost, const ConvShape& s) {
  const double bytes = 4.0 * s.N * ((double)s.H * s.W * s.C + (double)s.P * s.Q * s.K);
  cost.terms[COST_IMAGE] += bytes;
  cost.terms[COST_FAR] += std::max(0.0, bytes - (double)NEAR);
}

// Lanes of images: every product counts, and turning about 16 images takes 50 cycles for 256 numbers, six slots a
// vector.
void add_conv2d_images(Cost& cost, const ConvShape& s, Isa isa) {
  const double V = geometry(isa).vector_length, groups = std::ceil((double)s.N / V);
  const double products = (double)(s.P * s.Q * s.K) * (double)(s.C * s.R * s.S);
  const double turned = (double)(s.H * s.W * s.C + s.P * s.Q * s.K);
  cost.terms[COST_FMA] += groups * (products + 6 * turned);
  cost.terms[COST_WEIGHT] += 4.0 * (double)packed_conv2d_size(s.K, s.C, s.R, s.S, s.groups, isa);
  cost.terms[COST_OPERATION] += 1;
}

// Blocks of up to ten outputs of a line by one vector, or six by two: grouped_conv2d.cpp's with 16 registers, and near
// enough with 32. The copy is written once for each time that a band reads a row.
void add_grouped(Cost& cost, const ConvShape& s, Isa isa) {
  const int64_t V = geometry(isa).vector_length, merged = merged_groups(s, V), Cg = s.C / s.groups;
  const int64_t vectors = ceil_div(merged * (s.K / s.groups), V), parts = ceil_div(s.groups, merged);
  const auto line = [&](int64_t most, double width) {
    const int64_t blocks = ceil_div(s.Q, most), more = s.Q % blocks;
    return (double)(blocks - more) * slots(s.Q / blocks, width) + (double)more * slots(s.Q / blocks + 1, width);
  };
  const double lines = (double)(s.N * s.P * parts), steps = (double)(s.R * s.S * Cg);
  cost.terms[COST_FMA] += lines * steps * ((double)(vectors / 2) * line(6, 2) + (double)(vectors % 2) * line(10, 1));
  cost.terms[COST_STORE] += lines * (double)(vectors * s.Q);
  const GroupBand band = group_band(s, V);
  const double bands = std::ceil((double)s.P / (double)band.rows), row = 4.0 * (double)(s.N * s.C * band.width);
  cost.terms[COST_BORDER] += bands * (double)band.height * row;
  cost.terms[COST_WEIGHT] += 4.0 * (double)packed_conv2d_size(s.K, s.C, s.R, s.S, s.groups, isa);
  cost.terms[COST_OPERATION] += 1;
}

void add_conv2d(Cost& cost, ConvShape s, ConvChoice choice, Isa isa) {
  const Geometry& table = geometry(isa);
  const bool runs = choice == ConvChoice::row_run;
  if (choice != ConvChoice::gemm && images_pay(s, isa)) {
    if (runs) cost.terms[COST_BORDER] += 4.0 * (double)(s.N * s.C * s.H * s.W);
    return add_conv2d_images(cost, s, isa);
  }
  if (runs) {
    const int64_t group = row_run_group(s, isa);
    s.K *= group, s.Q /= group, s.S += (group - 1) * s.stride_w, s.stride_w *= group;
  }
  const int64_t M = s.N * s.P * s.Q, Kg = s.K / s.groups, Cg = s.C / s.groups;
  const int64_t panels = ceil_div(ceil_div(Kg, table.vector_length), table.max_panel);
  Conv2d d{};
  d.N = s.N, d.H = s.H, d.W = s.W, d.C = s.C, d.K = s.K, d.P = s.P, d.Q = s.Q, d.R = s.R, d.S = s.S;
  d.groups = s.groups, d.stride_h = s.stride_h, d.stride_w = s.stride_w, d.pad_t = s.pad_t, d.pad_l = s.pad_l;
  d.dilation_h = s.dilation_h, d.dilation_w = s.dilation_w;
  d.algorithm = runs                         ? ConvAlgorithm::row_run
                : choice == ConvChoice::gemm ? ConvAlgorithm::gemm
                                             : ConvAlgorithm::implicit;
  prepare(d, isa);
  // A tap of which all pixels of a tile meet padding is skipped; where a line is about a tile that happens line by
  // line.
  double live = (double)s.R;
  if (choice == ConvChoice::implicit && s.Q <= 8) {
    int64_t inside = 0;
    for (int64_t p = 0; p < std::min<int64_t>(s.P, 64); p++) {
      for (int64_t r = 0; r < std::min<int64_t>(s.R, 64); r++) {
        const int64_t h = p * s.stride_h - s.pad_t + r * s.dilation_h;
        inside += h >= 0 && h < s.H;
      }
    }
    if (s.P <= 64 && s.R <= 64) live = (double)inside / (double)s.P;
  }
  const double taps = live * (double)s.S;
  const bool halves = choice == ConvChoice::gemm && !cuts_depth(d);
  Cost group{};
  for (int64_t i = 0; i < d.row_chunks; i++) {
    add_products(group, table, range_begin(d, i + 1) - range_begin(d, i), Kg, taps * (double)Cg, halves);
  }
  for (int i = 0; i < COST_TERMS; i++) cost.terms[i] += (double)s.groups * group.terms[i];
  const double pointer = choice == ConvChoice::implicit && s.groups > 1 && Cg <= GROUPED_CHANNELS ? GROUP_POINTER : 1;
  cost.terms[COST_POINTER] += pointer * (double)(M * panels * s.groups) * (runs ? (double)s.R : taps);
  cost.terms[COST_WEIGHT] += 4.0 * (double)packed_conv2d_size(s.K, s.C, s.R, s.S, s.groups, isa);
  cost.terms[COST_PANEL] += 4.0 * (double)s.N * (double)(s.H * s.W * s.C) * (double)(panels - 1);
  cost.terms[COST_OPERATION] += 1;
  if (runs) {
    const double padded = (double)(s.H + s.pad_t + s.pad_b) * (double)(s.W + s.pad_l + s.pad_r);
    cost.terms[COST_BORDER] += 4.0 * (double)(s.N * s.C) * padded;
    cost.terms[COST_OPERATION] += 1;
  }
}

void add_winograd(Cost& cost, const ConvShape& s, int64_t m, Isa isa) {
  const Geometry& table = geometry(isa);
  Winograd d{};
  const int64_t r = std::max(s.R, s.S), axes = winograd_axes(s.R, s.S);
  const WinogradForm f = winograd_form(m, r, axes);
  d.N = s.N, d.H = s.H, d.W = s.W, d.C = s.C, d.K = s.K, d.P = s.P, d.Q = s.Q, d.m = m, d.r = r, d.axes = axes;
  const bool split = winograd_workspace(s.N, s.P, s.Q, s.C, s.K, m, r, axes) > 0;
  prepare(d, isa, split ? Op::winograd_product : Op::winograd_conv2d);
  const int64_t tiles = s.N * d.tiles_h * d.tiles_w;
  const int64_t vectors = ceil_div(s.K, table.vector_length), panels = ceil_div(vectors, table.max_panel);
  const int64_t blocks = split ? std::max<int64_t>(1, d.chunks / panels) : std::max<int64_t>(1, d.chunks);
  Cost one{};
  add_products(one, table, ceil_div(tiles, blocks), s.K, (double)(f.parts * s.C));
  const double scale = (double)f.planes * (double)tiles / (double)ceil_div(tiles, blocks);
  for (int i = 0; i < COST_TERMS; i++) cost.terms[i] += scale * one.terms[i];
  const double bytes = 4.0 * (double)packed_winograd_size(s.K, s.C, m, r, axes, isa);
  cost.terms[COST_WEIGHT] += bytes;
  if (!split && bytes > (double)RESIDENT) cost.terms[COST_REREAD] += bytes * (double)(blocks - 1);
  const double in = (double)(tiles * f.planes * f.parts * ceil_div(s.C, table.vector_length));
  const double out = (double)(tiles * f.planes * vectors);
  if (f.edge == 8) {
    cost.terms[COST_WIDE] += in + out;
  } else {
    cost.terms[COST_TILE_IN] += in;
    cost.terms[COST_TILE_OUT] += out;
  }
  cost.terms[COST_OPERATION] += split ? 2 : 1;
}

void add_depthwise(Cost& cost, const ConvShape& s, Isa isa) {
  const double pixels = (double)(s.N * s.P * s.Q) * (double)ceil_div(s.K, geometry(isa).vector_length);
  cost.terms[COST_OPERATION] += 1;
  cost.terms[COST_TAP] += pixels * (double)(s.R * s.S);
  cost.terms[COST_PIXEL] += pixels;
  cost.terms[COST_WEIGHT] += 4.0 * (double)packed_depthwise_size(s.K, s.R, s.S, isa);
}

}  // namespace

Cost conv2d_cost(const ConvShape& s, ConvPlan plan, Isa isa) {
  Cost cost{};
  add_images(cost, s);
  if (plan.algorithm == ConvChoice::winograd) {
    add_winograd(cost, s, plan.m, isa);
  } else if (plan.algorithm == ConvChoice::depthwise) {
    add_depthwise(cost, s, isa);
  } else if (plan.algorithm == ConvChoice::grouped) {
    add_grouped(cost, s, isa);
  } else {
    add_conv2d(cost, s, plan.algorithm, isa);
  }
  return cost;
}

Cost linear_cost(int64_t M, int64_t C, int64_t K, Isa isa) {
  Cost cost{};
  cost.terms[COST_OPERATION] = 1;
  cost.terms[COST_IMAGE] = 4.0 * (double)M * (double)(C + K);
  cost.terms[COST_STREAM] = 4.0 * (double)packed_linear_size(K, C, isa);
  return cost;
}

const char* cost_term_name(int term) {
  static const char* const names[COST_TERMS] = {"operation", "fma",   "store",  "pointer", "weight",   "reread",
                                                "image",     "far",   "panel",  "tile_in", "tile_out", "wide",
                                                "tap",       "pixel", "border", "stream"};
  return names[term];
}

double cost_seconds(const Cost& cost, Isa isa) {
  double sum = 0;
  for (int i = 0; i < COST_TERMS; i++) sum += cost.terms[i] * COST_NANOSECONDS[(int)isa][i];
  return sum * 1e-9;
}

double moved_seconds(double bytes, Isa isa) {
  Cost cost{};
  cost.terms[COST_OPERATION] = 1;
  cost.terms[COST_IMAGE] = bytes;
  cost.terms[COST_FAR] = std::max(0.0, bytes - (double)NEAR);
  return cost_seconds(cost, isa);
}

double weight_price(double bytes) { return PRICE * bytes; }

}  // namespace fastconv
