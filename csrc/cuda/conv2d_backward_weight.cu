// dw[k,c,r,s] = sum over pixels of g[pixel,k] x[pixel + tap,c]: a product whose depth is the pixels. In N H W C both
// operands have the depth outermost: a step of 16 pixels lies in shared memory as [pixel][channel] with rows 8 floats
// longer than a multiple of 32, so that the lanes of a fragment (4 pixels by 8 channels) meet all banks. A block
// computes 64 output channels by 64 columns (tap, c) for one part of the pixels; parts are joined in order by
// conv2d_backward_weight_sum, so that results do not depend on timing. tf32: mma.sync on operands rounded on the way
// into the registers; fp32: FMA. Copies go 16 bytes at a time where C, K and the strides allow it (Wide), else 4.
// Depthwise: a thread keeps nine taps of a channel. Float storage only.
#include "rows.cuh"
#include "training.cuh"

namespace fastconv {
namespace cuda {
namespace {

constexpr int SIDE = 64, PIXELS = 16, LD = SIDE + 8, STAGES = 3, THREADS = 128, STAGE = 2 * PIXELS * LD;

struct Arguments {
  const float *x, *g;
  float* sums;  // [part][K][taps * C]
  int64_t M, x_image, x_row, x_ld, g_ld, pixels_per_part;
  int H, W, C, K, P, Q, S, groups, columns;  // C, K: of one group; columns = taps * C
  int stride_h, stride_w, dilation_h, dilation_w, pad_t, pad_l;
};

// 32 x 32 of the block's 64 x 64; a, b: [pixel][channel], from the warp's first channel on.
struct Tf32Square {
  float c[2][4][4];
  __device__ void clear() {
    FASTCONV_UNROLL
    for (int i = 0; i < 2; i++) FASTCONV_UNROLL
    for (int j = 0; j < 4; j++) FASTCONV_UNROLL
    for (int e = 0; e < 4; e++) c[i][j][e] = 0.0f;
  }
  __device__ void step(const float* a, const float* b, int lane) {
    const int row = lane / 4, pixel = lane % 4;
    FASTCONV_UNROLL
    for (int k = 0; k < PIXELS; k += 8) {
      uint32_t fa[2][4], fb[4][2];
      FASTCONV_UNROLL
      for (int i = 0; i < 2; i++) FASTCONV_UNROLL
      for (int e = 0; e < 4; e++)
        fa[i][e] = round_tf32(as_bits(a[(k + pixel + e / 2 * 4) * LD + 16 * i + row + e % 2 * 8]));
      FASTCONV_UNROLL
      for (int j = 0; j < 4; j++) FASTCONV_UNROLL
      for (int e = 0; e < 2; e++) fb[j][e] = round_tf32(as_bits(b[(k + pixel + e * 4) * LD + 8 * j + row]));
      FASTCONV_UNROLL
      for (int i = 0; i < 2; i++) FASTCONV_UNROLL
      for (int j = 0; j < 4; j++) mma(float{}, c[i][j], fa[i], fb[j]);
    }
  }
  // Calls put(row, column, sum) for this lane's elements.
  template <class Put>
  __device__ void store(int lane, const Put& put) const {
    FASTCONV_UNROLL
    for (int i = 0; i < 2; i++) FASTCONV_UNROLL
    for (int j = 0; j < 4; j++) FASTCONV_UNROLL
    for (int e = 0; e < 4; e++) put(16 * i + lane / 4 + e / 2 * 8, 8 * j + lane % 4 * 2 + e % 2, c[i][j][e]);
  }
};

struct FmaSquare {
  float c[4][8];
  __device__ void clear() {
    FASTCONV_UNROLL
    for (int i = 0; i < 4; i++) FASTCONV_UNROLL
    for (int j = 0; j < 8; j++) c[i][j] = 0.0f;
  }
  __device__ void step(const float* a, const float* b, int lane) {
    FASTCONV_UNROLL
    for (int k = 0; k < PIXELS; k++) {
      const Pack<float> va = load_pack(a + k * LD + lane / 4 * 4);
      const Pack<float> low = load_pack(b + k * LD + lane % 4 * 4), high = load_pack(b + k * LD + lane % 4 * 4 + 16);
      FASTCONV_UNROLL
      for (int i = 0; i < 4; i++) FASTCONV_UNROLL
      for (int j = 0; j < 4; j++) {
        c[i][j] = fmaf(va.v[i], low.v[j], c[i][j]);
        c[i][j + 4] = fmaf(va.v[i], high.v[j], c[i][j + 4]);
      }
    }
  }
  template <class Put>
  __device__ void store(int lane, const Put& put) const {
    FASTCONV_UNROLL
    for (int i = 0; i < 4; i++) FASTCONV_UNROLL
    for (int j = 0; j < 8; j++) put(lane / 4 * 4 + i, lane % 4 * 4 + j % 4 + j / 4 * 16, c[i][j]);
  }
};

// Each thread copies pieces of W floats of every (THREADS / ACROSS)-th pixel, always of the same channel or column.
template <int W>
struct Copier {
  static constexpr int ACROSS = SIDE / W, APART = THREADS / ACROSS;
  const float *g, *x;  // of this thread's channel; x: of its tap's first pixel, which may lie in the padding
  int dh, dw;          // of its tap
  bool has_g, has_x;

