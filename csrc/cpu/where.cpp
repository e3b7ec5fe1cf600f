// y = condition ? a : b with broadcasting. Chunks are ranges of the flat index of y, run by run of the innermost
// dimension: on vectors where condition and y are contiguous along it, else element by element.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

template <int SA, int SB>
void choose(const float* c, const float* a, const float* b, float* y, int64_t n) {
  const Vec va = set1(*a), vb = set1(*b);
  int64_t i = 0;
  for (; i + Vec::N <= n; i += Vec::N)
    store(y + i, if_less(zero(), abs(load(c + i)), SA ? load(a + i) : va, SB ? load(b + i) : vb));
  for (; i < n; i++) y[i] = c[i] != 0 ? a[SA ? i : 0] : b[SB ? i : 0];
}

}  // namespace

void where(const Where& d, const Buffers& buffers, int64_t begin, int64_t end) {
  const int64_t last = d.rank - 1, n = last >= 0 ? d.dims[last] : 1;
  const int64_t cs = last >= 0 ? d.c_stride[last] : 0, as = last >= 0 ? d.a_stride[last] : 0;
  const int64_t bs = last >= 0 ? d.b_stride[last] : 0, ys = last >= 0 ? d.y_stride[last] : 0;
  int64_t total = n;
  for (int64_t i = 0; i < last; i++) total *= d.dims[i];
  const int64_t stop = chunk_begin(total, d.chunks, end);
  for (int64_t at = chunk_begin(total, d.chunks, begin); at < stop;) {
    const int64_t column = at % n, count = min_i(n - column, stop - at);
    const float* c = buffers.in[0] + column * cs;
    const float* a = buffers.in[1] + column * as;
    const float* b = buffers.in[2] + column * bs;
    float* y = buffers.out + column * ys;
    int64_t rest = at / n;
    for (int64_t i = last - 1; i >= 0; i--) {
      const int64_t index = rest % d.dims[i];
      rest /= d.dims[i];
      c += index * d.c_stride[i];
      a += index * d.a_stride[i];
      b += index * d.b_stride[i];
      y += index * d.y_stride[i];
    }
    if (cs == 1 && ys == 1 && as == 1 && bs == 1)
      choose<1, 1>(c, a, b, y, count);
    else if (cs == 1 && ys == 1 && as == 1 && bs == 0)
      choose<1, 0>(c, a, b, y, count);
    else if (cs == 1 && ys == 1 && as == 0 && bs == 1)
      choose<0, 1>(c, a, b, y, count);
    else
      for (int64_t i = 0; i < count; i++) y[i * ys] = c[i * cs] != 0 ? a[i * as] : b[i * bs];
    at += count;
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
