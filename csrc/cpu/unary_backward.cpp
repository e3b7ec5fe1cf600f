// dx = g f'(x), element by element, from y where f' is a function of y (so that the forward pass may forget x), else
// from x. Where f has a corner the derivative is that of torch: 0 at relu's and at both ends of clip, alpha at
// leaky_relu's. Functions that only move to a neighbouring whole number have none. Chunks as in unary.cpp.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

inline Vec between(Vec lo, Vec v, Vec hi, Vec a) { return if_less(lo, v, if_less(v, hi, a, zero()), zero()); }
inline Vec square(Vec a) { return mul(a, a); }
inline Vec one_minus(Vec a) { return sub(set1(1.0f), a); }

inline Vec gelu_slope(Vec x) {  // Phi(x) + x phi(x)
  const Vec phi = mul(set1(0.398942280f), exp(mul(set1(-0.5f), square(x))));
  return fma(x, phi, mul(set1(0.5f), add(set1(1.0f), erf(mul(x, set1(0.707106781f))))));
}

inline Vec gelu_tanh_slope(Vec x) {  // tanh(u) = 2 s - 1 with s = sigmoid(2 u), whose tails are exact
  const Vec c = max(set1(-30.0f), min(set1(30.0f), x)), x2 = square(c);
  const Vec u2 = mul(mul(c, set1(1.595769122f)), fma(x2, set1(0.044715f), set1(1.0f)));
  const Vec du2 = mul(set1(1.595769122f), fma(x2, set1(0.134145f), set1(1.0f))), s = sigmoid(u2);
  return mul(s, fma(mul(c, one_minus(s)), du2, set1(1.0f)));
}

inline Vec swish_slope(Vec x) {
  const Vec c = max(set1(-80.0f), min(set1(80.0f), x)), s = sigmoid(c);
  return mul(s, fma(c, one_minus(s), set1(1.0f)));
}

inline Vec mish_slope(Vec x) {  // t + x (1 - t^2) sigmoid(x), t = tanh(softplus(x))
  const Vec c = max(set1(-80.0f), min(set1(20.0f), x)), e = exp(c), n = mul(e, add(e, set1(2.0f)));
  const Vec t = div(n, add(n, set1(2.0f)));
  return fma(mul(c, one_minus(square(t))), sigmoid(c), t);
}

inline Vec hard_swish_slope(Vec x) {
  const Vec middle = fma(x, set1(1.0f / 3.0f), set1(0.5f));
  return if_less(x, set1(-3.0f), zero(), if_less(set1(3.0f), x, set1(1.0f), middle));
}

// Functions whose derivative is written with v = y or v = x alike; others see below.
template <class Visitor>
inline bool visit_corner(const Activation& act, const Visitor& visit) {
  const Vec a = set1(act.alpha), b = set1(act.beta);
  switch (act.func) {
    case Func::clip:
      visit([=](Vec g, Vec v) { return between(a, v, b, g); });
      return true;
    case Func::leaky_relu:
      visit([=](Vec g, Vec v) { return if_less(zero(), v, g, mul(a, g)); });
      return true;
    case Func::neg:
      visit([](Vec g, Vec) { return sub(zero(), g); });
      return true;
    case Func::identity:
    case Func::round_half:
      visit([](Vec g, Vec) { return g; });
      return true;
    case Func::floor:
    case Func::ceil:
    case Func::trunc:
    case Func::round:
    case Func::sign:
      visit([](Vec, Vec) { return zero(); });
      return true;
    default:
      return false;
  }
}

template <class Visitor>
inline void visit_output(const Activation& act, const Visitor& visit) {
  const Vec a = set1(act.alpha), b = set1(act.beta), ab = mul(a, b), one = set1(1.0f);
  switch (act.func) {
    case Func::elu:
      return visit([=](Vec g, Vec y) { return if_less(zero(), y, g, mul(g, add(y, a))); });
    case Func::selu:
      return visit([=](Vec g, Vec y) { return mul(g, if_less(zero(), y, b, add(y, ab))); });
    case Func::sigmoid:
      return visit([](Vec g, Vec y) { return mul(g, mul(y, one_minus(y))); });
    case Func::hard_sigmoid:
      return visit([=](Vec g, Vec y) { return between(zero(), y, one, mul(a, g)); });
    case Func::tanh:
      return visit([](Vec g, Vec y) { return mul(g, one_minus(square(y))); });
    case Func::exp:
      return visit([](Vec g, Vec y) { return mul(g, y); });
    case Func::sqrt:
      return visit([](Vec g, Vec y) { return div(mul(set1(0.5f), g), y); });
    case Func::reciprocal:
      return visit([](Vec g, Vec y) { return sub(zero(), mul(g, square(y))); });
    default:
      return;  // extent(UnaryBackward) lets nothing else pass
  }
}

