// Elementary functions on Vec and the activations made of them. Relative errors stay below 4 units of float32 (5e-7;
// gelu_tanh, and gelu without FMA, lose more where they vanish, sigmoid and swish beyond -35). NaN propagates, limits
// are exact but for the lower ones of sigmoid (1e-38) and swish (-1e-36), and results below 1.7e-38 may flush to zero.
// The polynomials are minimax fits on the stated ranges.
#pragma once
#include "cpu/kernels.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

// First item of chunk i when `total` items are split evenly into `chunks`: total * i / chunks. Chunks of one item more
// lie among the others, so that the halves of two threads are even as well.
inline int64_t chunk_begin(int64_t total, int64_t chunks, int64_t i) {
  return total / chunks * i + total % chunks * i / chunks;
}

template <int n>
inline Vec polynomial(Vec x, const float (&c)[n]) {
  Vec p = set1(c[n - 1]);
  for (int i = n - 2; i >= 0; i--) p = fma(p, x, set1(c[i]));
  return p;
}

constexpr float LOG2E = 1.44269504f;
constexpr float ROUND = 12582912.0f;  // x + ROUND - ROUND is the integer nearest to x, for |x| < 2^22
constexpr float LN2_HI = 0.693359375f, LN2_LO = -2.12194440e-4f;  // n * LN2_HI is exact for |n| < 2^15

// e^x = 2^n (1 + r + r^2 P(r)): gives n and e^r - 1 with |r| <= ln(2) / 2
inline Vec reduced_expm1(Vec x, Vec* n) {
  *n = sub(fma(x, set1(LOG2E), set1(ROUND)), set1(ROUND));
  Vec r = fma(*n, set1(-LN2_LO), fma(*n, set1(-LN2_HI), x));
  const Vec r2 = mul(r, r), p01 = fma(r, set1(0.166665211f), set1(0.49999994f));
  const Vec p23 = fma(r, set1(0.0083687352f), set1(0.041668389f));
  return fma(r2, fma(r2, fma(r2, set1(0.00138145592f), p23), p01), r);
}

// Overflows to inf; below -86.98 (1.7e-38) it gives 0. 2 * 2^(n-1) reaches n = 128 without a second scale.
inline Vec exp(Vec x) {
  Vec n;
  Vec p = add(reduced_expm1(min(set1(89.0f), max(set1(-87.6f), x)), &n), set1(1.0f));
  return mul(add(p, p), pow2(sub(n, set1(1.0f))));
}

// e^x - 1 for x <= 0, without cancellation near 0
inline Vec expm1_negative(Vec x) {
  Vec n;
  Vec p = reduced_expm1(max(set1(-20.0f), x), &n);
  Vec scale = pow2(n);
  return fma(scale, p, sub(scale, set1(1.0f)));
}

inline Vec log(Vec x) {
  static const float P[] = {0.333333313f, -0.250008225f, 0.200012326f, -0.166232988f,
                            0.142015532f, -0.131605849f, 0.127633244f, -0.0763564631f};
  const Vec zero_ = zero(), one = set1(1.0f), inf = set1(__builtin_inff()), tiny = set1(1.17549435e-38f);
  Vec scaled = if_less(x, tiny, mul(x, set1(16777216.0f)), x);  // denormals
  Vec e = sub(exponent(scaled), if_less(x, tiny, set1(24.0f), zero_));
  Vec m = mantissa(scaled);
  e = if_less(set1(1.41421356f), m, add(e, one), e);
  m = if_less(set1(1.41421356f), m, mul(m, set1(0.5f)), m);
  Vec f = sub(m, one);  // in [sqrt(1/2) - 1, sqrt(2) - 1]
  Vec f2 = mul(f, f);
  Vec r = fma(mul(f2, f), polynomial(f, P), mul(e, set1(LN2_LO)));
  r = add(fma(f2, set1(-0.5f), r), f);
  r = fma(e, set1(LN2_HI), r);
  Vec special = if_less(x, zero_, set1(__builtin_nanf("")), sub(x, inf));  // 0 gives -inf, NaN stays
  return if_less(zero_, x, if_less(x, inf, r, x), special);
}

// log(1 + u) for u >= 0: the second term gives back what rounding 1 + u lost
inline Vec log1p_positive(Vec u) {
  Vec w = add(set1(1.0f), u);
  return add(log(w), sub(u, sub(w, set1(1.0f))));
}

