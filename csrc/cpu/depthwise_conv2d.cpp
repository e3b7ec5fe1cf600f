// Depthwise convolution on NHWC: every channel has its own R x S filter; the vector runs over channels.
//
// 3x3 and 5x5 with stride 1 and 2 compute QT neighbouring outputs at a time: each input vector is loaded once per
// filter row and used for every output that it touches. Taps outside the image are skipped by branches whose pattern
// repeats from row to row (loads under an empty mask instead: half the speed at 7x7 on Zen 5). Other filters do the
// same with each weight loaded once for QT outputs; a channel multiplier takes one output at a time. One cache line of
// channels runs through all rows before the next: its pixels stay in L1 for all R filter rows. Weights are [R*S][K
// rounded up to whole vectors].
#include "cpu/kernels.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int V = Vec::N;
constexpr bool HOLDS_WEIGHTS = REGISTERS == 32;

struct Lane {      // one vector of channels of one output row
  const float* x;  // first channel of the first image pixel of the row's image
  const float* w;
  const float* residual;
  float* y;
  Vec bias, lo, hi;
  int n;  // channels in use
};

static inline Vec get(const float* p, int n) { return n == V ? load(p) : load_n(p, n); }

static inline void put(const DepthwiseConv2d& d, const Lane& lane, int64_t q, Vec acc) {
  if (lane.residual) acc = add(acc, get(lane.residual + q * d.res_ld, lane.n));
  acc = min(lane.hi, max(lane.lo, acc));
  float* y = lane.y + q * d.y_ld;
  if (lane.n == V) {
    store(y, acc);
  } else {
    store_n(y, acc, lane.n);
  }
}

// QT outputs from q0 on; INSIDE: every tap of every output lies in the image and the vector is full.
// Nine weights stay in registers where there are 32; otherwise they are memory operands.
template <int R, int S, int ST, int QT, bool INSIDE>
static inline void block(const DepthwiseConv2d& d, const Lane& lane, int64_t ih, int64_t q0, int64_t w_ld,
                         const Vec* held) {
  constexpr int COLUMNS = (QT - 1) * ST + S;
  constexpr bool HELD = HOLDS_WEIGHTS && R * S <= 9;
  const int64_t iw = q0 * ST - d.pad_l;
  Vec acc[QT];
#pragma GCC unroll 8
  for (int t = 0; t < QT; t++) acc[t] = lane.bias;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    if (!INSIDE && (uint64_t)(ih + r) >= (uint64_t)d.H) continue;
    const float* x = lane.x + (ih + r) * d.x_row + iw * d.x_ld;
    const float* w = lane.w + r * S * w_ld;
#pragma GCC unroll 32
    for (int c = 0; c < COLUMNS; c++) {
      if (!INSIDE && (uint64_t)(iw + c) >= (uint64_t)d.W) continue;
      Vec v = INSIDE ? load(x + c * d.x_ld) : get(x + c * d.x_ld, lane.n);
#pragma GCC unroll 8
      for (int t = 0; t < QT; t++) {
        const int s = c - t * ST;
        if (s >= 0 && s < S) acc[t] = HELD ? fma(v, held[r * S + s], acc[t]) : fma_at(v, w + s * w_ld, acc[t]);
      }
    }
  }
  const int64_t count = INSIDE ? QT : min_i(QT, d.Q - q0);
#pragma GCC unroll 8
  for (int t = 0; t < QT; t++) {
    if (INSIDE || t < count) put(d, lane, q0 + t, acc[t]);
  }
}

template <int R, int S, int ST>
static void row_blocks(const DepthwiseConv2d& d, const Lane& lane, int64_t p, int64_t w_ld) {
  constexpr int QT = 7;
  const int64_t ih = p * ST - d.pad_t;
  Vec held[R * S];
#pragma GCC unroll 9
  for (int i = 0; HOLDS_WEIGHTS && R * S <= 9 && i < R * S; i++) held[i] = load(lane.w + i * w_ld);
  const bool rows_inside = ih >= 0 && ih + R <= d.H && lane.n == V;
  for (int64_t q = 0; q < d.Q; q += QT) {
    const int64_t iw = q * ST - d.pad_l;
    if (rows_inside && iw >= 0 && iw + (QT - 1) * ST + S <= d.W && q + QT <= d.Q) {
      block<R, S, ST, QT, true>(d, lane, ih, q, w_ld, held);
    } else {
      block<R, S, ST, QT, false>(d, lane, ih, q, w_ld, held);
    }
  }
}

