// Steps of optimizers on plain weights, in place, and what belongs to a step: moving averages, squared norms, dropout.
// The formulas are those of the update nodes in fastconv/graph.py. Chunks are ranges of elements.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

// Calls f(w, g, a, b, c) with vectors, which it changes, for the elements of a chunk: w, g, and `slots` slots.
template <int slots, class F>
void update(const Optimizer& d, const Buffers& b, int64_t begin, int64_t end, float decay, const F& f) {
  const int64_t first = chunk_begin(d.n, d.chunks, begin), last = chunk_begin(d.n, d.chunks, end);
  const Vec factor = set1(b.in[2] ? b.in[2][0] : 1.0f), shrink = set1(d.decays ? decay : 0.0f);
  for (int64_t i = first; i < last; i += Vec::N) {
    const int n = (int)min_i(Vec::N, last - i);
    const bool whole = n == Vec::N;
    Vec w = whole ? load(b.out + i) : load_n(b.out + i, n), g = whole ? load(b.in[0] + i) : load_n(b.in[0] + i, n);
    Vec s[3];
    for (int k = 0; k < slots; k++) {
      const float* p = b.more[0] + k * d.n + i;
      s[k] = whole ? load(p) : load_n(p, n);
    }
    w = sub(w, mul(w, shrink));
    f(w, mul(g, factor), s);
    for (int k = 0; k < slots; k++) {
      float* p = b.more[0] + k * d.n + i;
      if (whole)
        store(p, s[k]);
      else
        store_n(p, s[k], n);
    }
    if (whole)
      store(b.out + i, w);
    else
      store_n(b.out + i, w, n);
  }
}

enum { BATCH = 256 };

// 0 or 1 / (1 - rate) for elements [at, at + n): a 32-bit integer hash, good in all bits (two rounds of multiply and
// xor-shift), of the element, started by the seed.
// Whole vectors: up to Vec::N - 1 factors more.
void keep_factors(uint32_t seed, int64_t at, int64_t n, uint32_t limit, float factor, float* out) {
  const uint32_t low = (uint32_t)at, high = (uint32_t)(at >> 32);
  const uint32_t start = (seed + 1u) * 0x9e3779b9u ^ high * 0x85ebca6bu;
  n = (n + Vec::N - 1) / Vec::N * Vec::N;
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

// hyper: rate, momentum, nesterov, decay
void sgd(const Optimizer& d, const Buffers& b, int64_t begin, int64_t end) {
  const float* h = b.in[1];
  const Vec rate = set1(h[0]), momentum = set1(h[1]);
  if (!d.momentum)
    return update<0>(d, b, begin, end, h[3], [&](Vec& w, Vec g, Vec(&)[3]) { w = sub(w, mul(rate, g)); });
  const bool nesterov = h[2] != 0;
  update<1>(d, b, begin, end, h[3], [&](Vec& w, Vec g, Vec(&s)[3]) {
    const Vec step = mul(rate, g);
    s[0] = sub(mul(momentum, s[0]), step);
    w = add(w, nesterov ? sub(mul(momentum, s[0]), step) : s[0]);
  });
}

// hyper: rate, 1 - beta1, 1 - beta2, epsilon, decay
void adam(const Optimizer& d, const Buffers& b, int64_t begin, int64_t end) {
  const float* h = b.in[1];
  const Vec rate = set1(h[0]), b1 = set1(h[1]), b2 = set1(h[2]), epsilon = set1(h[3]);
  update<2>(d, b, begin, end, h[4], [&](Vec& w, Vec g, Vec(&s)[3]) {
    s[0] = fma(sub(g, s[0]), b1, s[0]);
    s[1] = fma(sub(mul(g, g), s[1]), b2, s[1]);
    w = sub(w, div(mul(rate, s[0]), add(sqrt(s[1]), epsilon)));
  });
}

template <bool momentum, bool centered>
static void rmsprop_step(const Optimizer& d, const Buffers& b, int64_t begin, int64_t end) {
  const float* h = b.in[1];
  const Vec rate = set1(h[0]), rho = set1(h[1]), epsilon = set1(h[2]), keep = set1(h[3]);
  update<1 + momentum + centered>(d, b, begin, end, h[4], [&](Vec& w, Vec g, Vec(&s)[3]) {
    s[0] = fma(sub(mul(g, g), s[0]), rho, s[0]);
    Vec spread = s[0];
    if (centered) {
      Vec& mean = s[momentum ? 2 : 1];
      mean = fma(sub(g, mean), rho, mean);
      spread = sub(spread, mul(mean, mean));
    }
    Vec step = div(mul(rate, g), sqrt(add(spread, epsilon)));
    if (momentum) step = s[1] = fma(keep, s[1], step);
    w = sub(w, step);
  });
}

// hyper: rate, 1 - rho, epsilon, momentum, decay
void rmsprop(const Optimizer& d, const Buffers& b, int64_t begin, int64_t end) {
  if (d.momentum && d.centered) return rmsprop_step<true, true>(d, b, begin, end);
  if (d.momentum) return rmsprop_step<true, false>(d, b, begin, end);
  if (d.centered) return rmsprop_step<false, true>(d, b, begin, end);
  rmsprop_step<false, false>(d, b, begin, end);
}

void moving_average(const MovingAverage& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t first = chunk_begin(d.n, d.chunks, begin), last = chunk_begin(d.n, d.chunks, end);
  const float keep = d.momentum, share = (float)(1.0 - (double)d.momentum);
  const auto mix = [&](Vec x, Vec state) { return fma(x, set1(share), mul(set1(keep), state)); };
  int64_t i = first;
  for (; i + Vec::N <= last; i += Vec::N) store(b.out + i, mix(load(b.in[0] + i), load(b.out + i)));
  if (i < last) {
    const int n = (int)(last - i);
    store_n(b.out + i, mix(load_n(b.in[0] + i, n), load_n(b.out + i, n)), n);
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
  float keep[BATCH + Vec::N];
  for (int64_t at = chunk_begin(total, d.chunks, begin); at < last;) {
    const int64_t r = at / d.n, c = at % d.n, n = min_i(min_i(BATCH, d.n - c), last - at);
    const float* x = b.in[0] + r * d.x_ld + c;
    float* y = b.out + r * d.y_ld + c;
    keep_factors(seed, at, n, limit, factor, keep);
    int64_t i = 0;
    for (; i + Vec::N <= n; i += Vec::N) store(y + i, mul(load(x + i), load(keep + i)));
    if (i < n) {
      const int w = (int)(n - i);
      store_n(y + i, mul(load_n(x + i, w), load(keep + i)), w);
    }
    at += n;
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