// x P(x^2) / Q(x^2), within 2.1e-8 for |x| < 9 before rounding; beyond, tanh rounds to 1.
inline Vec tanh(Vec x) {
  static const float P[] = {1.0f, 0.13380991f, 0.0034955465f, 2.0608391e-05f, 1.3353714e-08f};
  static const float Q[] = {1.0f, 0.46714306f, 0.025876824f, 0.00032855663f, 7.776168e-07f};
  const Vec z = min(set1(9.0f), max(set1(-9.0f), x)), z2 = mul(z, z);
  return min(set1(1.0f), max(set1(-1.0f), div(mul(z, polynomial(z2, P)), polynomial(z2, Q))));
}

constexpr float LOGISTIC_LEAST = -87.3f;  // 1 / (1 + exp(87.3)) is the least normal number, nearly

// 1 + e^-x for x >= LOGISTIC_LEAST, anything for NaN. e^-x = 2^n 2^f with n = -x log2(e) rounded, and 2^f by a
// polynomial whose terms do not wait for each other. f carries the rounding of log2(e): beyond x = -35 relative errors
// grow to 1.3e-6.
inline Vec one_plus_exp_minus(Vec x) {
  const Vec z = min(set1(87.0f), x), log2e = set1(-LOG2E), rounded = fma(z, log2e, set1(ROUND));
  const Vec f = fma(z, log2e, sub(set1(ROUND), rounded)), f2 = mul(f, f);
  const Vec p01 = fma(f, set1(0.69314694f), set1(1.0000001f)), p23 = fma(f, set1(0.05550713f), set1(0.2402212f));
  const Vec p45 = fma(f, set1(0.0013276472f), set1(0.009675541f));
  return add(scale_by_pow2(fma(f2, fma(f2, p45, p23), p01), rounded), set1(1.0f));
}

inline Vec sigmoid(Vec x) {
  const Vec c = max(set1(LOGISTIC_LEAST), x);
  return div(set1(1.0f), fma(min(set1(1.0f), c), zero(), one_plus_exp_minus(c)));  // NaN stays
}

inline Vec hard_swish(Vec x) { return mul(x, max(zero(), min(set1(1.0f), fma(x, set1(1.0f / 6.0f), set1(0.5f))))); }

// x sigmoid(x); below -87.3 it stays at -1e-36
inline Vec swish(Vec x) {
  const Vec c = max(set1(LOGISTIC_LEAST), x);
  return div(c, one_plus_exp_minus(c));
}

// erfc(a) for a >= 0, where a2_hi + a2_lo = a^2: erfc(a) = exp(-a^2) t P(t), t = 1 / (1 + 0.4 a), for a < 9.5, where
// the exponential is 0.
inline Vec erfc_positive(Vec a, Vec a2_hi, Vec a2_lo) {
  static const float P[] = {0.22571066f,   0.224880069f, 0.215510622f,  0.126945361f, 0.279908866f,
                            -0.298868179f, 0.564755321f, -0.511722267f, 0.203474805f, -0.0305952597f};
  Vec t = div(set1(1.0f), fma(a, set1(0.4f), set1(1.0f)));
  Vec e = exp(sub(zero(), a2_hi));
  return mul(mul(sub(e, mul(e, a2_lo)), t), polynomial(t, P));
}

inline Vec erf(Vec x) {
  static const float P[] = {1.12837911f, -0.376126021f, 0.112831131f, -0.0268208124f, 0.00508513814f, -0.000653527968f};
  Vec a = min(set1(9.5f), abs(x)), a2 = mul(a, a);
  Vec y = sub(set1(1.0f), erfc_positive(a, a2, zero()));
  y = if_less(a, set1(0.8f), mul(a, polynomial(a2, P)), y);
  return if_less(x, zero(), sub(zero(), y), y);
}

// x Phi(x) through erfc, so that the negative tail keeps its relative accuracy
inline Vec gelu(Vec x) {
  const Vec half = set1(0.5f);
  Vec a = min(set1(13.4f), abs(x));
  Vec half_a = mul(a, half), hi = mul(a, half_a);  // a^2 / 2 in two parts
  Vec tail = mul(half, erfc_positive(mul(a, set1(0.707106781f)), hi, fma(a, half_a, sub(zero(), hi))));
  return mul(x, if_less(x, zero(), tail, sub(set1(1.0f), tail)));
}

// Halves go to the even neighbour; from 2^22 on every float is whole or half, and the larger ones are whole.
inline Vec round(Vec x) {
  const Vec a = abs(x), magic = set1(8388608.0f);  // 2^23
  Vec y = if_less(a, magic, sub(add(a, magic), magic), a);
  y = if_less(x, zero(), sub(zero(), y), y);
  return if_less(zero(), a, y, x);  // -0 and NaN stay
}