  __device__ void start(const Arguments& d, int group, int k0, int j0, int tid) {
    const int k = k0 + tid % ACROSS * W, j = j0 + tid % ACROSS * W, tap = j / d.C;
    has_g = k < d.K, has_x = j < d.columns;
    g = d.g + group * d.K + k;
    dh = tap / d.S * d.dilation_h - d.pad_t, dw = tap % d.S * d.dilation_w - d.pad_l;
    x = d.x + dh * d.x_row + dw * d.x_ld + group * d.C + (j - tap * d.C);
  }

  __device__ void copy(const Arguments& d, int64_t first, int64_t end, float* to, int tid) const {
    FASTCONV_UNROLL
    for (int i = 0; i < PIXELS / APART; i++) {
      const int row = tid / ACROSS + i * APART;
      const uint32_t m = (uint32_t)first + row, line = m / (uint32_t)d.Q, n = line / (uint32_t)d.P;
      const int q = (int)(m - line * (uint32_t)d.Q), p = (int)(line - n * (uint32_t)d.P);
      const bool live = first + row < end;
      const int h = p * d.stride_h, w = q * d.stride_w;
      const bool inside = (unsigned)(h + dh) < (unsigned)d.H && (unsigned)(w + dw) < (unsigned)d.W;
      float* at = to + row * LD + tid % ACROSS * W;
      put(at, g + (live && has_g ? m * d.g_ld : 0), live && has_g, d.g);
      put(at + PIXELS * LD, x + n * d.x_image + h * d.x_row + w * d.x_ld, live && has_x && inside, d.x);
    }
  }