template <class Visitor>
inline void visit_input(const Activation& act, const Visitor& visit) {
  const Vec a = set1(act.alpha), b = set1(act.beta), one = set1(1.0f);
  switch (act.func) {
    case Func::elu:
      return visit([=](Vec g, Vec x) { return if_less(zero(), x, g, mul(g, mul(a, exp(min(zero(), x))))); });
    case Func::selu:
      return visit([=](Vec g, Vec x) { return mul(mul(b, g), if_less(zero(), x, one, mul(a, exp(min(zero(), x))))); });
    case Func::sigmoid:
      return visit([](Vec g, Vec x) { return mul(g, mul(sigmoid(x), sigmoid(sub(zero(), x)))); });
    case Func::hard_sigmoid:
      return visit([=](Vec g, Vec x) { return between(zero(), fma(a, x, b), one, mul(a, g)); });
    case Func::tanh:
      return visit([](Vec g, Vec x) { return mul(g, one_minus(square(tanh(x)))); });
    case Func::exp:
      return visit([](Vec g, Vec x) { return mul(g, exp(x)); });
    case Func::sqrt:
      return visit([](Vec g, Vec x) { return div(mul(set1(0.5f), g), sqrt(x)); });
    case Func::reciprocal:
      return visit([](Vec g, Vec x) { return sub(zero(), div(g, square(x))); });
    case Func::gelu:
      return visit([](Vec g, Vec x) { return mul(g, gelu_slope(max(set1(-20.0f), min(set1(20.0f), x)))); });
    case Func::gelu_tanh:
      return visit([](Vec g, Vec x) { return mul(g, gelu_tanh_slope(x)); });
    case Func::swish:
      return visit([](Vec g, Vec x) { return mul(g, swish_slope(x)); });
    case Func::hard_swish:
      return visit([](Vec g, Vec x) { return mul(g, hard_swish_slope(x)); });
    case Func::mish:
      return visit([](Vec g, Vec x) { return mul(g, mish_slope(x)); });
    case Func::softplus:
      return visit([](Vec g, Vec x) { return mul(g, sigmoid(x)); });
    case Func::erf:
      return visit([](Vec g, Vec x) { return mul(mul(set1(1.12837917f), g), exp(sub(zero(), square(x)))); });
    case Func::log:
      return visit([](Vec g, Vec x) { return div(g, x); });
    case Func::abs:
      return visit([](Vec g, Vec x) { return if_less(zero(), x, g, if_less(x, zero(), sub(zero(), g), zero())); });
    default:
      return;
  }
}

template <class F>
void map(const F& f, const float* g, const float* v, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + Vec::N <= n; i += Vec::N) store(y + i, f(load(g + i), load(v + i)));
  if (i < n) {
    const int t = (int)(n - i);
    store_n(y + i, f(load_n(g + i, t), load_n(v + i, t)), t);
  }
}

}  // namespace

void unary_backward(const UnaryBackward& d, const Buffers& b, int64_t begin, int64_t end) {
  const bool touching = d.rows <= 1 || (d.g_ld == d.n && d.v_ld == d.n && d.y_ld == d.n);
  const int64_t items = touching ? d.rows * d.n : d.rows, width = touching ? 1 : d.n;
  const int64_t first = chunk_begin(items, d.chunks, begin), last = chunk_begin(items, d.chunks, end);
  if (first == last || width == 0) return;
  const auto run = [&](const auto& f) {
    if (touching) return map(f, b.in[0] + first, b.in[1] + first, b.out + first, last - first);
    for (int64_t r = first; r < last; r++) map(f, b.in[0] + r * d.g_ld, b.in[1] + r * d.v_ld, b.out + r * d.y_ld, d.n);
  };
  if (visit_corner(d.act, run)) return;
  if (d.from_output)
    visit_output(d.act, run);
  else
    visit_input(d.act, run);
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
