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
#include "pack.cuh"

namespace fastconv {
namespace cuda {

struct ConvArguments {
  const void *x, *w, *residual;
  const float* bias;
  void* y;
  float* partial;  // [slices][M][K], or null
  int64_t M, x_image, y_ld, res_ld;
  int64_t y_image, y_row, res_image, res_row;    // where !dense_y; else pixels of y and residual lie y_ld, res_ld apart
  int H, W, C, K, P, Q, S, depth, w_ld, groups;  // C, K: of one group
  int stride_h, stride_w, dilation_h, dilation_w, pad_t, pad_l;
  int x_row, x_ld;
  int steps, steps_per_slice;
  int dense_y;
  int wide_y, wide_partial;  // y, residual and bias allow 16 bytes at a time; partial does
  Activation act;
};

constexpr int STEP = 128;  // bytes of depth

// Pixel m of the output. There are less than 2^30 (conv2d.cu), and 64-bit divisions are calls, around which sums would
// be put into local memory.
struct Pixel {
  int64_t n;
  int p, q;
};
__device__ inline Pixel pixel_of(const ConvArguments& d, int64_t m) {
  const uint32_t i = (uint32_t)m, line = i / (uint32_t)d.Q, n = line / (uint32_t)d.P;
  return {n, (int)(line - n * (uint32_t)d.P), (int)(i - line * (uint32_t)d.Q)};
}

__device__ inline int place(int row, int piece) { return row * STEP + ((piece ^ (row & 7)) << 4); }

// How many of a stage's four steps are unrolled. tf32, four: 156 registers, one block less on a multiprocessor. fp16
// and bf16: four spill in the 128x128 tile (sm_90a), two some of the gathering one.
template <class T, bool Gather>
constexpr int STEPS_AT_ONCE = sizeof(T) == 4 ? 1
                              : Gather       ? 4
                                             : 2;

// What a warp's lanes hold of 16 x 8 sums after mma or a warpgroup's product, to memory with rows `ld` apart.
constexpr int SUMS_PAD = 8;  // floats behind a row of sums: half a warp's stores, and all reads below, meet all banks
__device__ inline void store_sums(const float (&c)[4], float* to, int ld, int lane) {
  FASTCONV_UNROLL
  for (int half = 0; half < 2; half++) {
    float2 two;
    two.x = c[2 * half], two.y = c[2 * half + 1];
    *(float2*)(to + (lane / 4 + 8 * half) * ld + lane % 4 * 2) = two;
  }
}

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

// -- epilogue ---------------------------------------------------------------------------------------------------------
// Element offset of pixel m in y, or in the residual.
__device__ inline int64_t pixel_at(const ConvArguments& d, int64_t m, int64_t image, int64_t row, int64_t ld) {
  if (d.dense_y) return m * ld;
  const Pixel at = pixel_of(d, m);
  return at.n * image + at.p * row + at.q * ld;
}

// y[m, k...] = act(sum + bias + residual) for the WIDTH<T> channels from k on, or for the `count` that there are; with
// slices, their sums to `partial`. A lane has the same channels in all its rows, so that all but the row is found once.
template <class T>
struct Epilogue {
  const ConvArguments& d;
  int k, count;
  bool whole;  // 16 bytes at a time, and no function to call
  float low, high, bias[WIDTH<T>];

  __device__ Epilogue(const ConvArguments& d, int k, int count) : d(d), k(k), count((int)min_i(WIDTH<T>, count)) {
    const bool clip = d.act.func == Func::clip;
    whole = d.wide_y && count >= WIDTH<T> && !d.partial && (clip || d.act.func == Func::identity);
    low = clip ? d.act.alpha : -infinity(), high = clip ? d.act.beta : infinity();
    FASTCONV_UNROLL
    for (int e = 0; e < WIDTH<T>; e++) bias[e] = 0.0f;
    if (!whole || !d.bias) return;
    FASTCONV_UNROLL
    for (int e = 0; e < WIDTH<T>; e += 4) {
      const Pack<float> four = load_pack(d.bias + k + e);
      FASTCONV_UNROLL
      for (int i = 0; i < 4; i++) bias[e + i] = four.v[i];
    }
  }

  __device__ T* to(int64_t m) const { return (T*)d.y + pixel_at(d, m, d.y_image, d.y_row, d.y_ld) + k; }
  __device__ const T* residual(int64_t m) const {
    return (const T*)d.residual + pixel_at(d, m, d.res_image, d.res_row, d.res_ld) + k;
  }

  __device__ static void read_sums(const float* sum, float (&v)[4]) {
    const Pack<float> four = load_pack(sum);
    FASTCONV_UNROLL
    for (int e = 0; e < 4; e++) v[e] = four.v[e];
  }
  // Lanes 32 bytes apart: every other four take the later half first, so that eight of them meet all banks.
  __device__ static void read_sums(const float* sum, float (&v)[8]) {
    const int turn = (int)threadIdx.x & 4;
    const Pack<float> one = load_pack(sum + turn), two = load_pack(sum + (turn ^ 4));
    FASTCONV_UNROLL
    for (int e = 0; e < 4; e++) v[e] = turn ? two.v[e] : one.v[e], v[e + 4] = turn ? one.v[e] : two.v[e];
  }

