// Steps of optimizers on plain weights, in place, and what belongs to a step: moving averages, squared norms, dropout.
// Formulas in training_ops.h; constants that depend on the number of the step are computed in double. Chunks are ranges
// of elements.
#include "cpu/math.h"

extern "C" double pow(double, double);

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

// Everything that a formula needs but the elements.
struct Step {
  Vec rate, decay, l2, factor;  // decay: 1 - lr * weight_decay
};

Step step_of(const Optimizer& d, const Buffers& b) {
  const float lr = b.in[1][0];
  return {set1(lr), set1((float)(1.0 - (double)lr * (double)d.weight_decay)), set1(d.l2),
          set1(b.in[2] ? b.in[2][0] : 1.0f)};
}

// Calls f(w, g, m, v) with vectors, which it changes, for elements [first, last); slots that are null are zeros.
template <class F>
void update(const Optimizer& d, const Buffers& b, int64_t begin, int64_t end, const Step& s, const F& f) {
  const int64_t first = chunk_begin(d.n, d.chunks, begin), last = chunk_begin(d.n, d.chunks, end);
  float *w = b.out, *m = b.more[0], *v = b.more[1];
  const float* g = b.in[0];
  for (int64_t i = first; i < last; i += Vec::N) {
    const int n = (int)min_i(Vec::N, last - i);
    const bool whole = n == Vec::N;
    Vec wi = whole ? load(w + i) : load_n(w + i, n), gi = whole ? load(g + i) : load_n(g + i, n);
    Vec mi = m ? (whole ? load(m + i) : load_n(m + i, n)) : zero();
    Vec vi = v ? (whole ? load(v + i) : load_n(v + i, n)) : zero();
    gi = fma(s.l2, wi, mul(gi, s.factor));
    wi = mul(wi, s.decay);
    f(wi, gi, mi, vi);
    if (whole) {
      store(w + i, wi);
      if (m) store(m + i, mi);
      if (v) store(v + i, vi);
    } else {
      store_n(w + i, wi, n);
      if (m) store_n(m + i, mi, n);
      if (v) store_n(v + i, vi, n);
    }
  }
}

enum { BATCH = 256 };

// 0 or 1 / (1 - rate) for elements [at, at + n): a 32-bit integer hash, good in all bits (two rounds of multiply and
// xor-shift), of the element, started by the seed.
void keep_factors(uint32_t seed, int64_t at, int64_t n, uint32_t limit, float factor, float* out) {
  const uint32_t low = (uint32_t)at, high = (uint32_t)(at >> 32);
  const uint32_t start = (seed + 1u) * 0x9e3779b9u ^ high * 0x85ebca6bu;
  for (int64_t i = 0; i < n; i++) {
    uint32_t h = (low + (uint32_t)i) ^ start;
    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    h = ((h ^ h >> 16) + start) * 0x9e3779b1u;
    h ^= h >> 15;
    out[i] = (h >> 8) >= limit ? factor : 0.0f;
  }
}

}  // namespace

void sgd(const Optimizer& d, const Buffers& b, int64_t begin, int64_t end) {
  const Step s = step_of(d, b);
  const Vec momentum = set1(d.momentum);
  if (!b.more[0]) return update(d, b, begin, end, s, [&](Vec& w, Vec g, Vec&, Vec&) { w = sub(w, mul(s.rate, g)); });
  update(d, b, begin, end, s, [&](Vec& w, Vec g, Vec& v, Vec&) {
    const Vec step = mul(s.rate, g);
    v = sub(mul(momentum, v), step);
    w = add(w, d.nesterov ? sub(mul(momentum, v), step) : v);
  });
}

