// y = act(f(a, b)) with broadcasting. Chunks are ranges of the flat index of y, cut into blocks of the two innermost
// dimensions. Along the innermost one an operand is contiguous, or one value (stride 0): these run on vectors, with the
// channel vector of [N, 1, C] against [N, HW, C] staying in L1. Other strides gather into a small buffer.
// Other activations than clip follow over the block just written, which is still in L1.
#include "cpu/math.h"

extern "C" float powf(float, float);

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

struct Block {
  const float *a, *b;
  float* y;
  int64_t rows, n;
  int64_t a_row, b_row, y_row;  // strides between rows
};

// max(a, b) and min(a, b) return b where either is NaN; adding this carries NaN in a over to the result.
inline Vec nan_of(Vec a) {
  Vec t = min(set1(1.0f), abs(a));
  return sub(t, t);
}

// 1 unless NaN: every number is below infinity or above its negative.
inline Vec is_number(Vec a) {
  const Vec inf = set1(__builtin_inff()), one = set1(1.0f);
  return if_less(a, inf, one, if_less(sub(zero(), inf), a, one, zero()));
}

inline Vec equal(Vec a, Vec b) { return if_less(a, b, zero(), if_less(b, a, zero(), mul(is_number(a), is_number(b)))); }

template <class Visitor>
inline void with_binary(BinaryFunc func, const Visitor& visit) {
  switch (func) {
    case BinaryFunc::add:
      return visit([](Vec a, Vec b) { return add(a, b); });
    case BinaryFunc::sub:
      return visit([](Vec a, Vec b) { return sub(a, b); });
    case BinaryFunc::mul:
      return visit([](Vec a, Vec b) { return mul(a, b); });
    case BinaryFunc::div:
      return visit([](Vec a, Vec b) { return div(a, b); });
    case BinaryFunc::max:
      return visit([](Vec a, Vec b) { return add(max(a, b), nan_of(a)); });
    case BinaryFunc::min:
      return visit([](Vec a, Vec b) { return add(min(a, b), nan_of(a)); });
    case BinaryFunc::prelu:
      return visit([](Vec a, Vec b) { return if_less(a, zero(), mul(a, b), a); });
    case BinaryFunc::less:
      return visit([](Vec a, Vec b) { return if_less(a, b, set1(1.0f), zero()); });
    case BinaryFunc::less_equal:
      return visit([](Vec a, Vec b) { return if_less(a, b, set1(1.0f), equal(a, b)); });
    case BinaryFunc::equal:
      return visit([](Vec a, Vec b) { return equal(a, b); });
    case BinaryFunc::pow:
      return;  // pow_row
  }
}

// One row; an operand of stride 0 is already in a register.
template <int SA, int SB, class F, class Act>
inline void row(const F& f, const Act& act, const float* a, const float* b, float* y, int64_t n) {
  const Vec va = set1(*a), vb = set1(*b);
  int64_t i = 0;
  for (; i + Vec::N <= n; i += Vec::N) store(y + i, act(f(SA ? load(a + i) : va, SB ? load(b + i) : vb)));
  if (i < n) {
    const int t = (int)(n - i);
    store_n(y + i, act(f(SA ? load_n(a + i, t) : va, SB ? load_n(b + i, t) : vb)), t);
  }
}

template <int SA, int SB, class F, class Act>
void run_block(const F& f, const Act& act, const Block& k) {
  for (int64_t r = 0; r < k.rows; r++)
    row<SA, SB>(f, act, k.a + r * k.a_row, k.b + r * k.b_row, k.y + r * k.y_row, k.n);
}

template <class Act>
void vector_block(const Binary& d, const Act& act, const Block& k, bool a_contiguous, bool b_contiguous) {
  with_binary(d.func, [&](const auto& f) {
    if (a_contiguous && b_contiguous) return run_block<1, 1>(f, act, k);
    if (a_contiguous) return run_block<1, 0>(f, act, k);
    return run_block<0, 1>(f, act, k);
  });
}

// The C library knows the many special cases; squares and cubes, what networks use, need none of them.
void pow_row(const float* a, const float* b, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const float e = b[i];
    y[i] = e == 2.0f ? a[i] * a[i] : e == 3.0f ? a[i] * a[i] * a[i] : powf(a[i], e);
  }
}

