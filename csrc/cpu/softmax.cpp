// Softmax over j of x[o, j, i]: exp(x - max) / sum, or x - max - log(sum). Three passes over data that fits in cache.
// Chunks are ranges of (o, blocks of 16 i). A row that holds NaN or +inf, or only -inf, gives NaN.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

// inner == 1 and contiguous j: vectors over j.
void row(const float* x, float* y, int64_t n, bool logarithm) {
  const Vec lowest = set1(-__builtin_inff());
  const int64_t whole = n - n % Vec::N;
  const int rest = (int)(n - whole);
  Vec top = lowest;
  for (int64_t j = 0; j < whole; j += Vec::N) top = max(load(x + j), top);
  float m = max_lane(top);
  for (int64_t j = whole; j < n; j++) m = x[j] > m ? x[j] : m;
  const Vec vm = set1(m);

  Vec total = zero();
  float tail_total = 0;
  for (int64_t j = 0; j < whole; j += Vec::N) {
    Vec e = exp(sub(load(x + j), vm));
    if (!logarithm) store(y + j, e);
    total = add(total, e);
  }
  if (rest) {
    float e[Vec::N];
    store(e, exp(sub(load_n(x + whole, rest), vm)));
    for (int j = 0; j < rest; j++) tail_total += e[j];
    if (!logarithm) store_n(y + whole, load(e), rest);
  }
  const Vec s = set1(sum(total) + tail_total);
  if (logarithm) {
    const Vec shift = log(s);
    for (int64_t j = 0; j < whole; j += Vec::N) store(y + j, sub(sub(load(x + j), vm), shift));
    if (rest) store_n(y + whole, sub(sub(load_n(x + whole, rest), vm), shift), rest);
  } else {
    const Vec inverse = div(set1(1.0f), s);
    for (int64_t j = 0; j < whole; j += Vec::N) store(y + j, mul(load(y + j), inverse));
    if (rest) store_n(y + whole, mul(load_n(y + whole, rest), inverse), rest);
  }
}

// `width` neighbouring i at once.
template <bool tail>
inline void columns(const Softmax& d, const float* x, float* y, int width) {
  Vec top = set1(-__builtin_inff()), total = zero();
  for (int64_t j = 0; j < d.n; j++) top = max(tail ? load_n(x + j * d.x_n, width) : load(x + j * d.x_n), top);
  for (int64_t j = 0; j < d.n; j++) {
    const float* p = x + j * d.x_n;
    Vec e = exp(sub(tail ? load_n(p, width) : load(p), top));
    total = add(total, e);
    if (d.log) continue;
    if (tail)
      store_n(y + j * d.y_n, e, width);
    else
      store(y + j * d.y_n, e);
  }
  const Vec last = d.log ? log(total) : div(set1(1.0f), total);
  for (int64_t j = 0; j < d.n; j++) {
    const float* p = x + j * d.x_n;
    float* q = y + j * d.y_n;
    Vec r =
        d.log ? sub(sub(tail ? load_n(p, width) : load(p), top), last) : mul(tail ? load_n(q, width) : load(q), last);
    if (tail)
      store_n(q, r, width);
    else
      store(q, r);
  }
}

}  // namespace

void softmax(const Softmax& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t blocks = (d.inner + 15) / 16, items = d.outer * blocks;
  const int64_t last = chunk_begin(items, d.chunks, end);
  for (int64_t at = chunk_begin(items, d.chunks, begin); at < last; at++) {
    const int64_t o = at / blocks, i0 = at % blocks * 16, i1 = min_i(d.inner, i0 + 16);
    const float* x = b.in[0] + o * d.x_outer;
    float* y = b.out + o * d.y_outer;
    if (d.inner == 1 && d.x_n == 1 && d.y_n == 1) {
      row(x, y, d.n, d.log != 0);
      continue;
    }
    int64_t i = i0;
    for (; i + Vec::N <= i1; i += Vec::N) columns<false>(d, x + i, y + i, Vec::N);
    if (i < i1) columns<true>(d, x + i, y + i, (int)(i1 - i));
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
