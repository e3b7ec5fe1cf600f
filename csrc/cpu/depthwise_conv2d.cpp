// Depthwise convolution on NHWC: every channel has its own R x S filter; the vector runs over channels.
//
// 3x3 and 5x5 with stride 1 and 2 compute QT neighbouring outputs at a time: each input vector is loaded once per
// filter row and used for every output that it touches. Blocks at the borders of the image leave out what lies outside
// at compile time (branches: half the speed at 14x14 on Zen 5). Other filters load each weight once for QT outputs; a
// channel multiplier takes one output at a time. With 32 registers a vector of channels runs through all rows before
// the next, within a cache line that stays in L1 for all R filter rows; with 16 a block goes through all channels, for
// what it needs to begin is more than one vector's work. Weights are [R*S][K rounded up to whole vectors]. Outputs that
// are near are added up for the means, by four sums at a time.
#include "cpu/depthwise_lane.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr bool HOLDS_WEIGHTS = REGISTERS == 32;
constexpr int QT = 7;         // outputs of a block
constexpr int64_t LINE = 16;  // floats
constexpr int64_t FEW = 28;   // pixels, which the start and the end of a sum are little beside

// Columns of a block that lie outside at either end of a line: none, EDGE as where so many are padded, or NEAR as with
// stride 2 where an even image leaves its last column out, or TensorFlow's padding the first.
template <int R>
constexpr int EDGE = R / 2;
template <int R, int ST>
constexpr int NEAR = ST == 1 ? EDGE<R> : EDGE<R> - 1;

struct Range {  // output rows of all images, and channels
  int64_t row_begin, row_end, k_begin, k_end;
};

struct Row {
  int64_t x;  // floats from the first pixel on, at an image row that may lie outside
  int64_t pixel;
  int r_begin, r_end;  // filter rows inside the image
};

// With AVX2 a block reads and writes a few bytes of many pixels, one vector further at each step: no stream that the
// CPU's own prefetchers would follow. Not worth its instructions where x lies in L2, so there are functions without:
// the question alone was 2 to 5% more of them.
constexpr bool MAY_FETCH = !HOLDS_WEIGHTS && STEPS > 1;
static inline bool fetches_next(const DepthwiseConv2d& d, const Range& part) {
  const bool dense = d.x_ld == d.K && d.x_row == d.W * d.x_ld && d.y_ld == d.K && part.k_end - part.k_begin == d.K;
  return MAY_FETCH && dense && 4 * d.N * d.H * d.W * d.K > FAR_IMAGE;
}

template <int FLOATS>
__attribute__((always_inline)) static inline void fetch(const float* p) {
#pragma GCC unroll 8
  for (int i = 0; i < FLOATS; i += LINE) __builtin_prefetch(p + i);
}