// Any strides along the innermost dimension: gather, compute, scatter.
void strided_block(const Binary& d, const Block& k, int64_t a_step, int64_t b_step, int64_t y_step) {
  enum { SIZE = 128 };
  float a[SIZE], b[SIZE], y[SIZE];
  for (int64_t r = 0; r < k.rows; r++)
    for (int64_t i = 0; i < k.n; i += SIZE) {
      const int64_t n = min_i(SIZE, k.n - i);
      const float *pa = k.a + r * k.a_row + i * a_step, *pb = k.b + r * k.b_row + i * b_step;
      float* py = k.y + r * k.y_row + i * y_step;
      for (int64_t j = 0; j < n; j++) {
        a[j] = pa[j * a_step];
        b[j] = pb[j * b_step];
      }
      if (d.func == BinaryFunc::pow)
        pow_row(a, b, y, n);
      else
        with_binary(d.func, [&](const auto& f) { row<1, 1>(f, Identity{}, a, b, y, n); });
      activate_row(d.act, y, n);
      for (int64_t j = 0; j < n; j++) py[j * y_step] = y[j];
    }
}

void run(const Binary& d, const Block& k, int64_t a_step, int64_t b_step, int64_t y_step) {
  const bool fast = y_step == 1 && (a_step == 1 || (a_step == 0 && b_step == 1)) && (b_step == 1 || b_step == 0) &&
                    d.func != BinaryFunc::pow;
  if (!fast) return strided_block(d, k, a_step, b_step, y_step);
  if (d.act.func == Func::clip)
    return vector_block(d, Clip{set1(d.act.alpha), set1(d.act.beta)}, k, a_step == 1, b_step == 1);
  vector_block(d, Identity{}, k, a_step == 1, b_step == 1);
  activate_rows(d.act, k.y, k.y_row, k.rows, k.n);
}

}  // namespace

void binary(const Binary& d, const Buffers& b, int64_t begin, int64_t end) {
  // The last two dimensions, with 1s before them where the rank is lower.
  const int64_t last = d.rank - 1, above = d.rank - 2;
  const int64_t n = last >= 0 ? d.dims[last] : 1, rows = above >= 0 ? d.dims[above] : 1;
  const int64_t a_step = last >= 0 && n > 1 ? d.a_stride[last] : 1, b_step = last >= 0 && n > 1 ? d.b_stride[last] : 1;
  const int64_t y_step = last >= 0 && n > 1 ? d.y_stride[last] : 1;
  Block k = {};
  k.a_row = above >= 0 ? d.a_stride[above] : 0;
  k.b_row = above >= 0 ? d.b_stride[above] : 0;
  k.y_row = above >= 0 ? d.y_stride[above] : 0;

  int64_t total = rows * n;
  for (int64_t i = 0; i < above; i++) total *= d.dims[i];
  int64_t at = chunk_begin(total, d.chunks, begin);
  const int64_t stop = chunk_begin(total, d.chunks, end);
  // About 16 KB at a time, so that an activation that follows finds the block in L1.
  const int64_t most = n > 0 ? max_i(1, 4096 / n) : 1;
  while (at < stop) {
    const int64_t column = at % n;
    int64_t rest = at / n;
    const int64_t row_index = rest % rows;
    k.a = b.in[0] + row_index * k.a_row + column * a_step;
    k.b = b.in[1] + row_index * k.b_row + column * b_step;
    k.y = b.out + row_index * k.y_row + column * y_step;
    rest /= rows;
    for (int64_t i = above - 1; i >= 0; i--) {
      const int64_t index = rest % d.dims[i];
      rest /= d.dims[i];
      k.a += index * d.a_stride[i];
      k.b += index * d.b_stride[i];
      k.y += index * d.y_stride[i];
    }
    if (column != 0 || stop - at < n || n > 4096) {
      k.rows = 1;
      k.n = min_i(min_i(n - column, stop - at), 4096);
    } else {
      k.n = n;
      k.rows = min_i(min_i(rows - row_index, (stop - at) / n), most);
    }
    run(d, k, a_step, b_step, y_step);
    at += k.rows * k.n;
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