  // Of rows m, m + down, ... before `end`, whose sums lie `apart` from each other: READS residuals are under way at a
  // time.
  template <int READS>
  __device__ void rows(const float* sum, int apart, int64_t m, int down, int64_t end) const {
    if (!whole) {
      for (; m < end; m += down, sum += apart) one(sum, m);
      return;
    }
    for (; m < end; m += READS * down, sum += READS * apart) {
      uint4 add[READS] = {};
      if (d.residual) {
        FASTCONV_UNROLL
        for (int i = 0; i < READS; i++)
          if (m + i * down < end) add[i] = *(const uint4*)residual(m + i * down);
      }
      FASTCONV_UNROLL
      for (int i = 0; i < READS; i++)
        if (m + i * down < end) store_pack(to(m + i * down), ended(sum + i * apart, add[i]));
    }
  }

  __device__ Pack<T> ended(const float* sum, uint4 add) const {
    Pack<T> p, other;
    read_sums(sum, p.v);
    FASTCONV_UNROLL
    for (int e = 0; e < WIDTH<T>; e++) p.v[e] += bias[e];
    if (d.residual) {
      unpack(add, other);
      FASTCONV_UNROLL
      for (int e = 0; e < WIDTH<T>; e++) p.v[e] += other.v[e];
    }
    FASTCONV_UNROLL
    for (int e = 0; e < WIDTH<T>; e++) p.v[e] = clip_of(p.v[e], low, high);
    return p;
  }

  __device__ void one(const float* sum, int64_t m) const {
    if (d.partial) {
      float* slice = d.partial + ((int64_t)blockIdx.z * d.M + m) * d.groups * d.K + k;
      if (d.wide_partial && count == WIDTH<T>) {
        FASTCONV_UNROLL
        for (int e = 0; e < WIDTH<T>; e += 4) *(uint4*)(slice + e) = *(const uint4*)(sum + e);
      } else {
        for (int e = 0; e < count; e++) slice[e] = sum[e];
      }
      return;
    }
    T* y = to(m);
    const T* add = d.residual ? residual(m) : nullptr;
    if (d.wide_y && count == WIDTH<T>) {
      Pack<T> p, other;
      if (add) other = load_pack(add);
      FASTCONV_UNROLL
      for (int e = 0; e < WIDTH<T>; e++)
        p.v[e] = activate(d.act, sum[e] + (d.bias ? d.bias[k + e] : 0.0f) + (add ? other.v[e] : 0.0f));
      store_pack(y, p);
      return;
    }
    for (int e = 0; e < count; e++) {
      const float v = sum[e] + (d.bias ? d.bias[k + e] : 0.0f) + (add ? to_float(add[e]) : 0.0f);
      y[e] = from_float<T>(activate(d.act, v));
    }
  }
};

// The sums of a warp's tile, in rows `ld` apart in shared memory, to their places; k0: the group's first filter.
template <class T, int ROWS, int COLUMNS>
__device__ inline void finish_tile(const ConvArguments& d, const float* tile, int ld, int64_t first_row,
                                   int first_column, int k0, int lane) {
  constexpr int ACROSS = COLUMNS / WIDTH<T>, LANES = ACROSS < 32 ? ACROSS : 32, DOWN = 32 / LANES;
  const int64_t end = min_i(first_row + ROWS, d.M);
  FASTCONV_UNROLL
  for (int part = 0; part < ACROSS / LANES; part++) {
    const int column = (part * LANES + lane % LANES) * WIDTH<T>, k = first_column + column, row = lane / LANES;
    if (k >= d.K) continue;
    const Epilogue<T> out(d, k0 + k, d.K - k);
    out.template rows<4>(tile + row * ld + column, DOWN * ld, first_row + row, DOWN, end);
  }
}

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

// One thread for WIDTH<T> channels of a row: adds the slices in order. d.partial is null: sums go to y.
template <class T>
__global__ void join_slices(const __grid_constant__ ConvArguments d, const float* partial, int slices) {
  const int K = d.groups * d.K, across = (K + WIDTH<T> - 1) / WIDTH<T>;
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= d.M * across) return;
  const int64_t m = i / across;
  const int k = (int)(i - m * across) * WIDTH<T>, width = (int)min_i(WIDTH<T>, K - k);
  float sum[WIDTH<T>] = {};
  for (int slice = 0; slice < slices; slice++) {
    const float* from = partial + ((int64_t)slice * d.M + m) * K + k;
    if (d.wide_partial && width == WIDTH<T>) {
      FASTCONV_UNROLL
      for (int e = 0; e < WIDTH<T>; e += 4) {
        const Pack<float> four = load_pack(from + e);
        FASTCONV_UNROLL
        for (int j = 0; j < 4; j++) sum[e + j] += four.v[j];
      }
    } else {
      FASTCONV_UNROLL
      for (int e = 0; e < WIDTH<T>; e++)
        if (e < width) sum[e] += from[e];
    }
  }
  Epilogue<T>(d, k, width).template rows<1>(sum, 0, m, 1, m + 1);
}

template <class T>
void launch_join(ConvArguments d, int slices, cudaStream_t stream) {
  const float* partial = d.partial;
  d.partial = nullptr;
  const int64_t threads = d.M * ceil_div((int64_t)d.groups * d.K, WIDTH<T>);
  launch(join_slices<T>, dim3((unsigned)ceil_div(threads, 128)), dim3(128), 0, stream, d, partial, slices);
}

}  // namespace cuda
}  // namespace fastconv
