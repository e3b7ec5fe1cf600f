// Backward passes of normalisations within a sample.
//   layers, groups  with xhat = (x - mean) r, r = 1 / sqrt(variance + epsilon), and h = g scale, over n elements:
//                   dx = r (h - mean h - xhat mean(h xhat)); dscale and dshift sum g xhat and g over samples and rows.
//                   A chunk is a part of the samples, which owns its sums; the statistics are computed anew.
//   lrn             with d = bias + alpha / size * (sum of x^2 around), y = x d^-beta, t = g y / d:
//                   dx = g d^-beta - 2 alpha beta / size * x * (sum of t where this channel is a neighbour)
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

inline Vec get(const float* p, int n) { return n == Vec::N ? load(p) : load_n(p, n); }
inline void put(float* p, Vec a, int n) {
  if (n == Vec::N)
    store(p, a);
  else
    store_n(p, a, n);
}

struct Group {
  const float *g, *x, *scale;
  float *dx, *dscale, *dshift;
};

// The sum of f(vector, channel, lanes) over the elements of a group, rows joined in double; f gives zero in idle lanes.
template <class F>
double sum_over(const NormalizeBackward& d, const F& f) {
  double total = 0;
  for (int64_t r = 0; r < d.rows; r++) {
    for (int64_t c = 0; c < d.width;) {
      Vec part = zero();
      for (const int64_t stop = min_i(d.width, c + 64 * Vec::N); c < stop; c += Vec::N)
        part = add(part, f(r, c, (int)min_i(Vec::N, d.width - c)));
      total += (double)sum(part);
    }
  }
  return total;
}

inline Vec lanes(Vec a, int n) {
  if (n == Vec::N) return a;
  float t[Vec::N];
  store(t, a);
  return load_n(t, n);
}

void group_backward(const NormalizeBackward& d, const Group& p) {
  const double count = (double)d.rows * (double)d.width;
  const auto x_at = [&](int64_t r, int64_t c, int n) { return get(p.x + r * d.x_row + c, n); };
  const auto h_at = [&](int64_t r, int64_t c, int n) {
    const Vec g = get(p.g + r * d.g_row + c, n);
    return p.scale ? mul(g, get(p.scale + c, n)) : g;
  };
  const float mean = (float)(sum_over(d, x_at) / count);
  const Vec m = set1(mean);
  const auto centred = [&](int64_t r, int64_t c, int n) { return lanes(sub(x_at(r, c, n), m), n); };
  const double variance = sum_over(d,
                                   [&](int64_t r, int64_t c, int n) {
                                     const Vec e = centred(r, c, n);
                                     return mul(e, e);
                                   }) /
                          count;
  const double inverse = 1.0 / __builtin_sqrt(variance + (double)d.epsilon);
  const double h_mean = sum_over(d, h_at) / count;
  const double hx_mean =
      sum_over(d, [&](int64_t r, int64_t c, int n) { return mul(h_at(r, c, n), centred(r, c, n)); }) / count * inverse;
  const Vec factor = set1((float)inverse), shift = set1((float)(-inverse * h_mean));
  const Vec slope = set1((float)(-inverse * inverse * hx_mean));
  for (int64_t r = 0; r < d.rows; r++)
    for (int64_t c = 0; c < d.width; c += Vec::N) {
      const int n = (int)min_i(Vec::N, d.width - c);
      const Vec e = sub(x_at(r, c, n), m), g = get(p.g + r * d.g_row + c, n);
      put(p.dx + r * d.dx_row + c, fma(h_at(r, c, n), factor, fma(e, slope, shift)), n);
      put(p.dscale + c, fma(g, mul(e, factor), get(p.dscale + c, n)), n);
      put(p.dshift + c, add(g, get(p.dshift + c, n)), n);
    }
}

inline Vec power(Vec d, float beta) {
  if (beta == 0.75f) {
    const Vec root = sqrt(d);
    return mul(root, sqrt(root));
  }
  if (beta == 0.5f) return sqrt(d);
  if (beta == 1.0f) return d;
  return exp(mul(set1(beta), log(d)));
}

enum { SPAN = 256, HALO = 64, BUFFER = 2048 };

// Channels [c0, c0 + n) of a pixel. square[k] belongs to channel c0 - after - before + k, t[k] to c0 - after + k.
struct Span {
  int64_t c0, n, before, after;
  float *square, *t, *divisor;
};

void write_squares(const LrnBackward& d, const float* x, const Span& s) {
  const int64_t length = s.n + 2 * (s.before + s.after), origin = s.c0 - s.after - s.before;
  const int64_t low = max_i(0, -origin), high = max_i(low, min_i(length, d.C - origin));
  for (int64_t k = 0; k < low; k++) s.square[k] = 0;
  for (int64_t k = low; k < high; k += Vec::N) {
    const Vec v = get(x + origin + k, (int)min_i(Vec::N, high - k));
    store(s.square + k, mul(v, v));
  }
  for (int64_t k = high; k < length + Vec::N; k++) s.square[k] = 0;
}