// QT outputs from q0 on of whole vectors of channels. LEFT and RIGHT of the columns that they touch lie outside the
// image, which costs nothing, for they are known here. Nine weights stay in registers where there are 32 (`held`, of
// one vector of channels); otherwise those of one filter row.
template <int R, int S, int ST, bool FETCHES, int LEFT, int RIGHT>
static inline void block(const DepthwiseConv2d& d, const Lane& first, int64_t channels, const Row& row, int64_t q0,
                         const Vec* held) {
  constexpr int COLUMNS = (QT - 1) * ST + S;
  constexpr bool HELD = HOLDS_WEIGHTS && R * S <= 9;
  // copies, for y might alias d
  const int64_t x_ld = d.x_ld, x_row = d.x_row, y_ld = d.y_ld, res_ld = d.res_ld, w_ld = weights_ld(d);
  const int64_t r_begin = row.r_begin, r_end = row.r_end;
  const float* first_x = first.x + row.x + (q0 * ST - d.pad_l) * x_ld;
  const float* residual = first.residual ? first.residual + (row.pixel + q0) * res_ld : nullptr;
  float* first_y = first.y + (row.pixel + q0) * y_ld;
  const float *first_w = first.w, *bias = first.bias;
  const Vec lo = first.lo, hi = first.hi;
  for (int64_t k = 0; k < (HOLDS_WEIGHTS ? V : channels); k += V) {
    const float *x = first_x + k, *w = first_w + k;
    const Vec start = bias ? load(bias + k) : zero();
    Vec acc[QT];
#pragma GCC unroll 8
    for (int t = 0; t < QT; t++) acc[t] = start;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++, x += x_row, w += S * w_ld) {
      __asm__("" : "+r"(x));  // as in Walk
      __asm__("" : "+r"(w));
      if (r < r_begin || r >= r_end) continue;
      Walk<const float> columns(x, x_ld);
      Vec weights[S];
#pragma GCC unroll 8
      for (int i = 0; i < S; i++) weights[i] = HELD ? held[r * S + i] : load(w + i * w_ld);
#pragma GCC unroll 32
      for (int c = LEFT; c < COLUMNS - RIGHT; c++) {
        const Vec v = load_once(columns.pixel(c));
#pragma GCC unroll 8
        for (int t = 0; t < QT; t++) {
          const int s = c - t * ST;
          if (s >= 0 && s < S) acc[t] = fma(v, weights[s], acc[t]);
        }
      }
    }
    if (residual) {
#pragma GCC unroll 8
      for (int t = 0; t < QT; t++) acc[t] = add(acc[t], load(residual + k + t * res_ld));
    }
    if (FETCHES) {
      // Of the block QT outputs further on: what the last ST filter rows are the first to read. At the end of a line
      // that is the next line's (with stride 2 one row of two).
      const float* next_x = first_x + (R - 1) * x_row + COLUMNS * x_ld + k * (QT * ST);
#pragma GCC unroll 2
      for (int r = 0; r < ST; r++) fetch<QT * ST * V>(next_x - r * x_row);
      fetch<QT * V>(first_y + QT * y_ld + k * QT);
    }
    Walk<float> y(first_y + k, y_ld);
#pragma GCC unroll 8
    for (int t = 0; t < QT; t++) store(y.pixel(t), min(hi, max(lo, acc[t])));
  }
}

