// Convolution as a product: M = N P Q rows of pixels times K columns of filters, depth R S C, never written out.
//
// A block computes BM x BN outputs. The depth goes by in steps of 128 bytes: BM + BN rows of 128 bytes in shared
// memory, STAGES of them in flight (cp.async, one barrier a step). Row r keeps its 16-byte piece c at c ^ (r & 7), so
// that the eight rows of an ldmatrix, or of a float4 read, meet all 32 banks. Both operands have the depth innermost:
// x because channels are, filters as [K][R][S][C] (fastconv/cuda/weights.py). So the three engines below, tensor cores
// for 2-byte types, for tf32, and plain FMA, differ only in what they do with the bytes of a step.
//
// Gather: channels that are no multiple of 16 bytes are collected one by one instead of copied 16 bytes at a time.
// Slices: with few outputs the depth is cut, blockIdx.z computes one slice into `partial`, and join_slices adds them in
// order, so that results do not depend on timing.
#pragma once
#include "conv_epilogue.cuh"

namespace fastconv {
namespace cuda {

constexpr int STEP = 128;  // bytes of depth

__device__ inline int place(int row, int piece) { return row * STEP + ((piece ^ (row & 7)) << 4); }

// How many of a stage's four steps are unrolled. tf32, four: 156 registers, one block less on a multiprocessor. fp16
// and bf16: four spill in the 128x128 tile (sm_90a), two some of the gathering one.
template <class T, bool Gather>
constexpr int STEPS_AT_ONCE = sizeof(T) == 4 ? 1
                              : Gather       ? 4
                                             : 2;

// -- engines: accumulators of a warp's WM x WN tile -------------------------------------------------------------------
template <class T, bool round, int WM, int WN>
struct TensorCores {
  using Storage = T;
  static constexpr int BLOCKS = 2;  // that registers allow on a multiprocessor
  float c[WM / 16][WN / 8][4];

  __device__ void clear() {
    FASTCONV_UNROLL
    for (int i = 0; i < WM / 16; i++) FASTCONV_UNROLL
    for (int j = 0; j < WN / 8; j++) FASTCONV_UNROLL
    for (int e = 0; e < 4; e++) c[i][j][e] = 0.0f;
  }

