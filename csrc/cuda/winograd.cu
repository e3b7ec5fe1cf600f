// F(4x4, 3x3) in float32, stride 1 (A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, 2015), with
// the CPU's interpolation points (cpu/winograd.h). Three launches for a block of tiles of 4x4 outputs: their 6x6 inputs
// to planes [tile][36][C]; 36 products, which are a 1x1 convolution of 36 groups of those pixels (conv_gemm.cuh), to
// [tile][36][K]; back to the image, with the epilogue. Filters lie as [36][K][C] (fastconv/cuda/weights.py). A thread
// has one tile of four channels, so that a warp moves whole lines. Channels of x and y are multiples of four; their
// strides need not be.
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "conv_launch.h"
#include "cpu/winograd.h"

namespace fastconv {
namespace cuda {
namespace {

constexpr int SIDE = 6, OUT = 4, PLANES = SIDE * SIDE, VECTOR = 4, THREADS = 128;
constexpr int64_t MOST_FLOATS = 1 << 25;  // of workspace, 128 MB, for the planes on both sides of the products

constexpr float A = (float)WINOGRAD_POINTS_6[1], B = (float)WINOGRAD_POINTS_6[3];  // points 0, A, -A, B, -B, infinity
constexpr float A2 = A * A, B2 = B * B, A3 = A * A2, B3 = B * B2;

struct Tiles {
  uint32_t down, across, first, count;  // of an image; of this launch
};

struct InputArguments {
  const float* x;
  float* planes;
  int64_t x_image;
  Tiles tiles;
  int H, W, C, x_row, x_ld, pad_t, pad_l;
  int wide_x;  // x allows 16 bytes at a time
};

struct OutputArguments {
  ConvArguments y;  // of the epilogue
  const float* products;
  Tiles tiles;
};

// Where a thread works: the tile's first row and column of the output, and the first of its channels.
struct Place {
  int64_t n;
  uint32_t tile;  // of this launch
  int h, w, channel;
  bool there;
};
__device__ inline Place place_of(const Tiles& t, uint32_t channels) {
  const uint32_t i = blockIdx.x * (uint32_t)THREADS + threadIdx.x, vectors = channels / VECTOR, tile = i / vectors;
  const uint32_t at = t.first + tile, line = at / t.across, n = line / t.down;
  return {n,
          tile,
          (int)(line - n * t.down) * OUT,
          (int)(at - line * t.across) * OUT,
          (int)(i - tile * vectors) * VECTOR,
          tile < t.count};
}

// B^T d
__device__ inline void transform_in(const Pack<float> (&d)[SIDE], Pack<float> (&t)[SIDE]) {
  FASTCONV_UNROLL
  for (int e = 0; e < VECTOR; e++) {
    const float ua = fmaf(-B2, d[2].v[e], d[4].v[e]), va = A * fmaf(-B2, d[1].v[e], d[3].v[e]);
    const float ub = fmaf(-A2, d[2].v[e], d[4].v[e]), vb = B * fmaf(-A2, d[1].v[e], d[3].v[e]);
    t[0].v[e] = fmaf(A2 * B2, d[0].v[e], fmaf(-(A2 + B2), d[2].v[e], d[4].v[e]));
    t[1].v[e] = ua + va, t[2].v[e] = ua - va;
    t[3].v[e] = ub + vb, t[4].v[e] = ub - vb;
    t[5].v[e] = fmaf(A2 * B2, d[1].v[e], fmaf(-(A2 + B2), d[3].v[e], d[5].v[e]));
  }
}

// A^T m
__device__ inline void transform_out(const Pack<float> (&m)[SIDE], Pack<float> (&y)[OUT]) {
  FASTCONV_UNROLL
  for (int e = 0; e < VECTOR; e++) {
    const float sa = m[1].v[e] + m[2].v[e], da = m[1].v[e] - m[2].v[e];
    const float sb = m[3].v[e] + m[4].v[e], db = m[3].v[e] - m[4].v[e];
    y[0].v[e] = m[0].v[e] + (sa + sb);
    y[1].v[e] = fmaf(B, db, A * da);
    y[2].v[e] = fmaf(B2, sb, A2 * sa);
    y[3].v[e] = fmaf(B3, db, A3 * da) + m[5].v[e];
  }
}

__global__ void __launch_bounds__(THREADS) winograd_in(const __grid_constant__ InputArguments d) {
  const Place at = place_of(d.tiles, (uint32_t)d.C);
  if (!at.there) return;
  const int h = at.h - d.pad_t, w = at.w - d.pad_l;
  const float* x = d.x + at.n * d.x_image + (int64_t)h * d.x_row + (int64_t)w * d.x_ld + at.channel;
  Pack<float> t[SIDE][SIDE];
  FASTCONV_UNROLL
  for (int i = 0; i < SIDE; i++) {
    Pack<float> line[SIDE];
    FASTCONV_UNROLL
    for (int j = 0; j < SIDE; j++) {
      const bool inside = (unsigned)(h + i) < (unsigned)d.H && (unsigned)(w + j) < (unsigned)d.W;
      const float* from = x + (int64_t)i * d.x_row + (int64_t)j * d.x_ld;
      line[j] = Pack<float>{};
      if (inside && d.wide_x) line[j] = load_pack(from);
      if (inside && !d.wide_x) {
        FASTCONV_UNROLL
        for (int e = 0; e < VECTOR; e++) line[j].v[e] = from[e];
      }
    }
    transform_in(line, t[i]);
  }
  float* to = d.planes + (int64_t)at.tile * PLANES * d.C + at.channel;
  FASTCONV_UNROLL
  for (int j = 0; j < SIDE; j++) {
    Pack<float> column[SIDE], out[SIDE];
    FASTCONV_UNROLL
    for (int i = 0; i < SIDE; i++) column[i] = t[i][j];
    transform_in(column, out);
    FASTCONV_UNROLL
    for (int i = 0; i < SIDE; i++) store16(to + (int64_t)(i * SIDE + j) * d.C, repack(out[i]));
  }
}

// The 16 outputs wait in shared memory, in the thread's own place: while `activate` calls a function none is in a
// register, which would be put into local memory. Without the 4 nvcc aims at more blocks, and spills.
__global__ void __launch_bounds__(THREADS, 4) winograd_out(const __grid_constant__ OutputArguments d) {
  const Place at = place_of(d.tiles, (uint32_t)d.y.K);
  if (!at.there) return;
  const float* from = d.products + (int64_t)at.tile * PLANES * d.y.K + at.channel;
  Pack<float> t[SIDE][OUT];
  FASTCONV_UNROLL
  for (int i = 0; i < SIDE; i++) {
    Pack<float> line[SIDE];
    FASTCONV_UNROLL
    for (int j = 0; j < SIDE; j++) line[j] = load_pack(from + (int64_t)(i * SIDE + j) * d.y.K);
    transform_out(line, t[i]);
  }
  float* sums = (float*)shared_bytes() + threadIdx.x * VECTOR;  // [16][THREADS][VECTOR]
  FASTCONV_UNROLL
  for (int j = 0; j < OUT; j++) {
    Pack<float> column[SIDE], out[OUT];
    FASTCONV_UNROLL
    for (int i = 0; i < SIDE; i++) column[i] = t[i][j];
    transform_out(column, out);
    FASTCONV_UNROLL
    for (int i = 0; i < OUT; i++) store_pack(sums + (i * OUT + j) * THREADS * VECTOR, out[i]);
  }
  const int rows = (int)min_i(OUT, d.y.P - at.h), columns = (int)min_i(OUT, d.y.Q - at.w);
  const int64_t pixel = (at.n * d.y.P + at.h) * d.y.Q + at.w;
  const Epilogue<float> end(d.y, at.channel, VECTOR);
  for (int i = 0; i < rows; i++) {
    const int64_t first = pixel + (int64_t)i * d.y.Q;
    end.rows<OUT>(sums + i * OUT * THREADS * VECTOR, THREADS * VECTOR, first, 1, first + columns);
  }
}

int64_t tiles_of(int64_t N, int64_t P, int64_t Q) { return N * ceil_div(P, OUT) * ceil_div(Q, OUT); }

// Tiles of a block: as many as the workspace holds, in blocks of about equal size, whole rows of the products' tiles.
int64_t block_of(int64_t tiles, int64_t C, int64_t K, const Forced& forced) {
  const int64_t most =
      forced.winograd_tiles > 0 ? forced.winograd_tiles : max_i(128, MOST_FLOATS / (PLANES * (C + K)) / 128 * 128);
  if (tiles <= most || forced.winograd_tiles > 0) return min_i(tiles, most);
  return ceil_div(ceil_div(tiles, ceil_div(tiles, most)), 128) * 128;
}

int64_t partials_of(const Winograd& d, int64_t tiles, const Machine& m) {
  return tiles > 0 ? partial_floats(tiles, PLANES * d.K, PLANES, d.C, 1, m) : 0;
}

}  // namespace

// In steps of 64 x 64 x 32 multiply-adds of a multiprocessor, 0.87 us of direct sums on an H200. The transforms move
// 6000 floats a step there, 3.6 TB/s in all, and a launch is taken for 3 steps: so the rule is right for the 36 layers
// that it was fitted to (docs/cuda.md). A tenth must be gained: the error is twice that of direct sums.
bool choose_winograd(int64_t N, int64_t P, int64_t Q, int64_t C, int64_t K, int multiprocessors, const Forced& forced) {
  constexpr double FLOATS = 6000, LAUNCH = 3, GAIN = 0.9;
  const char* given = getenv("FASTCONV_CUDA_WINOGRAD");
  const bool able = C % VECTOR == 0 && K % VECTOR == 0 && N * P * Q > 0;
  if (!able || forced.winograd == 0 || (given && !strcmp(given, "0"))) return false;
  if (forced.winograd == 1) return true;
  const int64_t tiles = tiles_of(N, P, Q), block = block_of(tiles, C, K, forced), columns = ceil_div(K, 64);
  const double share = 1.0 / multiprocessors;
  const double direct = ceil_div(N * P * Q, 64) * columns * ceil_div(9 * C, 32) * share;  // slices fill them all
  const double squares = std::max(1.0, ceil_div(block, 64) * columns * PLANES * share);
  const double moved = (N * P * Q + 2 * PLANES * tiles) * (C + K) / FLOATS * share;
  return ceil_div(tiles, block) * (squares * ceil_div(C, 32) + 2 * LAUNCH) + moved < GAIN * direct;
}

int64_t workspace_floats(const Winograd& d, const Machine& m) {
  const int64_t tiles = tiles_of(d.N, d.P, d.Q);
  if (tiles == 0) return 0;
  const int64_t block = block_of(tiles, d.C, d.K, m.forced);
  return block * PLANES * (d.C + d.K) + max_i(partials_of(d, block, m), partials_of(d, tiles % block, m));
}

void winograd_conv2d(const Winograd& d, const Call& c) {
  if (c.precision != Precision::fp32 || d.m != OUT || d.r != 3 || d.axes != WINOGRAD_BOTH || d.pool != 0 ||
      d.C % VECTOR != 0 || d.K % VECTOR != 0)
    throw std::invalid_argument("winograd_conv2d: the GPU knows F(4x4, 3x3) in fp32, of channels in fours");
  const int64_t tiles = tiles_of(d.N, d.P, d.Q);
  if (tiles == 0) return;
  const int64_t block = block_of(tiles, d.C, d.K, c.forced);
  float *planes = c.workspace, *products = planes + block * PLANES * d.C, *partial = products + block * PLANES * d.K;
  narrow(tiles), narrow(d.N * d.P * d.Q), narrow((d.H + d.pad_t) * d.x_row + (d.W + d.pad_l) * d.x_ld + d.C);

  InputArguments in{};
  in.x = (const float*)c.in[0], in.planes = planes, in.x_image = d.x_image;
  in.H = narrow(d.H), in.W = narrow(d.W), in.C = narrow(d.C), in.x_row = narrow(d.x_row), in.x_ld = narrow(d.x_ld);
  in.pad_t = narrow(d.pad_t), in.pad_l = narrow(d.pad_l);
  in.wide_x = wide<float>(in.x, d.x_ld) && wide<float>(in.x, d.x_row) && wide<float>(in.x, d.x_image);

  ConvArguments product{};
  product.x = planes, product.w = c.in[1], product.y = products;
  product.x_image = narrow(PLANES * d.C), product.x_row = product.x_ld = (int)product.x_image;
  product.H = product.W = product.P = product.Q = product.S = product.stride_h = product.stride_w = 1;
  product.dilation_h = product.dilation_w = product.dense_y = 1;
  product.groups = PLANES, product.C = product.depth = product.w_ld = in.C, product.K = narrow(d.K);
  product.y_ld = PLANES * d.K;

  OutputArguments out{};
  out.products = products;
  out.y.y = c.out, out.y.bias = (const float*)c.in[2], out.y.residual = c.in[3], out.y.act = d.act;
  out.y.P = narrow(d.P), out.y.Q = narrow(d.Q), out.y.K = product.K, out.y.dense_y = 1;
  out.y.y_ld = d.y_ld, out.y.res_ld = d.res_ld;
  out.y.wide_y = wide<float>(c.out, d.y_ld) && wide<float>(c.in[2], 0) && (!c.in[3] || wide<float>(c.in[3], d.res_ld));

  for (int64_t first = 0; first < tiles; first += block) {
    const int64_t count = min_i(block, tiles - first);
    in.tiles = {(uint32_t)ceil_div(d.P, OUT), (uint32_t)ceil_div(d.Q, OUT), (uint32_t)first, (uint32_t)count};
    out.tiles = in.tiles;
    product.M = count;
    const auto blocks = [&](int64_t channels) {
      return dim3((unsigned)ceil_div(narrow(count * (channels / VECTOR)), THREADS));
    };
    launch(winograd_in, blocks(d.C), dim3(THREADS), 0, c.stream, in);
    run_product(product, c, partial);
    launch(winograd_out, blocks(d.K), dim3(THREADS), OUT * OUT * THREADS * VECTOR * sizeof(float), c.stream, out);
  }
}

}  // namespace cuda
}  // namespace fastconv