// The same for partial vectors, fewer outputs and any border.
template <int R, int S, int ST>
static void border_block(const DepthwiseConv2d& d, const Lane& lane, const Row& row, int64_t q0) {
  const int64_t iw = q0 * ST - d.pad_l, count = min_i(QT, d.Q - q0), w_ld = weights_ld(d);
  const Vec bias = bias_of(lane);
  Vec acc[QT];
#pragma GCC unroll 8
  for (int t = 0; t < QT; t++) acc[t] = bias;
  for (int r = row.r_begin; r < row.r_end; r++) {
    const float* x = lane.x + row.x + r * d.x_row + iw * d.x_ld;
    const float* w = lane.w + r * S * w_ld;
#pragma GCC unroll 32
    for (int c = 0; c < (QT - 1) * ST + S; c++) {
      if ((uint64_t)(iw + c) >= (uint64_t)d.W) continue;
      const Vec v = get(x + c * d.x_ld, lane.n);
#pragma GCC unroll 8
      for (int t = 0; t < QT; t++) {
        const int s = c - t * ST;
        if (s >= 0 && s < S) acc[t] = fma_at(v, w + s * w_ld, acc[t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < QT; t++) {
    if (t < count) put(d, lane, row.pixel + q0 + t, acc[t]);
  }
}

// False if there is no function for `right` columns outside.
template <int R, int S, int ST, bool FETCHES, int LEFT>
static inline bool block_to(int64_t right, const DepthwiseConv2d& d, const Lane& first, int64_t channels,
                            const Row& row, int64_t q, const Vec* held) {
  if (right <= 0) {
    block<R, S, ST, FETCHES, LEFT, 0>(d, first, channels, row, q, held);
  } else if (right == NEAR<R, ST>) {
    block<R, S, ST, FETCHES, LEFT, NEAR<R, ST>>(d, first, channels, row, q, held);
  } else if (right == EDGE<R>) {
    block<R, S, ST, FETCHES, LEFT, EDGE<R>>(d, first, channels, row, q, held);
  } else {
    return false;
  }
  return true;
}

// first: of the channels of `part`.
template <int R, int S, int ST, bool FETCHES>
static inline void any_block(const DepthwiseConv2d& d, const Buffers& b, const Range& part, const Lane& first,
                             const Row& row, int64_t q, const Vec* held) {
  constexpr int COLUMNS = (QT - 1) * ST + S;
  const int64_t left = d.pad_l - q * ST, right = q * ST - d.pad_l + COLUMNS - d.W;
  const int64_t whole = q + QT <= d.Q ? (part.k_end - part.k_begin) / V * V : 0;  // channels of whole vectors
  bool done = false;
  if (whole && left <= 0) {
    done = block_to<R, S, ST, FETCHES, 0>(right, d, first, whole, row, q, held);
  } else if (whole && left == EDGE<R>) {
    done = block_to<R, S, ST, FETCHES, EDGE<R>>(right, d, first, whole, row, q, held);
  } else if (whole && left == NEAR<R, ST>) {
    done = block_to<R, S, ST, FETCHES, NEAR<R, ST>>(right, d, first, whole, row, q, held);
  }
  if (HOLDS_WEIGHTS && !done) return border_block<R, S, ST>(d, first, row, q);
  for (int64_t k = part.k_begin + (done ? whole : 0); k < part.k_end; k += V) {
    border_block<R, S, ST>(d, lane_at(d, b, k), row, q);
  }
}

// The last block begins early where Q is no multiple of QT: what both compute is the same.
template <int R, int S, int ST, bool FETCHES>
static void rows_by_blocks(const DepthwiseConv2d& d, const Buffers& b, const Range& part) {
  const Lane first = lane_at(d, b, part.k_begin);
  Vec held[R * S];
#pragma GCC unroll 9
  for (int i = 0; HOLDS_WEIGHTS && R * S <= 9 && i < R * S; i++) held[i] = load(first.w + i * weights_ld(d));
  for (int64_t at = part.row_begin; at < part.row_end; at++) {
    const int64_t n = at / d.P, ih = at % d.P * ST - d.pad_t, x = n * d.x_image + ih * d.x_row;
    const Row row = {x, at * d.Q, (int)max_i(0, -ih), (int)min_i(R, d.H - ih)};
    for (int64_t next = 0; next < d.Q; next += QT) {
      const int64_t q = next + QT <= d.Q || d.Q < QT || first.residual ? next : d.Q - QT;
      any_block<R, S, ST, FETCHES>(d, b, part, first, row, q, held);
    }
  }
}

// Any filter and dilation: QT outputs at a time, each weight loaded once for all of them.
template <bool INSIDE>
static inline void block_any(const DepthwiseConv2d& d, const Lane& lane, int64_t at, int64_t q0) {
  const int64_t iw = q0 * d.stride_w - d.pad_l, n = at / d.P, p = at % d.P, w_ld = weights_ld(d);
  const int64_t count = INSIDE ? QT : min_i(QT, d.Q - q0);
  const Vec bias = bias_of(lane);
  Vec acc[QT];
#pragma GCC unroll 8
  for (int t = 0; t < QT; t++) acc[t] = bias;
  for (int64_t r = 0; r < d.R; r++) {
    const int64_t ih = p * d.stride_h - d.pad_t + r * d.dilation_h;
    if ((uint64_t)ih >= (uint64_t)d.H) continue;
    for (int64_t s = 0; s < d.S; s++) {
      const Vec w = load(lane.w + (r * d.S + s) * w_ld);
      const int64_t first = iw + s * d.dilation_w;
      const float* x = lane.x + n * d.x_image + ih * d.x_row + first * d.x_ld;
#pragma GCC unroll 8
      for (int t = 0; t < QT; t++) {
        if (!INSIDE && (t >= count || (uint64_t)(first + t * d.stride_w) >= (uint64_t)d.W)) continue;
        const float* pixel = x + t * d.stride_w * d.x_ld;
        acc[t] = fma(INSIDE ? load(pixel) : get(pixel, lane.n), w, acc[t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < QT; t++) {
    if (INSIDE || t < count) put(d, lane, at * d.Q + q0 + t, acc[t]);
  }
}

static void rows_any(const DepthwiseConv2d& d, const Buffers& b, const Range& part) {
  const int64_t reach = (QT - 1) * d.stride_w + (d.S - 1) * d.dilation_w;
  for (int64_t at = part.row_begin; at < part.row_end; at++) {
    for (int64_t q = 0; q < d.Q; q += QT) {
      const int64_t iw = q * d.stride_w - d.pad_l;
      const bool inside = iw >= 0 && iw + reach < d.W && q + QT <= d.Q;
      for (int64_t k = part.k_begin; k < part.k_end; k += V) {
        const Lane lane = lane_at(d, b, k);
        if (inside && lane.n == V) {
          block_any<true>(d, lane, at, q);
        } else {
          block_any<false>(d, lane, at, q);
        }
      }
    }
  }
}

// With a channel multiplier: input channel of output channel k is k / multiplier.
static void rows_multiplied(const DepthwiseConv2d& d, const Buffers& b, const Range& part) {
  const int64_t w_ld = weights_ld(d);
  for (int64_t k = part.k_begin; k < part.k_end; k += V) {
    const Lane lane = lane_at(d, b, k);
    const Vec bias = bias_of(lane);
    for (int64_t pixel = part.row_begin * d.Q; pixel < part.row_end * d.Q; pixel++) {
      const int64_t n = pixel / d.Q / d.P, p = pixel / d.Q % d.P, q = pixel % d.Q;
      Vec acc = bias;
      for (int64_t r = 0; r < d.R; r++) {
        const int64_t ih = p * d.stride_h - d.pad_t + r * d.dilation_h;
        if ((uint64_t)ih >= (uint64_t)d.H) continue;
        for (int64_t s = 0; s < d.S; s++) {
          const int64_t iw = q * d.stride_w - d.pad_l + s * d.dilation_w;
          if ((uint64_t)iw >= (uint64_t)d.W) continue;
          const float* x = lane.x + n * d.x_image + ih * d.x_row + iw * d.x_ld;
          float spread[V];
          for (int i = 0; i < V; i++) spread[i] = i < lane.n ? x[(k + i) / d.multiplier] : 0.0f;
          const Vec v = load(spread);
          acc = fma(v, load(lane.w + (r * d.S + s) * w_ld), acc);
        }
      }
      put(d, lane, pixel, acc);
    }
  }
}

// The sum over `count` pixels of f(y), which is written back unless f is nothing.
template <bool WRITES, class F>
static inline Vec sum_pixels(const F& f, float* y, int64_t y_ld, int64_t count, int n) {
  Vec part[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  if (n == V) {
    for (; i + 4 <= count; i += 4, y += 4 * y_ld) {
#pragma GCC unroll 4
      for (int t = 0; t < 4; t++) {
        const Vec v = f(load(y + t * y_ld));
        if (WRITES) store(y + t * y_ld, v);
        part[t] = add(part[t], v);
      }
    }
  }
  for (; i < count; i++, y += y_ld) {
    const Vec v = f(get(y, n));
    if (WRITES) set(y, v, n);
    part[0] = add(part[0], v);
  }
  return add(add(part[0], part[1]), add(part[2], part[3]));
}

// act on `count` pixels of n channels, and their sum. The functions of squeeze-and-excite networks add what they have
// in registers; after others the pixels are read once more.
static Vec activate_and_sum(const Activation& act, float* y, int64_t y_ld, int64_t count, int n) {
  if (act.func == Func::swish) return sum_pixels<true>([](Vec x) { return swish(x); }, y, y_ld, count, n);
  if (act.func == Func::hard_swish) return sum_pixels<true>([](Vec x) { return hard_swish(x); }, y, y_ld, count, n);
  if (act.func != Func::clip) activate_rows(act, y, y_ld, count, n);
  return sum_pixels<false>(Identity{}, y, y_ld, count, n);
}

using Rows = void (*)(const DepthwiseConv2d&, const Buffers&, const Range&);

template <int R, int S, int ST>
static Rows by_blocks(bool fetches) {
  return fetches ? rows_by_blocks<R, S, ST, MAY_FETCH> : rows_by_blocks<R, S, ST, false>;
}

static Rows rows_function(const DepthwiseConv2d& d, bool fetches) {
  if (d.multiplier != 1) return rows_multiplied;
  const bool plain = d.dilation_h == 1 && d.dilation_w == 1 && d.stride_h == d.stride_w && d.R == d.S &&
                     (d.R == 3 || d.R == 5) && (d.stride_h == 1 || d.stride_h == 2);
  if (!plain) return rows_any;
  if (d.R == 3) return d.stride_h == 1 ? by_blocks<3, 3, 1>(fetches) : by_blocks<3, 3, 2>(fetches);
  return d.stride_h == 1 ? by_blocks<5, 5, 1>(fetches) : by_blocks<5, 5, 2>(fetches);
}

// Channels that go through a band together, and of those a range through some rows.
static int64_t strip_width(const DepthwiseConv2d& d) { return HOLDS_WEIGHTS ? LINE : (d.K + LINE - 1) / LINE * LINE; }
static int64_t rows_width(const DepthwiseConv2d& d) { return HOLDS_WEIGHTS ? V : strip_width(d); }

// sums: null, or where the sums of the outputs go, divided by P Q.
static void band_of_strip(const DepthwiseConv2d& d, const Buffers& b, Rows rows, const Range& range, float* sums) {
  // Rows whose vectors wait in L1 for the activation, of FEW pixels at least; the same for all chunks, for sums depend
  // on it.
  const int64_t Q = max_i(1, d.Q), batch = max_i((FEW + Q - 1) / Q, 256 * LINE / (Q * strip_width(d)));
  const auto lanes = [&](int64_t k) { return (int)min_i(V, d.K - k); };
  for (int64_t k = range.k_begin; sums && k < range.k_end; k += V) set(sums + k, zero(), lanes(k));
  for (int64_t row = range.row_begin; row < range.row_end; row += batch) {
    const int64_t stop = min_i(range.row_end, row + batch), pixels = (stop - row) * d.Q;
    for (int64_t k = range.k_begin; k < range.k_end; k += rows_width(d)) {
      rows(d, b, {row, stop, k, min_i(range.k_end, k + rows_width(d))});
    }
    float* y = b.out + row * d.Q * d.y_ld;
    if (!sums && d.act.func != Func::clip) {
      activate_rows(d.act, y + range.k_begin, d.y_ld, pixels, range.k_end - range.k_begin);
    }
    for (int64_t k = range.k_begin; sums && k < range.k_end; k += V) {
      Vec sum = get(sums + k, lanes(k));
      for (int64_t p = 0; p < pixels; p += 256) {  // sums of sums: those of wide rows keep their precision
        sum = add(sum, activate_and_sum(d.act, y + p * d.y_ld + k, d.y_ld, min_i(256, pixels - p), lanes(k)));
      }
      set(sums + k, sum, lanes(k));
    }
  }
  const Vec share = set1(sums ? 1.0f / (float)(d.P * d.Q) : 0.0f);
  for (int64_t k = range.k_begin; sums && k < range.k_end; k += V) {
    set(sums + k, mul(get(sums + k, lanes(k)), share), lanes(k));
  }
}

// Bands [first, last), all of one image, of the lines [begin, end).
static void compute(const DepthwiseConv2d& d, const Buffers& b, int64_t first, int64_t last, int64_t begin,
                    int64_t end) {
  const int64_t height = d.N * d.P / depthwise_images(d), image = first / d.bands;
  const auto row_of = [&](int64_t band) {
    return image * height + chunk_begin(height, d.bands, band - image * d.bands);
  };
  const int64_t step = d.means ? 1 : last - first;  // each has sums of its own
  const int64_t k_end = min_i(d.K, end * LINE);
  for (int64_t k = begin * LINE; k < k_end; k += strip_width(d)) {
    for (int64_t band = first; band < last; band += step) {
      const Range part = {row_of(band), row_of(band + step), k, min_i(k_end, k + strip_width(d))};
      band_of_strip(d, b, rows_function(d, fetches_next(d, part)), part, d.means ? b.more[0] + band * d.K : nullptr);
    }
  }
}

}  // namespace

// Neighbouring bands of one image, where all lines of each are among the chunks, are computed as one: what a strip read
// last is near.
void depthwise_conv2d(const DepthwiseConv2d& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t lines = (d.K + LINE - 1) / LINE;
  for (int64_t chunk = begin; chunk < end;) {
    const int64_t band = chunk / d.line_chunks, part = chunk % d.line_chunks;
    int64_t bands = part == 0 ? (end - chunk) / d.line_chunks : 0, parts = d.line_chunks;
    if (bands > 0) {
      bands = min_i(bands, d.bands - band % d.bands);
    } else {
      bands = 1, parts = min_i(d.line_chunks - part, end - chunk);
    }
    compute(d, b, band, band + bands, chunk_begin(lines, d.line_chunks, part),
            chunk_begin(lines, d.line_chunks, part + parts));
    chunk += bands * parts;
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
