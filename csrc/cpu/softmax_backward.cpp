// Backward passes of softmax over j of [o, j, i]:   softmax: dx = y (g - sum g y)   log: dx = g - exp(y) sum g
// and cross-entropy on logits, whose gradient is simple where those of logarithm and softmax alone are not:
//   loss[m] = (sum of t) log(sum of exp(x - max)) - sum of t (x - max),   dx = g[m] ((sum of t) softmax(x) - t)
// with t = (1 - smoothing) target + smoothing / K. Chunks are ranges of (o, blocks of 16 i), or of rows m.
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

// inner == 1 and contiguous j.
void row(const float* g, const float* y, float* x, int64_t n, bool logarithm) {
  Vec total = zero();
  for (int64_t j = 0; j < n; j += Vec::N) {
    const int w = (int)min_i(Vec::N, n - j);
    total = logarithm ? add(total, get(g + j, w)) : fma(get(g + j, w), get(y + j, w), total);
  }
  const Vec s = set1(sum(total));
  for (int64_t j = 0; j < n; j += Vec::N) {
    const int w = (int)min_i(Vec::N, n - j);
    const Vec gj = get(g + j, w), yj = get(y + j, w);
    put(x + j, logarithm ? sub(gj, mul(exp(yj), s)) : mul(yj, sub(gj, s)), w);
  }
}

void columns(const SoftmaxBackward& d, const float* g, const float* y, float* x, int w) {
  Vec total = zero();
  for (int64_t j = 0; j < d.n; j++) {
    const Vec gj = get(g + j * d.g_n, w);
    total = d.log ? add(total, gj) : fma(gj, get(y + j * d.y_n, w), total);
  }
  for (int64_t j = 0; j < d.n; j++) {
    const Vec gj = get(g + j * d.g_n, w), yj = get(y + j * d.y_n, w);
    put(x + j * d.x_n, d.log ? sub(gj, mul(exp(yj), total)) : mul(yj, sub(gj, total)), w);
  }
}

// Target t of class k from on; `hot` is the class of a one-hot target.
struct Target {
  const float* values;  // or null
  int64_t hot;
  float keep, share;  // 1 - smoothing, smoothing / K
  float at(int64_t k) const { return share + (values ? keep * values[k] : k == hot ? keep : 0.0f); }
};

Target target_of(const SoftmaxCrossEntropy& d, const float* targets, int64_t m) {
  Target t = {nullptr, -1, 1.0f - d.smoothing, d.smoothing / (float)d.K};
  if (!d.one_hot) {
    t.values = targets + m * d.t_ld;
    return t;
  }
  const float c = targets[m];
  t.hot = c >= (float)(d.K - 1) ? d.K - 1 : c > 0.0f ? (int64_t)c : 0;
  return t;
}

struct Row {
  float top, total;  // the maximum, and the sum of exp(x - top)
};

Row summary(const float* x, int64_t n) {
  Vec top = set1(-__builtin_inff());
  const int64_t whole = n - n % Vec::N;
  for (int64_t j = 0; j < whole; j += Vec::N) top = max(load(x + j), top);
  Row r = {max_lane(top), 0};
  for (int64_t j = whole; j < n; j++) r.top = x[j] > r.top ? x[j] : r.top;
  const Vec m = set1(r.top);
  Vec total = zero();
  for (int64_t j = 0; j < whole; j += Vec::N) total = add(total, exp(sub(load(x + j), m)));
  r.total = sum(total);
  if (whole < n) {
    float e[Vec::N];
    store(e, exp(sub(load_n(x + whole, (int)(n - whole)), m)));
    for (int64_t j = whole; j < n; j++) r.total += e[j - whole];
  }
  return r;
}

}  // namespace

void softmax_backward(const SoftmaxBackward& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t blocks = (d.inner + 15) / 16, items = d.outer * blocks;
  const int64_t last = chunk_begin(items, d.chunks, end);
  for (int64_t at = chunk_begin(items, d.chunks, begin); at < last; at++) {
    const int64_t o = at / blocks, i0 = at % blocks * 16, i1 = min_i(d.inner, i0 + 16);
    const float *g = b.in[0] + o * d.g_outer, *y = b.in[1] + o * d.y_outer;
    float* x = b.out + o * d.x_outer;
    if (d.inner == 1 && d.g_n == 1 && d.y_n == 1 && d.x_n == 1) {
      row(g, y, x, d.n, d.log != 0);
      continue;
    }
    for (int64_t i = i0; i < i1; i += Vec::N) columns(d, g + i, y + i, x + i, (int)min_i(Vec::N, i1 - i));
  }
}

void softmax_cross_entropy(const SoftmaxCrossEntropy& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t last = chunk_begin(d.M, d.chunks, end);
  for (int64_t m = chunk_begin(d.M, d.chunks, begin); m < last; m++) {
    const float* x = b.in[0] + m * d.x_ld;
    const Target t = target_of(d, b.in[1], m);
    const Row r = summary(x, d.K);
    float lanes[Vec::N];
    store(lanes, log(set1(r.total)));
    double sum_t = 0, sum_tx = 0;
    if (!t.values && t.share == 0) {
      sum_t = 1;
      sum_tx = (double)x[t.hot] - r.top;
    } else {
      for (int64_t k = 0; k < d.K; k++) {
        const double tk = (double)t.at(k);
        sum_t += tk;
        if (tk != 0) sum_tx += tk * ((double)x[k] - r.top);
      }
    }
    b.out[m] = (float)(sum_t * (double)lanes[0] - sum_tx);
  }
}

void softmax_cross_entropy_backward(const SoftmaxCrossEntropy& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t last = chunk_begin(d.M, d.chunks, end);
  for (int64_t m = chunk_begin(d.M, d.chunks, begin); m < last; m++) {
    const float *x = b.in[1] + m * d.x_ld, g = b.in[0][m];
    float* dx = b.out + m * d.dx_ld;
    const Target t = target_of(d, b.in[2], m);
    const Row r = summary(x, d.K);
    double sum_t = 1;
    if (t.values) {
      sum_t = 0;
      for (int64_t k = 0; k < d.K; k++) sum_t += (double)t.at(k);
    }
    const Vec top = set1(r.top), factor = set1((float)(sum_t / (double)r.total)), gm = set1(g), share = set1(t.share);
    for (int64_t k = 0; k < d.K; k += Vec::N) {
      const int w = (int)min_i(Vec::N, d.K - k);
      Vec tk = share;
      if (t.values) tk = fma(set1(t.keep), get(t.values + k, w), share);
      put(dx + k, mul(gm, fma(factor, exp(sub(get(x + k, w), top)), sub(zero(), tk))), w);
    }
    if (!t.values) dx[t.hot] -= g * t.keep;
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
