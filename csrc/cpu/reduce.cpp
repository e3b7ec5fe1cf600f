// y[o, i] = f over j of x[o, j, i]. Chunks are ranges of (o, blocks of 16 i).
// inner > 1 (a mean over pixels): vectors over i, eight accumulators, so that each j reads up to 8 vectors in a row.
// inner == 1 with contiguous j: vectors over j. Sums run in blocks of 64 that are joined with what rounding lost, so
// that the error of a 112 x 112 mean stays near one rounding. NaN propagates through max, too.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { BLOCK = 64 };

inline Vec nan_max(Vec total, Vec x) {  // max returns its second operand where either is NaN
  Vec t = min(set1(1.0f), abs(total));
  return add(max(total, x), sub(t, t));
}

// join_block also collects in `lost` what the addition rounds away (Kahan, once per block).
struct SumOf {
  static Vec first() { return zero(); }
  static Vec join(Vec total, Vec x) { return add(total, x); }
  static Vec join_block(Vec total, Vec x, Vec* lost) {
    const Vec y = add(x, *lost), t = add(total, y), rest = sub(y, sub(t, total));
    *lost = if_less(abs(rest), set1(__builtin_inff()), rest, zero());  // NaN where t is infinite
    return t;
  }
};
struct MaxOf {
  static Vec first() { return set1(-__builtin_inff()); }
  static Vec join(Vec total, Vec x) { return nan_max(total, x); }
  static Vec join_block(Vec total, Vec x, Vec*) { return nan_max(total, x); }
};

struct MinOf {
  static Vec first() { return set1(__builtin_inff()); }
  static Vec join(Vec total, Vec x) {
    Vec t = min(set1(1.0f), abs(total));
    return add(min(total, x), sub(t, t));
  }
  static Vec join_block(Vec total, Vec x, Vec*) { return join(total, x); }
};

// NV vectors of neighbouring i.
template <int NV, bool tail, class F>
inline void columns(const float* x, int64_t n, int64_t step, float* y, Vec scale, int width) {
  Vec total[NV], lost[NV];
  for (int v = 0; v < NV; v++) {
    total[v] = F::first();
    lost[v] = zero();
  }
  for (int64_t j = 0; j < n;) {
    const int64_t stop = min_i(n, j + BLOCK);
    Vec part[NV];
    for (int v = 0; v < NV; v++) part[v] = F::first();
    for (; j < stop; j++)
      for (int v = 0; v < NV; v++)
        part[v] = F::join(part[v], tail ? load_n(x + j * step, width) : load(x + j * step + v * Vec::N));
    for (int v = 0; v < NV; v++) total[v] = F::join_block(total[v], part[v], &lost[v]);
  }
  for (int v = 0; v < NV; v++) {
    if (tail)
      store_n(y, mul(total[v], scale), width);
    else
      store(y + v * Vec::N, mul(total[v], scale));
  }
}

template <class F>
void reduce_columns(const float* x, int64_t n, int64_t step, float* y, float scale, int64_t width) {
  const Vec s = set1(scale);
  int64_t i = 0;
  for (; i + 8 * Vec::N <= width; i += 8 * Vec::N) columns<8, false, F>(x + i, n, step, y + i, s, 0);
  for (; i + 2 * Vec::N <= width; i += 2 * Vec::N) columns<2, false, F>(x + i, n, step, y + i, s, 0);
  for (; i + Vec::N <= width; i += Vec::N) columns<1, false, F>(x + i, n, step, y + i, s, 0);
  if (i < width) columns<1, true, F>(x + i, n, step, y + i, s, (int)(width - i));
}

// Four accumulators over one block of contiguous elements.
template <class F>
inline Vec contiguous(const float* x, int64_t n) {
  Vec t[4] = {F::first(), F::first(), F::first(), F::first()};
  int64_t j = 0;
  for (; j + 4 * Vec::N <= n; j += 4 * Vec::N)
    for (int v = 0; v < 4; v++) t[v] = F::join(t[v], load(x + j + v * Vec::N));
  for (; j + Vec::N <= n; j += Vec::N) t[0] = F::join(t[0], load(x + j));
  Vec r = F::join(F::join(t[0], t[1]), F::join(t[2], t[3]));
  if (j < n) {
    float rest[Vec::N];
    store(rest, F::first());
    for (int64_t k = j; k < n; k++) rest[k - j] = x[k];
    r = F::join(r, load(rest));
  }
  return r;
}

