// dw[k,r,s] = sum over pixels of g[pixel,k] x[pixel + tap,k / multiplier]: the vector runs over channels, up to nine
// taps have their sums in registers; where a 3x3 window lies in the image, each pixel of g is read once for all nine. A
// chunk is a part of the rows of g and a slice of 64 channels; its sums are its own, [slice][tap][columns], as those of
// conv2d_backward_weight.cpp with one channel, and conv2d_backward_weight_sum joins them. The rows of a part are summed
// in blocks of eight.
#include "cpu/gemm.h"
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { SLICE = 64, TAPS = 9, ROWS_AT_ONCE = 8 };

inline Vec get(const float* p, int n) { return n == Vec::N ? load(p) : load_n(p, n); }

struct Lane {
  const float *x, *g;  // first pixel of their images, channels of this vector
  int64_t k;           // first channel of g
  int n;               // lanes in use
};

// Lane i is channel (k + i) / multiplier of x.
inline Vec spread(const Conv2dBackwardWeight& d, const float* pixel, const Lane& lane) {
  float t[Vec::N];
  for (int i = 0; i < Vec::N; i++) t[i] = i < lane.n ? pixel[(lane.k + i) / (d.K / d.C)] : 0.0f;
  return load(t);
}

struct Range {
  int64_t first, last;
};

// Adds columns `columns` of row p of image n to the sums of taps [first, first + count).
template <bool plain>
void add_row(const Conv2dBackwardWeight& d, const Lane& lane, int64_t n, int64_t p, Range columns, int64_t first,
             int64_t count, Vec (&acc)[TAPS]) {
  const float *image = lane.x + n * d.x_image, *g = lane.g + (n * d.P + p) * d.Q * d.g_ld;
  for (int64_t i = 0; i < count; i++) {
    const int64_t tap = first + i, h = p * d.stride_h + tap / d.S * d.dilation_h - d.pad_t;
    if ((uint64_t)h >= (uint64_t)d.H) continue;
    const int64_t dw = tap % d.S * d.dilation_w - d.pad_l;
    const int64_t begin = dw < 0 ? (-dw + d.stride_w - 1) / d.stride_w : 0;
    const int64_t end = dw < d.W ? (d.W - 1 - dw) / d.stride_w + 1 : 0;
    const int64_t q0 = max_i(columns.first, begin), q1 = min_i(columns.last, end);
    const float* x = image + h * d.x_row + dw * d.x_ld;
    Vec total = acc[i], other = zero();
    int64_t q = q0;
    for (; q + 1 < q1; q += 2) {
      const float *a = x + q * d.stride_w * d.x_ld, *c = a + d.stride_w * d.x_ld;
      total = fma(get(g + q * d.g_ld, lane.n), plain ? get(a, lane.n) : spread(d, a, lane), total);
      other = fma(get(g + (q + 1) * d.g_ld, lane.n), plain ? get(c, lane.n) : spread(d, c, lane), other);
    }
    if (q < q1) {
      const float* a = x + q * d.stride_w * d.x_ld;
      total = fma(get(g + q * d.g_ld, lane.n), plain ? get(a, lane.n) : spread(d, a, lane), total);
    }
    acc[i] = add(total, other);
  }
}

// The same for nine taps, where a whole vector of channels and all three filter rows lie in the image: columns whose
// windows do too take every pixel of g once, for nine independent sums.
void add_row_3x3(const Conv2dBackwardWeight& d, const Lane& lane, int64_t n, int64_t p, Vec (&acc)[TAPS]) {
  const int64_t inside = min_i(d.Q, (d.pad_l + d.stride_w - 1) / d.stride_w);
  const int64_t space = d.W - 1 - 2 * d.dilation_w + d.pad_l;
  const int64_t outside = space < 0 ? inside : max_i(inside, min_i(d.Q, space / d.stride_w + 1));
  add_row<true>(d, lane, n, p, {0, inside}, 0, TAPS, acc);
  add_row<true>(d, lane, n, p, {outside, d.Q}, 0, TAPS, acc);
  const int64_t row = d.dilation_h * d.x_row, column = d.dilation_w * d.x_ld, step = d.stride_w * d.x_ld;
  const float* x =
      lane.x + n * d.x_image + (p * d.stride_h - d.pad_t) * d.x_row + (inside * d.stride_w - d.pad_l) * d.x_ld;
  const float* g = lane.g + ((n * d.P + p) * d.Q + inside) * d.g_ld;
  Vec sums[TAPS];
#pragma GCC unroll 9
  for (int i = 0; i < TAPS; i++) sums[i] = acc[i];
  for (int64_t q = inside; q < outside; q++, x += step, g += d.g_ld) {
    const Vec v = load(g);
#pragma GCC unroll 9
    for (int i = 0; i < TAPS; i++) sums[i] = fma(v, load(x + i / 3 * row + i % 3 * column), sums[i]);
  }
#pragma GCC unroll 9
  for (int i = 0; i < TAPS; i++) acc[i] = sums[i];
}

}  // namespace

void depthwise_backward_weight(const Conv2dBackwardWeight& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t taps = d.R * d.S, slices = (d.K + SLICE - 1) / SLICE, rows = d.N * d.P;
  const int64_t padded = (d.K + Vec::N - 1) / Vec::N * Vec::N;
  const bool plain = d.K == d.C;
  for (int64_t chunk = begin; chunk < end; chunk++) {
    const int64_t slice = chunk % slices, part = chunk / slices, k0 = slice * SLICE;
    const int64_t columns = min_i(SLICE, d.K - k0), width = (columns + Vec::N - 1) / Vec::N * Vec::N;
    float* sums = b.out + part * taps * padded + k0 * taps;
    for (int64_t i = 0; i < taps * width; i++) sums[i] = 0;
    const int64_t last = chunk_begin(rows, d.parts, part + 1);
    for (int64_t r0 = chunk_begin(rows, d.parts, part); r0 < last; r0 += ROWS_AT_ONCE) {
      const int64_t r1 = min_i(last, r0 + ROWS_AT_ONCE);
      for (int64_t k = 0; k < columns; k += Vec::N) {
        const Lane lane = {plain ? b.in[0] + k0 + k : b.in[0], b.in[1] + k0 + k, k0 + k,
                           (int)min_i(Vec::N, columns - k)};
        for (int64_t tap = 0; tap < taps; tap += TAPS) {
          const int64_t count = min_i(TAPS, taps - tap);
          Vec acc[TAPS];
          for (int i = 0; i < TAPS; i++) acc[i] = zero();
          for (int64_t r = r0; r < r1; r++) {
            const int64_t n = r / d.P, p = r % d.P, top = p * d.stride_h - d.pad_t;
            const bool rows_inside = top >= 0 && top + 2 * d.dilation_h < d.H;
            if (plain && d.R == 3 && d.S == 3 && lane.n == Vec::N && rows_inside)
              add_row_3x3(d, lane, n, p, acc);
            else if (plain)
              add_row<true>(d, lane, n, p, {0, d.Q}, tap, count, acc);
            else
              add_row<false>(d, lane, n, p, {0, d.Q}, tap, count, acc);
          }
          for (int64_t i = 0; i < count; i++) {
            float* y = sums + (tap + i) * width + k;
            store(y, add(load(y), acc[i]));
          }
        }
      }
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