 private:
  __device__ static void put(float* to, const float* from, bool ok, const float* somewhere) {
    if (W == 4)
      copy_async16(to, ok ? from : somewhere, ok);
    else
      copy_async4(to, ok ? from : somewhere, ok);
  }
};

template <class Square, int W>
__global__ void __launch_bounds__(THREADS) weight_kernel(const __grid_constant__ Arguments d) {
  float* shared = (float*)shared_bytes();
  const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32;
  const int row_tiles = (d.K + SIDE - 1) / SIDE, group = (int)blockIdx.y / row_tiles;
  const int k0 = ((int)blockIdx.y - group * row_tiles) * SIDE, j0 = (int)blockIdx.x * SIDE;
  const int64_t begin = blockIdx.z * d.pixels_per_part, end = min_i(d.M, begin + d.pixels_per_part);
  const int count = (int)max_i(0, (end - begin + PIXELS - 1) / PIXELS);
  Copier<W> copier;
  copier.start(d, group, k0, j0, tid);
  FASTCONV_UNROLL
  for (int i = 0; i < STAGES - 1; i++) {
    if (i < count) copier.copy(d, begin + i * PIXELS, end, shared + i * STAGE, tid);
    copy_async_commit();
  }
  Square square;
  square.clear();
  int stage = 0, next = STAGES - 1;
  for (int i = 0; i < count; i++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    if (i + STAGES - 1 < count)
      copier.copy(d, begin + (int64_t)(i + STAGES - 1) * PIXELS, end, shared + next * STAGE, tid);
    copy_async_commit();
    const float* from = shared + stage * STAGE;
    square.step(from + warp / 2 * 32, from + PIXELS * LD + warp % 2 * 32, lane);
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    next = next + 1 == STAGES ? 0 : next + 1;
  }
  copy_async_wait<0>();
  float* sums = d.sums + ((int64_t)blockIdx.z * d.groups + group) * d.K * d.columns;
  square.store(lane, [&](int row, int column, float sum) {
    const int k = k0 + warp / 2 * 32 + row, j = j0 + warp % 2 * 32 + column;
    if (k < d.K && j < d.columns) sums[(int64_t)k * d.columns + j] = sum;
  });
}

constexpr int TAPS = 9;

// sums: [part][K][taps]; a block has 32 channels of nine taps, its rows share the pixels.
__global__ void depthwise_weight_kernel(const __grid_constant__ Arguments d, int taps) {
  const int k = (int)blockIdx.x * 32 + (int)threadIdx.x, first = (int)blockIdx.y * TAPS;
  const bool live = k < d.K;
  const int64_t begin = blockIdx.z * d.pixels_per_part, end = min_i(d.M, begin + d.pixels_per_part);
  float sum[TAPS] = {};
  if (live) {
    const float* x = d.x + k / (d.K / d.C);
    for (int64_t i = begin + threadIdx.y; i < end; i += blockDim.y) {
      const uint32_t m = (uint32_t)i, line = m / (uint32_t)d.Q, n = line / (uint32_t)d.P;
      const int q = (int)(m - line * (uint32_t)d.Q), p = (int)(line - n * (uint32_t)d.P);
      const float v = d.g[m * d.g_ld + k];
      FASTCONV_UNROLL
      for (int t = 0; t < TAPS; t++) {
        const int r = (first + t) / d.S, s = (first + t) - r * d.S;
        const int h = p * d.stride_h + r * d.dilation_h - d.pad_t, w = q * d.stride_w + s * d.dilation_w - d.pad_l;
        if (first + t < taps && (unsigned)h < (unsigned)d.H && (unsigned)w < (unsigned)d.W)
          sum[t] = fmaf(v, x[n * d.x_image + h * d.x_row + w * d.x_ld], sum[t]);
      }
    }
  }
  FASTCONV_UNROLL
  for (int t = 0; t < TAPS; t++) {
    const float total = join_rows<Sum>(sum[t]);
    if (live && threadIdx.y == 0 && first + t < taps)
      d.sums[((int64_t)blockIdx.z * d.K + k) * taps + first + t] = total;
  }
}

__global__ void sum_kernel(const __grid_constant__ Conv2dBackwardWeight d, int parts, int C, uint32_t total,
                           const float* sums, float* dw) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t columns = (uint32_t)(d.R * d.S) * C, k = i / columns, j = i - k * columns, tap = j / C,
                 c = j - tap * C;
  float sum = 0.0f;
  for (int part = 0; part < parts; part++) sum += sums[(int64_t)part * total + i];
  dw[k * d.dw_k + c * d.dw_c + tap * d.dw_tap] = sum;
}

bool depthwise(const Conv2dBackwardWeight& d) { return d.groups > 1 && d.groups == d.C; }
int64_t channels(const Conv2dBackwardWeight& d) { return d.C / d.groups; }

// Enough parts for every multiprocessor to have three blocks, each of at least 16 steps, and sums of at most 64 MB.
int64_t parts_of(const Conv2dBackwardWeight& d, int multiprocessors) {
  const int64_t M = d.N * d.P * d.Q, columns = d.R * d.S * channels(d);
  const int64_t tiles = depthwise(d) ? ceil_div(d.K, 32) * ceil_div(columns, TAPS)
                                     : d.groups * ceil_div(d.K / d.groups, SIDE) * ceil_div(columns, SIDE);
  const int64_t wanted = ceil_div(3 * (int64_t)multiprocessors, tiles), most = (int64_t(16) << 20) / (d.K * columns);
  return max_i(1, min_i(min_i(wanted, most), M / (16 * PIXELS)));
}

Arguments arguments_of(const Conv2dBackwardWeight& d, const Call& c) {
  require_float(c);
  Arguments a{};
  a.x = (const float*)c.in[0], a.g = (const float*)c.in[1], a.sums = (float*)c.out;
  a.M = count_of(d.N * d.P * d.Q), a.x_image = d.x_image, a.x_row = d.x_row, a.x_ld = d.x_ld, a.g_ld = d.g_ld;
  a.pixels_per_part = ceil_div(ceil_div(a.M, parts_of(d, c.multiprocessors)), PIXELS) * PIXELS;
  a.groups = (int)count_of(d.groups), a.C = (int)count_of(d.C) / a.groups, a.K = (int)count_of(d.K) / a.groups;
  a.H = (int)count_of(d.H), a.W = (int)count_of(d.W), a.P = (int)count_of(d.P), a.Q = (int)count_of(d.Q);
  a.S = (int)d.S, a.columns = (int)count_of(d.R * d.S * channels(d));
  a.stride_h = (int)d.stride_h, a.stride_w = (int)d.stride_w;
  a.dilation_h = (int)d.dilation_h, a.dilation_w = (int)d.dilation_w, a.pad_t = (int)d.pad_t, a.pad_l = (int)d.pad_l;
  count_of(d.P * d.stride_h + d.R * d.dilation_h + d.pad_t), count_of(d.Q * d.stride_w + d.S * d.dilation_w + d.pad_l);
  return a;
}

template <class Square>
void launch_weight(const Arguments& a, int64_t parts, bool four, cudaStream_t stream) {
  const int64_t rows = ceil_div(a.K, SIDE) * a.groups;
  if (rows > 65535) throw std::invalid_argument("conv2d_backward_weight: too many channels for the GPU's kernel");
  const dim3 grid((unsigned)ceil_div(a.columns, SIDE), (unsigned)rows, (unsigned)parts);
  launch(four ? weight_kernel<Square, 4> : weight_kernel<Square, 1>, grid, dim3(THREADS),
         STAGES * STAGE * sizeof(float), stream, a);
}

}  // namespace

int64_t own_size(const Conv2dBackwardWeight& d, Precision, int multiprocessors) {
  return parts_of(d, multiprocessors) * d.K * d.R * d.S * channels(d);
}

void conv2d_backward_weight(const Conv2dBackwardWeight& d, const Call& c) {
  const Arguments a = arguments_of(d, c);
  const auto fits = [](const float* p, std::initializer_list<int64_t> strides) {
    bool all = (uintptr_t)p % 16 == 0;
    for (int64_t s : strides) all = all && s % 4 == 0;
    return all;
  };
  const bool four = fits(a.x, {a.x_image, a.x_row, a.x_ld, a.C}) && fits(a.g, {a.g_ld, a.K});
  const int64_t parts = parts_of(d, c.multiprocessors);
  if (c.precision == Precision::tf32)
    launch_weight<Tf32Square>(a, parts, four, c.stream);
  else
    launch_weight<FmaSquare>(a, parts, four, c.stream);
}

void depthwise_backward_weight(const Conv2dBackwardWeight& d, const Call& c) {
  Arguments a = arguments_of(d, c);
  a.C = (int)d.C, a.K = (int)d.K;
  const int taps = (int)(d.R * d.S);
  const dim3 grid((unsigned)ceil_div(d.K, 32), (unsigned)ceil_div(taps, TAPS),
                  (unsigned)parts_of(d, c.multiprocessors));
  launch(depthwise_weight_kernel, grid, dim3(32, 8), BLOCK * sizeof(float), c.stream, a, taps);
}

void conv2d_backward_weight_sum(const Conv2dBackwardWeight& d, const Call& c) {
  require_float(c);
  const uint32_t total = count_of(d.K * d.R * d.S * channels(d));
  launch(sum_kernel, grid_of(total), dim3(BLOCK), 0, c.stream, d, (int)parts_of(d, c.multiprocessors), (int)channels(d),
         total, (const float*)c.in[0], (float*)c.out);
}

}  // namespace cuda
}  // namespace fastconv
