// topk: indices of the k largest or smallest along n. The output itself holds a heap of the best k so far, its weakest
// at the root; sorting the heap in place leaves them in order. Ties go to the lower index, so the result is unique.
// take: gathers elements by such indices. Chunks are ranges of (o, i).
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

struct Order {
  const float* x;
  int64_t step;
  bool largest;

  // NaN is larger than every number.
  bool before(float i, float j) const {
    const float a = x[(int64_t)i * step], b = x[(int64_t)j * step];
    const bool above = a > b || (a != a && b == b), below = a < b || (b != b && a == a);
    if (largest ? above : below) return true;
    if (largest ? below : above) return false;
    return i < j;
  }
};

// Restores the heap below `at`: no child comes after its parent in the order.
void sift(const Order& order, float* heap, int64_t step, int64_t count, int64_t at) {
  for (;;) {
    int64_t child = 2 * at + 1;
    if (child >= count) return;
    if (child + 1 < count && order.before(heap[child * step], heap[(child + 1) * step])) child++;
    if (!order.before(heap[at * step], heap[child * step])) return;
    const float t = heap[at * step];
    heap[at * step] = heap[child * step];
    heap[child * step] = t;
    at = child;
  }
}

void select(const Order& order, int64_t n, float* out, int64_t step, int64_t k) {
  for (int64_t j = 0; j < k; j++) out[j * step] = (float)j;
  for (int64_t j = k / 2; j-- > 0;) sift(order, out, step, k, j);
  for (int64_t j = k; j < n; j++)
    if (order.before((float)j, out[0])) {
      out[0] = (float)j;
      sift(order, out, step, k, 0);
    }
  for (int64_t count = k; count-- > 1;) {
    const float t = out[0];
    out[0] = out[count * step];
    out[count * step] = t;
    sift(order, out, step, count, 0);
  }
}

}  // namespace

void topk(const TopK& d, const Buffers& b, int64_t begin, int64_t end) {
  if (d.k == 0) return;
  const int64_t items = d.outer * d.inner, last = chunk_begin(items, d.chunks, end);
  for (int64_t item = chunk_begin(items, d.chunks, begin); item < last; item++) {
    const int64_t o = item / d.inner, i = item % d.inner;
    const Order order = {b.in[0] + o * d.n * d.inner + i, d.inner, d.largest != 0};
    select(order, d.n, b.out + o * d.k * d.inner + i, d.inner, d.k);
  }
}

void take(const Take& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t items = d.outer * d.k * d.inner, last = chunk_begin(items, d.chunks, end);
  for (int64_t item = chunk_begin(items, d.chunks, begin); item < last; item++) {
    const float index = b.in[1][item];
    const int64_t at = index >= (float)d.n ? d.n - 1 : index > 0 ? min_i((int64_t)index, d.n - 1) : 0;
    b.out[item] = b.in[0][item / (d.k * d.inner) * d.n * d.inner + at * d.inner + item % d.inner];
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