  // a, b: the first row of this warp in the step's two operands.
  template <bool Gather>
  __device__ void step(const char* a, const char* b, int lane) {
    FASTCONV_UNROLL_BY((STEPS_AT_ONCE<T, Gather>))
    for (int k = 0; k < 4; k++) {
      uint32_t fa[WM / 16][4], fb[WN / 8][2];
      FASTCONV_UNROLL
      for (int i = 0; i < WM / 16; i++) {
        load_matrices(fa[i], a + place(16 * i + lane % 16, 2 * k + lane / 16));
        if (round) {
          FASTCONV_UNROLL
          for (int e = 0; e < 4; e++) fa[i][e] = round_tf32(fa[i][e]);
        }
      }
      FASTCONV_UNROLL
      for (int j = 0; j < WN / 8; j += 2) {
        uint32_t two[4];
        load_matrices(two, b + place(8 * j + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
        fb[j][0] = two[0], fb[j][1] = two[1], fb[j + 1][0] = two[2], fb[j + 1][1] = two[3];
      }
      FASTCONV_UNROLL
      for (int i = 0; i < WM / 16; i++) FASTCONV_UNROLL
      for (int j = 0; j < WN / 8; j++) mma(T{}, c[i][j], fa[i], fb[j]);
    }
  }

  // Rows [16 i, 16 i + 16) of the tile to memory with rows `ld` apart.
  __device__ void store(int i, float* to, int ld, int lane) const {
    FASTCONV_UNROLL
    for (int j = 0; j < WN / 8; j++) store_sums(c[i][j], to + 8 * j, ld, lane);
  }
};

// Lanes stand as 8 x 4; each has rows and columns that are 8 and 4 apart.
template <int WM, int WN>
struct PlainFma {
  using Storage = float;
  static constexpr int BLOCKS = 1;
  float c[WM / 8][WN / 4];

  __device__ void clear() {
    FASTCONV_UNROLL
    for (int i = 0; i < WM / 8; i++) FASTCONV_UNROLL
    for (int j = 0; j < WN / 4; j++) c[i][j] = 0.0f;
  }

  template <bool Gather>
  __device__ void step(const char* a, const char* b, int lane) {
    const int row = lane / 4, column = lane % 4;
    FASTCONV_UNROLL_BY(2)  // all eight: 254 registers
    for (int piece = 0; piece < 8; piece++) {
      float fb[WN / 4][4];
      FASTCONV_UNROLL
      for (int j = 0; j < WN / 4; j++) read(b + place(column + 4 * j, piece), fb[j]);
      FASTCONV_UNROLL
      for (int i = 0; i < WM / 8; i++) {
        float fa[4];
        read(a + place(row + 8 * i, piece), fa);
        FASTCONV_UNROLL
        for (int k = 0; k < 4; k++) FASTCONV_UNROLL
        for (int j = 0; j < WN / 4; j++) c[i][j] = fmaf(fa[k], fb[j][k], c[i][j]);
      }
    }
  }

  __device__ void store(int i, float* to, int ld, int lane) const {
    FASTCONV_UNROLL
    for (int h = 0; h < 2; h++) FASTCONV_UNROLL
    for (int j = 0; j < WN / 4; j++) to[(lane / 4 + 8 * h) * ld + lane % 4 + 4 * j] = c[2 * i + h][j];
  }

 private:
  __device__ static void read(const char* from, float (&v)[4]) {
    const uint4 u = *(const uint4*)from;
    v[0] = as_float(u.x), v[1] = as_float(u.y), v[2] = as_float(u.z), v[3] = as_float(u.w);
  }
};

// -- reading the operands ---------------------------------------------------------------------------------------------
// A thread copies piece `tid % 8` of every (threads / 8)-th row.
template <class T, int BM, int BN, int THREADS, bool Gather>
struct Loader {
  static constexpr int APART = THREADS / 8, ROWS = BM / APART, COLUMNS = BN / APART;
  int64_t origin[ROWS];  // of each pixel's window in x; may lie before it, in the padding
  int h[ROWS], w[ROWS];  // the window's first row and column
  int r, s, c;           // filter row, column and channel of this thread's piece
  int k;                 // its depth

  __device__ void start(const ConvArguments& d, int64_t first_row, int group, int step, int tid) {
    FASTCONV_UNROLL
    for (int i = 0; i < ROWS; i++) {
      const int64_t m = first_row + tid / 8 + i * APART;
      const Pixel at = pixel_of(d, m);
      h[i] = m < d.M ? at.p * d.stride_h - d.pad_t : -0x40000000;  // no tap brings that into the image
      w[i] = at.q * d.stride_w - d.pad_l;
      origin[i] = at.n * d.x_image + (int64_t)h[i] * d.x_row + (int64_t)w[i] * d.x_ld + (int64_t)group * d.C;
    }
    k = (step * 8 + tid % 8) * WIDTH<T>;
    const int tap = k / d.C;
    c = k - tap * d.C, r = tap / d.S, s = tap - r * d.S;
  }

  __device__ static bool inside(const ConvArguments& d, int h, int w) {
    return (unsigned)h < (unsigned)d.H && (unsigned)w < (unsigned)d.W;
  }

  __device__ void copy(const ConvArguments& d, int first_column, int group, char* a, char* b, int tid) {
    const bool deep = k < d.depth;
    const int row = tid / 8, piece = tid % 8;
    if (!Gather) {
      const int dh = r * d.dilation_h, dw = s * d.dilation_w, offset = dh * d.x_row + dw * d.x_ld + c;
      FASTCONV_UNROLL
      for (int i = 0; i < ROWS; i++) {
        const bool ok = deep && inside(d, h[i] + dh, w[i] + dw);
        copy_async16(a + place(row + i * APART, piece), (const T*)d.x + (ok ? origin[i] + offset : 0), ok);
      }
    } else {
      gather(d, a, row, piece);
    }
    FASTCONV_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
      const int column = first_column + row + i * APART;
      const bool ok = deep && column < d.K;
      const int64_t from = ok ? (int64_t)(group * d.K + column) * d.w_ld + k : 0;
      copy_async16(b + place(row + i * APART, piece), (const T*)d.w + from, ok);
    }
    advance(d);
  }

  // Element by element, all rows of one at a time: their loads are under way together, and its place is found once.
  __device__ void gather(const ConvArguments& d, char* a, int row, int piece) const {
    uint32_t word[ROWS][4] = {};  // not arrays of T: the compiler would put them into local memory
    int rr = r, ss = s, cc = c;
    FASTCONV_UNROLL
    for (int e = 0; e < WIDTH<T>; e++) {
      const int dh = rr * d.dilation_h, dw = ss * d.dilation_w, offset = dh * d.x_row + dw * d.x_ld + cc;
      const bool deep = k + e < d.depth;
      FASTCONV_UNROLL
      for (int i = 0; i < ROWS; i++)
        if (deep && inside(d, h[i] + dh, w[i] + dw)) put(word[i], e, ((const T*)d.x)[origin[i] + offset]);
      if (++cc == d.C) {
        cc = 0;
        if (++ss == d.S) ss = 0, rr++;
      }
    }
    FASTCONV_UNROLL
    for (int i = 0; i < ROWS; i++) {
      uint4 u;
      u.x = word[i][0], u.y = word[i][1], u.z = word[i][2], u.w = word[i][3];
      *(uint4*)(a + place(row + i * APART, piece)) = u;
    }
  }

  __device__ static void put(uint32_t (&word)[4], int e, float v) { word[e] = as_bits(v); }
  template <class Half>
  __device__ static void put(uint32_t (&word)[4], int e, Half v) {
    word[e / 2] |= (uint32_t)v.bits << 16 * (e % 2);
  }

  __device__ void advance(const ConvArguments& d) {
    k += 8 * WIDTH<T>;
    c += 8 * WIDTH<T>;
    while (c >= d.C) {
      c -= d.C;
      if (++s == d.S) s = 0, r++;
    }
  }
};

// Blocks that should be resident together. Gathering kernels of 128 threads get two, which leaves them all registers,
// those of 256 none, so that nvcc 13 chooses: anything else spilled (0 local accesses each, sm_80, sm_90a and sm_100).
constexpr int blocks_of(bool gather, int threads, int others) { return gather ? (threads <= 128 ? 2 : 0) : others; }

template <template <int, int> class Engine, int BM, int BN, int WM, int WN, int STAGES, bool Gather>
__global__ void __launch_bounds__(BM / WM * BN / WN * 32,
                                  blocks_of(Gather, BM / WM * BN / WN * 32, Engine<WM, WN>::BLOCKS))
    conv_gemm(const __grid_constant__ ConvArguments d) {
  using E = Engine<WM, WN>;
  using T = typename E::Storage;
  constexpr int THREADS = BM / WM * (BN / WN) * 32, STAGE = (BM + BN) * STEP;
  char* shared = shared_bytes();
  const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32;
  const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
  const int column_tiles = (d.K + BN - 1) / BN, across = column_tiles * d.groups;  // neighbours share rows of x
  const int column = (int)(blockIdx.x % (unsigned)across), group = column / column_tiles;
  const int first_column = (column - group * column_tiles) * BN;
  const int64_t first_row = (int64_t)(blockIdx.x / (unsigned)across) * BM;
  const int begin = (int)blockIdx.z * d.steps_per_slice;
  const int count = (int)min_i(d.steps_per_slice, d.steps - begin);

  Loader<T, BM, BN, THREADS, Gather> loader;
  loader.start(d, first_row, group, begin, tid);
  FASTCONV_UNROLL_BY(Gather ? 1 : STAGES - 1)
  for (int i = 0; i < STAGES - 1; i++) {
    if (i < count) loader.copy(d, first_column, group, shared + i * STAGE, shared + i * STAGE + BM * STEP, tid);
    copy_async_commit();
  }
  E engine;
  engine.clear();
  int stage = 0, next = STAGES - 1;
  for (int i = 0; i < count; i++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    if (i + STAGES - 1 < count) {
      char* to = shared + next * STAGE;
      loader.copy(d, first_column, group, to, to + BM * STEP, tid);
    }
    copy_async_commit();
    const char* from = shared + stage * STAGE;
    engine.template step<Gather>(from + warp_row * STEP, from + (BM + warp_column) * STEP, lane);
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    next = next + 1 == STAGES ? 0 : next + 1;
  }
  copy_async_wait<0>();
  __syncthreads();

  // Through shared memory, so that a lane has neighbouring channels; all of it at once, so that no sum is in a register
  // when `activate` calls a function: those would be put into local memory.
  constexpr int LD = WN + SUMS_PAD;
  static_assert(BM / WM * (BN / WN) * WM * LD * 4 <= STAGES * STAGE, "sums in the place of the stages");
  float* tile = (float*)shared + warp * WM * LD;
  FASTCONV_UNROLL
  for (int i = 0; i < WM / 16; i++) engine.store(i, tile + 16 * i * LD, LD, lane);
  __syncwarp();
  finish_tile<T, WM, WN>(d, tile, LD, first_row + warp_row, first_column + warp_column, group * d.K, lane);
}

}  // namespace cuda
}  // namespace fastconv