// Adding and subtracting 1.5 * 2^13 times the power of two below |x| leaves 11 bits, fewer for float16's denormals.
inline Vec round_half(Vec x) {
  const Vec a = min(set1(131072.0f), abs(x));
  const Vec e = max(set1(-14.0f), exponent(max(set1(6.10351562e-05f), a)));
  const Vec m = mul(set1(1.5f), pow2(add(e, set1(13.0f))));
  Vec y = sub(add(a, m), m);
  y = if_less(set1(65504.0f), y, set1(__builtin_inff()), y);
  y = if_less(x, zero(), sub(zero(), y), y);
  return if_less(zero(), abs(x), y, x);
}

struct Identity {
  Vec operator()(Vec x) const { return x; }
};
struct Clip {
  Vec lo, hi;
  Vec operator()(Vec x) const { return min(hi, max(lo, x)); }  // in this order NaN passes
};

// Calls visit(f) with the function object of an activation.
template <class Visitor>
inline void with_function(const Activation& act, const Visitor& visit) {
  const Vec a = set1(act.alpha), b = set1(act.beta), one = set1(1.0f);
  switch (act.func) {
    case Func::identity:
      return visit(Identity{});
    case Func::clip:
      return visit(Clip{a, b});
    case Func::leaky_relu:
      return visit([=](Vec x) { return if_less(x, zero(), mul(a, x), x); });
    case Func::elu:
      return visit([=](Vec x) { return if_less(x, zero(), mul(a, expm1_negative(x)), x); });
    case Func::selu:
      return visit([=](Vec x) { return mul(b, if_less(x, zero(), mul(a, expm1_negative(x)), x)); });
    case Func::sigmoid:
      return visit([](Vec x) { return sigmoid(x); });
    case Func::hard_sigmoid:
      return visit([=](Vec x) { return max(zero(), min(one, fma(a, x, b))); });
    case Func::hard_swish:
      return visit([](Vec x) { return hard_swish(x); });
    case Func::swish:
      return visit([](Vec x) { return swish(x); });
    case Func::tanh:
      return visit([](Vec x) { return tanh(x); });
    case Func::gelu:
      return visit([](Vec x) { return gelu(x); });
    case Func::gelu_tanh:  // (1 + tanh u) / 2 = sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
      return visit([=](Vec x) {
        Vec u2 = mul(x, fma(mul(x, x), set1(0.0713548163f), set1(1.59576912f)));
        return div(max(set1(-20.0f), x), one_plus_exp_minus(max(set1(LOGISTIC_LEAST), u2)));
      });
    case Func::softplus:
      return visit([](Vec x) { return add(max(zero(), x), log1p_positive(exp(sub(zero(), abs(x))))); });
    case Func::mish:  // tanh(log(1 + e)) = n / (n + 2), n = e (e + 2)
      return visit([=](Vec x) {
        Vec e = exp(min(set1(20.0f), x)), n = mul(e, add(e, set1(2.0f)));
        return mul(x, div(n, add(n, set1(2.0f))));
      });
    case Func::exp:
      return visit([](Vec x) { return exp(x); });
    case Func::log:
      return visit([](Vec x) { return log(x); });
    case Func::sqrt:
      return visit([](Vec x) { return sqrt(x); });
    case Func::reciprocal:
      return visit([=](Vec x) { return div(one, x); });
    case Func::erf:
      return visit([](Vec x) { return erf(x); });
    case Func::neg:
      return visit([](Vec x) { return mul(set1(-1.0f), x); });
    case Func::abs:
      return visit([](Vec x) { return abs(x); });
    case Func::floor:
      return visit([](Vec x) { return floor(x); });
    case Func::ceil:
      return visit([](Vec x) { return sub(zero(), floor(sub(zero(), x))); });
    case Func::trunc:
      return visit([](Vec x) { return if_less(x, zero(), sub(zero(), floor(sub(zero(), x))), floor(x)); });
    case Func::round:
      return visit([](Vec x) { return round(x); });
    case Func::sign:
      return visit([=](Vec x) { return if_less(zero(), x, one, if_less(x, zero(), set1(-1.0f), x)); });
    case Func::round_half:
      return visit([](Vec x) { return round_half(x); });
  }
}

}  // namespace
}  // namespace FASTCONV_ISA
}  // namespace fastconv