void adam(const Optimizer& d, const Buffers& b, int64_t begin, int64_t end) {
  const Step s = step_of(d, b);
  const double t = (double)b.in[1][1], c1 = 1.0 - pow((double)d.beta1, t), c2 = 1.0 - pow((double)d.beta2, t);
  const double lr = (double)b.in[1][0];
  const Vec rate = set1((float)(d.exact ? lr / c1 : lr * __builtin_sqrt(c2) / c1));
  const Vec correction = set1(d.exact ? (float)(1.0 / __builtin_sqrt(c2)) : 1.0f), epsilon = set1(d.epsilon);
  const Vec b1 = set1((float)(1.0 - (double)d.beta1)), b2 = set1((float)(1.0 - (double)d.beta2));
  update(d, b, begin, end, s, [&](Vec& w, Vec g, Vec& m, Vec& v) {
    m = fma(sub(g, m), b1, m);
    v = fma(sub(mul(g, g), v), b2, v);
    w = sub(w, div(mul(rate, m), fma(sqrt(v), correction, epsilon)));
  });
}

void rmsprop(const Optimizer& d, const Buffers& b, int64_t begin, int64_t end) {
  const Step s = step_of(d, b);
  const Vec rho = set1((float)(1.0 - (double)d.beta2)), epsilon = set1(d.epsilon), momentum = set1(d.momentum);
  const bool slot = b.more[1] != nullptr;
  update(d, b, begin, end, s, [&](Vec& w, Vec g, Vec& v, Vec& moved) {
    v = fma(sub(mul(g, g), v), rho, v);
    Vec step = div(mul(s.rate, g), sqrt(add(v, epsilon)));
    if (slot) step = moved = fma(momentum, moved, step);
    w = sub(w, step);
  });
}

void moving_average(const MovingAverage& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t first = chunk_begin(d.n, d.chunks, begin), last = chunk_begin(d.n, d.chunks, end);
  const float keep = d.momentum, share = (float)((1.0 - (double)d.momentum) * (double)d.scale);
  for (int64_t i = first; i < last; i += Vec::N) {
    const int n = (int)min_i(Vec::N, last - i);
    store_n(b.out + i, fma(load_n(b.in[0] + i, n), set1(share), mul(set1(keep), load_n(b.out + i, n))), n);
  }
}

void squared_norm(const SquaredNorm& d, const Buffers& b, int64_t begin, int64_t end) {
  for (int64_t chunk = begin; chunk < end; chunk++) {
    const int64_t first = chunk_begin(d.n, d.chunks, chunk), last = chunk_begin(d.n, d.chunks, chunk + 1);
    double total = 0;
    for (int64_t i = first; i < last; i += 64 * Vec::N) {
      const int64_t stop = min_i(last, i + 64 * Vec::N);
      Vec part[2] = {zero(), zero()};
      for (int64_t k = i; k < stop; k += Vec::N) {
        const Vec x = load_n(b.in[0] + k, (int)min_i(Vec::N, stop - k));
        Vec& p = part[(k - i) / Vec::N % 2];
        p = fma(x, x, p);
      }
      total += (double)sum(add(part[0], part[1]));
    }
    b.out[chunk] = (float)total;
  }
}

void dropout(const Dropout& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t total = d.rows * d.n, last = chunk_begin(total, d.chunks, end);
  const uint32_t seed = (uint32_t)(int64_t)b.in[1][0];
  const uint32_t limit = (uint32_t)((double)d.rate * 16777216.0 + 0.5);
  const float factor = (float)(1.0 / (1.0 - (double)d.rate));
  float keep[BATCH];
  for (int64_t at = chunk_begin(total, d.chunks, begin); at < last;) {
    const int64_t r = at / d.n, c = at % d.n, n = min_i(min_i(BATCH, d.n - c), last - at);
    const float* x = b.in[0] + r * d.x_ld + c;
    float* y = b.out + r * d.y_ld + c;
    keep_factors(seed, at, n, limit, factor, keep);
    for (int64_t i = 0; i < n; i += Vec::N) {
      const int w = (int)min_i(Vec::N, n - i);
      store_n(y + i, mul(load_n(x + i, w), load_n(keep + i, w)), w);
    }
    at += n;
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