void write_t(const LrnBackward& d, const float* g, const float* y, const Span& s) {
  const float step = d.alpha / (float)d.size;
  const Vec scale = set1(step), bias = set1(d.bias);
  for (int64_t c = 0; c < s.n; c += Vec::N) {
    const float* square = s.square + s.after + c;
    Vec total = load(square);
    for (int64_t i = 1; i < d.size; i++) total = add(total, load(square + i));
    const Vec divisor = fma(scale, total, bias);
    store(s.divisor + c, divisor);
    const int w = (int)min_i(Vec::N, s.n - c);
    store(s.t + s.after + c, div(mul(get(g + s.c0 + c, w), get(y + s.c0 + c, w)), divisor));
  }
  const auto beside = [&](int64_t first, int64_t last) {  // of other spans, or beyond the channels
    for (int64_t k = first; k < last; k++) {
      const int64_t c = s.c0 - s.after + k;
      float total = 0;
      for (int64_t i = 0; i < d.size; i++) total += s.square[k + i];
      s.t[k] = c >= 0 && c < d.C ? g[c] * y[c] / (step * total + d.bias) : 0;
    }
  };
  beside(0, s.after);
  beside(s.after + s.n, s.after + s.n + s.before);
}

void write_dx(const LrnBackward& d, const float* g, const float* x, float* dx, const Span& s) {
  const Vec slope = set1(-2.0f * d.alpha * d.beta / (float)d.size), one = set1(1.0f);
  for (int64_t c = 0; c < s.n; c += Vec::N) {
    Vec total = load(s.t + c);
    for (int64_t i = 1; i < d.size; i++) total = add(total, load(s.t + c + i));
    const int w = (int)min_i(Vec::N, s.n - c);
    const Vec factor = div(one, power(load(s.divisor + c), d.beta)), at = get(x + s.c0 + c, w);
    put(dx + s.c0 + c, fma(get(g + s.c0 + c, w), factor, mul(slope, mul(at, total))), w);
  }
}

// As many pixels at a time as buffers hold: shifted loads right after the stores that they straddle would stall.
void lrn_pixels(const LrnBackward& d, const Buffers& b, int64_t first, int64_t last) {
  float square[BUFFER], t[BUFFER], divisor[BUFFER];
  for (int64_t i = 0; i < BUFFER; i++) t[i] = 0;  // lanes beyond a span are added, never used
  Span s;
  s.before = (d.size - 1) / 2, s.after = d.size / 2;
  for (s.c0 = 0; s.c0 < d.C; s.c0 += SPAN) {
    s.n = min_i(SPAN, d.C - s.c0);
    const int64_t pitch = s.n + 2 * (s.before + s.after) + 2 * Vec::N, step = BUFFER / pitch;
    for (int64_t r0 = first; r0 < last; r0 += step) {
      const int64_t stop = min_i(last, r0 + step);
      const auto each = [&](const auto& f) {
        for (int64_t r = r0; r < stop; r++) {
          const int64_t at = (r - r0) * pitch;
          s.square = square + at, s.t = t + at, s.divisor = divisor + at;
          f(b.in[0] + r * d.g_ld, b.in[1] + r * d.x_ld, b.in[2] + r * d.y_ld, b.out + r * d.dx_ld);
        }
      };
      each([&](const float*, const float* x, const float*, float*) { write_squares(d, x, s); });
      each([&](const float* g, const float*, const float* y, float*) { write_t(d, g, y, s); });
      each([&](const float* g, const float* x, const float*, float* dx) { write_dx(d, g, x, dx, s); });
    }
  }
}

// Neighbourhoods that no buffer holds: sums of doubles, channel by channel.
void lrn_wide(const LrnBackward& d, const float* g, const float* x, const float* y, float* dx) {
  const int64_t before = (d.size - 1) / 2, after = d.size / 2;
  const auto divisor = [&](int64_t c) {
    double total = 0;
    for (int64_t k = max_i(0, c - before); k < min_i(d.C, c + after + 1); k++) total += (double)x[k] * (double)x[k];
    return (float)((double)d.bias + (double)d.alpha / (double)d.size * total);
  };
  for (int64_t c = 0; c < d.C; c++) {
    double total = 0;
    for (int64_t k = max_i(0, c - after); k < min_i(d.C, c + before + 1); k++)
      total += (double)g[k] * (double)y[k] / (double)divisor(k);
    float factor[Vec::N];
    store(factor, div(set1(1.0f), power(set1(divisor(c)), d.beta)));
    dx[c] = g[c] * factor[0] - (float)(2.0 * (double)d.alpha * (double)d.beta / (double)d.size * (double)x[c] * total);
  }
}

}  // namespace

void normalize_backward(const NormalizeBackward& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t channels = d.groups * d.width;
  for (int64_t part = begin; part < end; part++) {
    float *dscale = b.more[0] + part * 2 * channels, *dshift = dscale + channels;
    for (int64_t c = 0; c < 2 * channels; c++) dscale[c] = 0;
    const int64_t last = chunk_begin(d.outer, d.chunks, part + 1);
    for (int64_t o = chunk_begin(d.outer, d.chunks, part); o < last; o++)
      for (int64_t g = 0; g < d.groups; g++) {
        const int64_t c = g * d.width;
        group_backward(d, {b.in[0] + o * d.g_outer + c, b.in[1] + o * d.x_outer + c, b.in[2] ? b.in[2] + c : nullptr,
                           b.out + o * d.dx_outer + c, dscale + c, dshift + c});
      }
  }
}

void lrn_backward(const LrnBackward& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t first = chunk_begin(d.rows, d.chunks, begin), last = chunk_begin(d.rows, d.chunks, end);
  if (d.size <= HALO) return lrn_pixels(d, b, first, last);
  for (int64_t r = first; r < last; r++)
    lrn_wide(d, b.in[0] + r * d.g_ld, b.in[1] + r * d.x_ld, b.in[2] + r * d.y_ld, b.out + r * d.dx_ld);
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