float reduce_row(const float* x, int64_t n, ReduceFunc func) {
  if (func == ReduceFunc::max || func == ReduceFunc::min) {
    const bool largest = func == ReduceFunc::max;
    float lanes[Vec::N];
    store(lanes, largest ? contiguous<MaxOf>(x, n) : contiguous<MinOf>(x, n));
    float m = lanes[0];
    for (int i = 1; i < Vec::N; i++) m = (largest ? lanes[i] > m : lanes[i] < m) || lanes[i] != lanes[i] ? lanes[i] : m;
    return m;
  }
  double total = 0;
  for (int64_t j = 0; j < n; j += BLOCK * Vec::N)
    total += (double)sum(contiguous<SumOf>(x + j, min_i(n - j, BLOCK * Vec::N)));
  return (float)(func == ReduceFunc::mean ? total / (double)n : total);
}

// Which j has the extreme x[j]: the first of equal ones, or the last. NaN never wins against a number.
float arg_row(const float* x, int64_t n, int64_t step, ReduceFunc func) {
  const bool largest = func == ReduceFunc::arg_max || func == ReduceFunc::last_arg_max;
  const bool last = func == ReduceFunc::last_arg_max || func == ReduceFunc::last_arg_min;
  int64_t at = 0;
  float best = largest ? -__builtin_inff() : __builtin_inff();
  for (int64_t j = 0; j < n; j++) {
    const float v = x[j * step];
    if ((largest ? v > best : v < best) || (last && v == best)) {
      best = v;
      at = j;
    }
  }
  return (float)at;
}

// The same for neighbouring i, vectors at a time.
void arg_columns(const float* x, int64_t n, int64_t step, float* y, ReduceFunc func, int64_t width) {
  const bool largest = func == ReduceFunc::arg_max || func == ReduceFunc::last_arg_max;
  const bool last = func == ReduceFunc::last_arg_max || func == ReduceFunc::last_arg_min;
  const Vec inf = set1(__builtin_inff()), sign = set1(largest ? 1.0f : -1.0f);
  for (int64_t i = 0; i < width; i += Vec::N) {
    const int w = (int)min_i(Vec::N, width - i);
    Vec best = sub(zero(), inf), at = zero();
    for (int64_t j = 0; j < n; j++) {
      Vec v = mul(sign, load_n(x + j * step + i, w));
      const Vec here = set1((float)j);
      at = last ? if_less(v, best, at, if_less(v, inf, here, if_less(sub(zero(), inf), v, here, at)))
                : if_less(best, v, here, at);
      best = if_less(best, v, v, best);
    }
    store_n(y + i, at, w);
  }
}

}  // namespace

void reduce(const Reduce& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t blocks = (d.inner + 15) / 16, items = d.outer * blocks;
  const int64_t last = chunk_begin(items, d.chunks, end);
  const float scale = d.func == ReduceFunc::mean ? 1.0f / (float)d.n : 1.0f;
  for (int64_t at = chunk_begin(items, d.chunks, begin); at < last;) {
    const int64_t o = at / blocks, i0 = at % blocks * 16;
    const int64_t stop = min_i(last, (o + 1) * blocks), i1 = min_i(d.inner, (stop - o * blocks) * 16);
    const float* x = b.in[0] + o * d.x_outer + i0;
    float* y = b.out + o * d.y_outer + i0;
    if (d.func >= ReduceFunc::arg_max) {
      if (d.inner == 1)
        *y = arg_row(x, d.n, d.x_n, d.func);
      else
        arg_columns(x, d.n, d.x_n, y, d.func, i1 - i0);
    } else if (d.inner == 1 && (d.x_n == 1 || d.n == 1))
      *y = reduce_row(x, d.n, d.func);
    else if (d.func == ReduceFunc::max)
      reduce_columns<MaxOf>(x, d.n, d.x_n, y, 1.0f, i1 - i0);
    else if (d.func == ReduceFunc::min)
      reduce_columns<MinOf>(x, d.n, d.x_n, y, 1.0f, i1 - i0);
    else
      reduce_columns<SumOf>(x, d.n, d.x_n, y, scale, i1 - i0);
    at = stop;
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