// Any filter and dilation: QT outputs at a time, each weight loaded once for all of them.
template <int QT, bool INSIDE>
static inline void block_any(const DepthwiseConv2d& d, const Lane& lane, int64_t p, int64_t q0, int64_t w_ld) {
  const int64_t iw = q0 * d.stride_w - d.pad_l;
  const int64_t count = INSIDE ? QT : min_i(QT, d.Q - q0);
  Vec acc[QT];
#pragma GCC unroll 8
  for (int t = 0; t < QT; t++) acc[t] = lane.bias;
  for (int64_t r = 0; r < d.R; r++) {
    const int64_t ih = p * d.stride_h - d.pad_t + r * d.dilation_h;
    if ((uint64_t)ih >= (uint64_t)d.H) continue;
    for (int64_t s = 0; s < d.S; s++) {
      const Vec w = load(lane.w + (r * d.S + s) * w_ld);
      const int64_t first = iw + s * d.dilation_w;
      const float* x = lane.x + ih * d.x_row + first * d.x_ld;
#pragma GCC unroll 8
      for (int t = 0; t < QT; t++) {
        if (!INSIDE && (t >= count || (uint64_t)(first + t * d.stride_w) >= (uint64_t)d.W)) continue;
        const float* at = x + t * d.stride_w * d.x_ld;
        acc[t] = fma(INSIDE ? load(at) : get(at, lane.n), w, acc[t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < QT; t++) {
    if (INSIDE || t < count) put(d, lane, q0 + t, acc[t]);
  }
}

static void row_any(const DepthwiseConv2d& d, const Lane& lane, int64_t p, int64_t w_ld) {
  constexpr int QT = 7;
  const int64_t reach = (QT - 1) * d.stride_w + (d.S - 1) * d.dilation_w;
  for (int64_t q = 0; q < d.Q; q += QT) {
    const int64_t iw = q * d.stride_w - d.pad_l;
    if (lane.n == V && iw >= 0 && iw + reach < d.W && q + QT <= d.Q) {
      block_any<QT, true>(d, lane, p, q, w_ld);
    } else {
      block_any<QT, false>(d, lane, p, q, w_ld);
    }
  }
}

// With a channel multiplier: input channel of output channel k is k / multiplier.
static void row_multiplied(const DepthwiseConv2d& d, const Lane& lane, int64_t p, int64_t k, int64_t w_ld) {
  for (int64_t q = 0; q < d.Q; q++) {
    Vec acc = lane.bias;
    for (int64_t r = 0; r < d.R; r++) {
      const int64_t ih = p * d.stride_h - d.pad_t + r * d.dilation_h;
      if ((uint64_t)ih >= (uint64_t)d.H) continue;
      for (int64_t s = 0; s < d.S; s++) {
        const int64_t iw = q * d.stride_w - d.pad_l + s * d.dilation_w;
        if ((uint64_t)iw >= (uint64_t)d.W) continue;
        const float* x = lane.x + ih * d.x_row + iw * d.x_ld;
        float spread[V];
        for (int i = 0; i < V; i++) spread[i] = i < lane.n ? x[(k + i) / d.multiplier] : 0.0f;
        const Vec v = load(spread);
        acc = fma(v, load(lane.w + (r * d.S + s) * w_ld), acc);
      }
    }
    put(d, lane, q, acc);
  }
}

}  // namespace

void depthwise_conv2d(const DepthwiseConv2d& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t w_ld = (d.K + V - 1) / V * V, rows = d.N * d.P;
  const bool plain = d.multiplier == 1 && d.dilation_h == 1 && d.dilation_w == 1 && d.stride_h == d.stride_w &&
                     d.R == d.S && (d.R == 3 || d.R == 5) && (d.stride_h == 1 || d.stride_h == 2);
  void (*fast)(const DepthwiseConv2d&, const Lane&, int64_t, int64_t) = d.multiplier != 1 ? nullptr
                                                                        : !plain          ? row_any
                                                                        : d.R == 3 && d.stride_h == 1
                                                                            ? row_blocks<3, 3, 1>
                                                                        : d.R == 3        ? row_blocks<3, 3, 2>
                                                                        : d.stride_h == 1 ? row_blocks<5, 5, 1>
                                                                                          : row_blocks<5, 5, 2>;
  const int64_t row_begin = begin * d.rows_per_chunk, row_end = min_i(rows, end * d.rows_per_chunk);
  const bool clip = d.act.func == Func::clip;
  constexpr int64_t LINE = 16;  // floats
  Lane lane;
  lane.lo = set1(clip ? d.act.alpha : -__builtin_inff());
  lane.hi = set1(clip ? d.act.beta : __builtin_inff());
  const int64_t batch = max_i(1, 256 / max_i(1, d.Q));  // rows whose vectors wait in L1 for the activation
  for (int64_t line = 0; line < d.K; line += LINE) {
    int64_t waiting = row_begin;
    for (int64_t row = row_begin; row < row_end; row++) {
      const int64_t n = row / d.P, p = row % d.P;
      for (int64_t k = line; k < min_i(d.K, line + LINE); k += V) {
        lane.n = (int)min_i(V, d.K - k);
        lane.x = b.in[0] + n * d.x_image + (fast ? k : 0);
        lane.w = b.in[1] + k;
        lane.y = b.out + row * d.Q * d.y_ld + k;
        lane.residual = b.in[3] ? b.in[3] + row * d.Q * d.res_ld + k : nullptr;
        lane.bias = b.in[2] ? get(b.in[2] + k, lane.n) : zero();
        if (fast) {
          fast(d, lane, p, w_ld);
        } else {
          row_multiplied(d, lane, p, k, w_ld);
        }
      }
      if (!clip && (row + 1 - waiting == batch || row + 1 == row_end)) {
        activate_rows(d.act, b.out + waiting * d.Q * d.y_ld + line, d.y_ld, (row + 1 - waiting) * d.Q,
                      min_i(LINE, d.K - line));
        waiting = row + 1;
      }
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
