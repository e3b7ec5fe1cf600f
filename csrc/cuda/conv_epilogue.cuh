// How the sums of a convolution become its output: bias, residual, activation, and slices of the depth added in order.
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

// What a warp's lanes hold of 16 x 8 sums after mma or a warpgroup's product, to memory with rows `ld` apart.
constexpr int SUMS_PAD = 8;  // floats behind a row of sums: half a warp of these stores, and all reads, meet all banks
__device__ inline void store_sums(const float (&c)[4], float* to, int ld, int lane) {
  FASTCONV_UNROLL
  for (int half = 0; half < 2; half++) {
    float2 two;
    two.x = c[2 * half], two.y = c[2 * half + 1];
    *(float2*)(to + (lane / 4 + 8 * half) * ld + lane % 4 * 2) = two;
  }
}

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

  // Lanes lie 16 bytes apart, or 32: then every other four take the later half first, so that eight meet all banks.
  __device__ static Pack<T> sums_of(const float* sum) {
    Pack<T> s;
    const int turn = WIDTH<T> == 8 ? (int)threadIdx.x & 4 : 0;
    const Pack<float> one = load_pack(sum + turn), two = WIDTH<T> == 8 ? load_pack(sum + (turn ^ 4)) : one;
    FASTCONV_UNROLL
    for (int e = 0; e < 4; e++) s.v[e] = turn ? two.v[e] : one.v[e], s.v[WIDTH<T> - 4 + e] = turn ? one.v[e] : two.v[e];
    return s;
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
    Pack<T> p = sums_of(sum), other;
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
  float* mine = (float*)shared_bytes() + threadIdx.x * WIDTH<T>;  // registers have no run-time index
  FASTCONV_UNROLL
  for (int e = 0; e < WIDTH<T>; e++) mine[e] = sum[e];
  Epilogue<T>(d, k, width).template rows<1>(mine, 0, m, 1, m + 1);
}

template <class T>
void launch_join(ConvArguments d, int slices, cudaStream_t stream) {
  const float* partial = d.partial;
  d.partial = nullptr;
  const int64_t threads = d.M * ceil_div((int64_t)d.groups * d.K, WIDTH<T>);
  launch(join_slices<T>, dim3((unsigned)ceil_div(threads, 128)), dim3(128), 128 * WIDTH<T> * sizeof(float), stream, d,
         partial, slices);
}

}  // namespace cuda
}  // namespace fastconv
