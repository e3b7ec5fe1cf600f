#include "conv_checks.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "check_tools.h"
#include "cpu/dispatch.h"
#include "cpu/select.h"
#include "cpu/winograd.h"
#include "grouped_checks.h"
#include "images_checks.h"

namespace fastconv {

namespace {

constexpr int64_t FEW_CHUNKS = 8;
constexpr int64_t FEW_ROWS = 98;            // two images of 7x7
constexpr int64_t MOST_COLUMNS = 64;        // of a panel, on any level
constexpr int64_t PANEL_BYTES = 512 << 10;  // more of a panel is not read at a time: it and what is fetched meanwhile
constexpr int64_t SLICE_BYTES = 400 << 10;  // would not stay in L2

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void require(bool ok, const char* op, const char* what) {
  if (!ok) throw std::invalid_argument(std::string(op) + ": " + what);
}

template <typename D>
void check_geometry(const char* op, const D& d) {
  check_windows(op, d, IMAGE_LIMIT);
  CHECK(op, K, 1, IMAGE_LIMIT);
  CHECK(op, x_ld, d.C, IMAGE_LIMIT);
  CHECK(op, y_ld, d.K, IMAGE_LIMIT);
  CHECK(op, res_ld, 0, IMAGE_LIMIT);
  int64_t weights;  // rounded up to whole vectors, at most 65 times as many
  if (d.R * d.S > WINDOW_LIMIT || __builtin_mul_overflow(d.C * d.R * d.S * 65, d.K, &weights) ||
      weights >= int64_t(1) << 59)
    too_large(op, "w");
}

// Output pixels, of all images.
template <typename D>
int64_t pixels(const char* op, const D& d) {
  return times(op, "y", {d.N, d.P, d.Q});
}

template <typename D>
int64_t image_extent(const char* op, const D& d) {
  return reach(op, "x", {{d.N, d.x_image}, {d.H, d.x_row}, {d.W, d.x_ld}, {d.C, 1}});
}

// Bias, residual and output of `rows` pixels, or rows.
template <typename D>
void epilogue_extent(const char* op, const D& d, int64_t rows, Extent& e) {
  e.optional_from = 2;
  e.in[2] = d.K;
  e.in[3] = rows_extent(op, "residual", rows, d.res_ld, d.K);
  e.out = reach_distinct(op, {{rows, d.y_ld}, {d.K, 1}});
}

}  // namespace

int64_t even_ranges(int64_t rows, int64_t most, int64_t parts, int64_t unit, int64_t tile) {
  const int64_t units = std::max<int64_t>(1, rows / unit);
  int64_t best = 1, least = INT64_MAX;
  for (int64_t i = std::clamp<int64_t>(most, 1, units); 2 * i >= std::min(most, units) && i >= 1; i--) {
    const int64_t size = ceil_div(units, i) * unit;
    // of the thread that has more chunks, in the time of a row; the start and the end of a tile take about as long
    const int64_t taken = ceil_div(i * parts, 2) * (size + ceil_div(size, tile));
    if (taken < least) best = i, least = taken;
  }
  return best;
}

static void prepare_images(Conv2d& d, Isa isa) {
  const ImageBands cut = image_bands(d, isa, false);
  d.algorithm = ConvAlgorithm::images;
  d.panels_per_chunk = ceil_div(ceil_div(d.K, geometry(isa).vector_length), geometry(isa).max_panel);
  d.panel_chunks = 1;
  d.rows_per_chunk = cut.rows, d.row_chunks = cut.bands, d.row_unit = 1;
  d.chunks = cut.groups * cut.bands;
  d.depth_parts = 1;
  d.taps_per_slice = d.R * d.S;
}

// By rows, or by groups where pixels are few, as the layers around it.
static void prepare_grouped(Conv2d& d, Isa isa) {
  const double flops = 2.0 * (double)(d.N * d.P * d.Q) * (double)d.K * (double)(d.C / d.groups * d.R * d.S);
  const int64_t wanted = even((int64_t)std::clamp(std::ceil(flops / CHUNK_FLOPS), 1.0, (double)CHUNKS));
  const bool few = (double)d.N * (double)d.H * (double)d.W <= (double)FEW_ROWS;
  const int64_t bands = few ? 1 : std::clamp<int64_t>(ceil_div(wanted, d.N), 1, d.P);
  const int64_t V = geometry(isa).vector_length;
  d.panel_chunks = few ? std::min(ceil_div(d.groups, merged_groups(d, V)), wanted) : 1;
  d.rows_per_chunk = ceil_div(d.P, bands), d.row_chunks = d.N * ceil_div(d.P, d.rows_per_chunk), d.row_unit = 1;
  d.chunks = d.panel_chunks * d.row_chunks;
  d.depth_parts = 1;
  d.taps_per_slice = d.R * d.S;
}

// A panel and the next one would fill L2: the depth of a 1x1 layer in equal parts of PANEL_BYTES and less; where no
// number near that divides it, in two, or whole.
static int64_t depth_parts(int64_t depth, int64_t bytes) {
  if (bytes <= PANEL_BYTES / 2) return 1;
  const int64_t least = std::max<int64_t>(2, ceil_div(bytes, PANEL_BYTES)), most = std::min(depth, least + 16);
  for (int64_t parts = least; parts <= most; parts++) {
    if (depth % parts == 0) return parts;
  }
  return depth % 2 ? 1 : 2;
}

void prepare(Conv2d& d, Isa isa) {
  if (d.algorithm == ConvAlgorithm::grouped) return prepare_grouped(d, isa);
  if (d.algorithm != ConvAlgorithm::gemm && images_pay(d, isa)) return prepare_images(d, isa);
  if (d.algorithm == ConvAlgorithm::images) d.algorithm = ConvAlgorithm::implicit;  // of a file, where it never pays
  const Geometry& table = geometry(isa);
  const int64_t M = d.N * d.P * d.Q, Kg = d.K / d.groups, depth = d.C / d.groups * d.R * d.S;
  const int64_t vectors = ceil_div(Kg, table.vector_length), panels = ceil_div(vectors, table.max_panel);
  const int64_t bytes = 4 * vectors * table.vector_length * depth;
  // one pixel takes as long as its weights
  d.panels_per_chunk = bytes <= (M == 1 ? SMALL_WEIGHTS / 4 : SMALL_WEIGHTS) ? panels : 1;
  d.panel_chunks = ceil_div(panels, d.panels_per_chunk);
  const int64_t columns = d.panels_per_chunk == panels ? Kg : table.max_panel * table.vector_length;
  const int64_t rows_for_flops = ceil_div(CHUNK_FLOPS, 2 * depth * columns);
  // few pixels: rows of one panel stay together, for its weights are most of what is read
  const int64_t parts = d.panel_chunks * d.groups, wanted = ceil_div(M <= FEW_ROWS ? FEW_CHUNKS : CHUNKS, parts);
  const int64_t tap_bytes = 4 * d.C / d.groups * std::min<int64_t>(columns, table.max_panel * table.vector_length);
  d.depth_parts = d.algorithm == ConvAlgorithm::gemm ? depth_parts(d.C / d.groups, tap_bytes) : 1;
  const int64_t most = M <= FEW_ROWS ? wanted : std::min(wanted, ceil_div(M, rows_for_flops));
  const int64_t tail = Kg % table.vector_length;
  const int64_t tile = table.rows[std::min<int64_t>(vectors, table.max_panel)];
  d.row_unit = tail > 0 && 2 * tail <= table.vector_length ? 2 : 1;
  d.row_chunks = M == 0 ? 0 : even_ranges(M, most, parts, d.row_unit, tile);
  if (d.depth_parts > 1) d.row_chunks = std::max(d.row_chunks, ceil_div(M, ROWS_OF_SUMS));  // sums stay in L2
  d.rows_per_chunk = M == 0 ? 1 : ceil_div(M / d.row_unit, d.row_chunks) * d.row_unit + M % d.row_unit;
  d.chunks = parts * d.row_chunks;
  const bool whole = d.algorithm == ConvAlgorithm::row_run || d.R * d.S * tap_bytes <= PANEL_BYTES;
  d.taps_per_slice = whole ? d.R * d.S : std::max<int64_t>(1, SLICE_BYTES / tap_bytes);
}

static WinogradForm winograd_form(const Winograd& d) { return winograd_form(d.m, d.r, d.axes); }

// Weights that do not fit L2 are read once for each block: few tiles are then all transformed before the products.
static bool winograd_splits(const Winograd& d, int64_t tiles, int64_t K) {
  return tiles <= (d.axes == WINOGRAD_BOTH ? 64 : 128) && d.C * K > 64 * 64;
}

// Floats of the planes of `tiles` tiles.
static int64_t winograd_planes(const Winograd& d, int64_t tiles) {
  const WinogradForm f = winograd_form(d);
  return f.planes * (tiles * f.parts * d.C + PLANE_PAD);
}

static int64_t winograd_tiles(const Winograd& d) {
  const WinogradForm f = winograd_form(d);
  return d.N * ceil_div(d.P, f.step_h) * ceil_div(d.Q, f.step_w);
}

int64_t winograd_workspace(int64_t N, int64_t P, int64_t Q, int64_t C, int64_t K, int64_t m, int64_t r, int64_t axes) {
  Winograd d{};
  d.N = N, d.P = P, d.Q = Q, d.C = C, d.m = m, d.r = r, d.axes = axes;
  const int64_t tiles = winograd_tiles(d);
  return winograd_splits(d, tiles, K) ? winograd_planes(d, tiles) : 0;
}

void prepare(Winograd& d, Isa isa, Op op) {
  const WinogradForm f = winograd_form(d);
  d.tiles_h = ceil_div(d.P, f.step_h), d.tiles_w = ceil_div(d.Q, f.step_w);
  const int64_t tiles = winograd_tiles(d);
  const Geometry& table = geometry(isa);
  const int64_t panels = ceil_div(ceil_div(d.K, table.vector_length), table.max_panel);
  if (op == Op::winograd_input) {
    d.block = 1;
    d.chunks = std::min<int64_t>(tiles, CHUNKS);
  } else if (op == Op::winograd_product) {
    int64_t blocks = std::clamp<int64_t>(ceil_div(8, panels), 1, std::max<int64_t>(1, tiles / 12));
    // Two threads get as much each: by one more block of two dozen tiles, or by one less where six chunks are left.
    const bool odd = panels * blocks % 2, fewer = blocks > 1 && panels * (blocks - 1) >= 6;
    if (odd && (tiles >= 24 * (blocks + 1) || (blocks > 1 && !fewer))) {
      blocks++;
    } else if (odd && fewer) {
      blocks--;
    }
    d.block = ceil_div(tiles, blocks);
    d.chunks = tiles ? panels * blocks : 0;
  } else {
    // AVX2: the fewer blocks, the less often come 590 kB of weights from beyond an L2 of 512 kB. Not where that leaves
    // threads without a block, or planes of more than 64 channels or of F(6x6) fill L2; docs/performance.md.
    const bool wide = isa == Isa::avx2 && d.C <= 64 && d.m <= 4 && !d.axes && tiles > 60;
    const int64_t few = wide ? 30 : 14;
    // a line's planes are a third as large
    const int64_t most = (d.C * d.K <= 64 * 64 ? few : d.C * d.K <= 128 * 128 ? 28 : 42) * (d.axes ? 2 : 1);
    d.chunks = ceil_div(tiles, most);
    d.chunks = d.chunks == 3 ? 2 : even(d.chunks);
    d.block = d.chunks ? ceil_div(tiles, d.chunks) : 0;
  }
}

// An even number of seven rows or more each, or one.
int64_t depthwise_bands(int64_t P) { return P < 14 ? 1 : std::min<int64_t>(8, P / 14 * 2); }

// Cut as the 1x1 convolution in front is, so that each thread reads what it wrote: by rows, or by channels where pixels
// are few.
void prepare(DepthwiseConv2d& d) {
  const int64_t images = depthwise_images(d), lines = ceil_div(d.K, 16);
  const int64_t rows = d.N * d.P / std::max<int64_t>(1, images);
  const double flops = 2.0 * (double)rows * (double)d.Q * (double)d.K * (double)(d.R * d.S);
  const int64_t wanted = even((int64_t)std::clamp(std::ceil(flops / (CHUNK_FLOPS / 4)), 1.0, (double)CHUNKS));
  const bool few = d.N * d.H * d.W <= FEW_ROWS;
  d.bands = d.means ? depthwise_bands(d.P) : few ? 1 : std::clamp<int64_t>(rows, 1, wanted);
  const bool whole = d.means ? d.bands > 2 : !few;
  d.line_chunks = whole ? 1 : std::min({lines, 2 * FEW_CHUNKS, even(ceil_div(wanted, d.bands))});
  d.chunks = rows == 0 ? 0 : images * d.bands * d.line_chunks;
}

void prepare(Linear& d, Isa isa) {
  require(d.M <= LINEAR_ROWS, "linear", "so many rows are a convolution's");
  d.chunks = d.M == 0 ? 0 : ceil_div(d.K, linear_panel(d.M, d.C, d.K, isa));
}

Op operation_of(const Conv2d& d) { return d.algorithm == ConvAlgorithm::grouped ? Op::grouped_conv2d : Op::conv2d; }

void check_operation(const Conv2d& d, Op op) {
  const bool grouped = operation_of(d) == Op::grouped_conv2d;
  require(operation_of(d) == op, grouped ? "conv2d" : "grouped_conv2d", "this algorithm is another operation's");
}

Extent extent(const Conv2d& d, Isa isa) {
  const char* op = "conv2d";
  check_geometry(op, d);
  CHECK(op, groups, 1, IMAGE_LIMIT);
  require(d.C % d.groups == 0 && d.K % d.groups == 0, op, "channels do not divide into groups");
  if (d.algorithm == ConvAlgorithm::row_run) {
    // The window must stay inside x: the kernel does not look at borders.
    op = "row_run";
    require(d.groups == 1 && d.dilation_w == 1 && d.x_ld == d.C && d.pad_t == 0 && d.pad_l == 0, op, "geometry");
    require(d.P == 0 || (d.P - 1) * d.stride_h + (d.R - 1) * d.dilation_h < d.H, op, "rows beyond the image");
    require(d.Q == 0 || (d.Q - 1) * d.stride_w + d.S <= d.W, op, "columns beyond the image");
  } else if (d.algorithm == ConvAlgorithm::gemm) {
    require(d.R == 1 && d.S == 1 && d.stride_h == 1 && d.stride_w == 1 && d.pad_t == 0 && d.pad_l == 0 && d.P == d.H &&
                d.Q == d.W && d.x_row == d.W * d.x_ld && d.x_image == d.H * d.x_row,
            "gemm", "geometry");
  } else if (d.algorithm == ConvAlgorithm::grouped) {
    require(grouped_fits(d, geometry(isa).vector_length), "grouped_conv2d", "geometry");
  } else {
    require(d.algorithm == ConvAlgorithm::implicit || d.algorithm == ConvAlgorithm::images, op, "unknown algorithm");
  }
  Extent e{};
  e.in[0] = image_extent(op, d);
  e.in[1] = packed_conv2d_size(d.K, d.C, d.R, d.S, d.groups, isa);
  epilogue_extent(op, d, pixels(op, d), e);
  return e;
}

Extent extent(const Winograd& d, Isa isa, Op op) {
  const char* name = "winograd";
  for (const int64_t n : {d.N, d.P, d.Q, d.pad_t, d.pad_l}) in_range(name, "N, P, Q and padding", n, 0, IMAGE_LIMIT);
  for (const int64_t n : {d.H, d.W, d.C, d.K}) in_range(name, "H, W, C and K", n, 1, IMAGE_LIMIT);
  in_range(name, "y_ld", d.y_ld, d.K, IMAGE_LIMIT);
  in_range(name, "res_ld", d.res_ld, 0, IMAGE_LIMIT);
  require(winograd_known(d.m, d.r, d.axes), name, "no such form");
  require(pixels(name, d) < (int64_t(1) << 52) / (64 * d.C), name, "the planes are larger than memory");
  require(d.K < (int64_t(1) << 52) / (65 * 64 * d.C), name, "the weights are larger than memory");
  require(d.pool == 0 || (d.pool == 1 && d.m % 2 == 0 && d.axes == WINOGRAD_BOTH &&
                          (d.act.func == Func::identity || d.act.func == Func::clip)),
          name, "this cannot be pooled");
  Extent e{};
  const int64_t planes = winograd_planes(d, winograd_tiles(d));
  if (op != Op::winograd_product) {
    in_range(name, "x_ld", d.x_ld, d.C, IMAGE_LIMIT);
    e.in[0] = image_extent(name, d);
  }
  if (op == Op::winograd_input) {
    e.out = planes;
    return e;
  }
  if (op == Op::winograd_product) e.in[0] = planes;
  e.in[1] = packed_winograd_size(d.K, d.C, d.m, d.r, d.axes, isa);
  epilogue_extent(name, d, d.pool ? times(name, "y", {d.N, d.P / 2, d.Q / 2}) : pixels(name, d), e);
  if (d.pool) e.in[3] = 0;  // none is added then
  return e;
}

Extent extent(const DepthwiseConv2d& d, Isa isa) {
  const char* op = "depthwise_conv2d";
  check_geometry(op, d);
  CHECK(op, multiplier, 1, IMAGE_LIMIT);
  require(d.K == d.C * d.multiplier, op, "K must be C times the multiplier");
  Extent e{};
  e.in[0] = image_extent(op, d);
  e.in[1] = packed_depthwise_size(d.K, d.R, d.S, isa);
  epilogue_extent(op, d, pixels(op, d), e);
  require(d.means == 0 || (d.means == 1 && d.P > 0 && d.Q > 0), op, "means of no pixels");
  if (d.means) e.more[0] = times(op, "means", {d.N, depthwise_bands(d.P), d.K});
  return e;
}

Extent extent(const Linear& d, Isa isa) {
  const char* op = "linear";
  CHECK(op, M, 0, IMAGE_LIMIT);
  CHECK(op, C, 1, IMAGE_LIMIT);
  CHECK(op, K, 1, IMAGE_LIMIT);
  CHECK(op, x_ld, d.C, IMAGE_LIMIT);
  CHECK(op, y_ld, d.K, IMAGE_LIMIT);
  Extent e{};
  e.in[0] = rows_extent(op, "x", d.M, d.x_ld, d.C);
  e.in[1] = packed_linear_size(d.K, d.C, isa);
  epilogue_extent(op, d, d.M, e);
  return e;
}

int64_t scratch_bytes(const Conv2d& d, Isa isa) {
  if (d.algorithm == ConvAlgorithm::images) return (int64_t)image_bytes(d, d.rows_per_chunk, 1, isa) + 64;
  if (d.algorithm == ConvAlgorithm::grouped) {
    const int64_t V = geometry(isa).vector_length, merged = merged_groups(d, V), Cg = d.C / d.groups;
    const GroupBand band = group_band(d, V);
    const int64_t weights = merged > 1 ? d.R * d.S * Cg * V : 0;
    return 4 * (weights + band.height * band.width * merged * Cg + 16);
  }
  const int64_t zeros = row_of_zeros(d);
  const int64_t sums = rows_of_sums(d) * MOST_COLUMNS;
  return (zeros + sums) * 4 + row_pointers(d) * 8 + d.R * d.S * d.depth_parts * 4 + 64;
}

int64_t scratch_bytes(const Winograd& d, Isa isa, Op op) {
  if (op == Op::winograd_input) return 0;
  const int64_t width =
      std::min(ceil_div(d.K, 16) * 16, (int64_t)geometry(isa).max_panel * geometry(isa).vector_length);
  const int64_t sums = winograd_form(d).planes * (d.block * width + PLANE_PAD);
  return 4 * (op == Op::winograd_conv2d ? winograd_planes(d, d.block) + 16 + sums : sums);
}

int64_t scratch_bytes(const Linear& d) { return reads_far(d) ? 4 * (d.C + FAR_AHEAD) : 0; }

int64_t weight_parts(const Conv2d& d) {
  return d.algorithm == ConvAlgorithm::grouped ? d.panel_chunks : d.groups * d.panel_chunks;
}

int64_t weight_parts(const Winograd& d, Isa isa, Op op) {
  if (op == Op::winograd_input) return 0;
  if (op == Op::winograd_conv2d) return 1;
  const Geometry& table = geometry(isa);
  return ceil_div(ceil_div(d.K, table.vector_length), table.max_panel);
}

int64_t weight_parts(const Linear& d, Isa isa) { return ceil_div(d.K, linear_panel(d.M, d.C, d.K, isa)); }

}  // namespace fastconv
