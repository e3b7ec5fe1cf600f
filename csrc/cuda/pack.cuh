// 16 bytes of a tensor at once, and the functions of ops.h on floats. Arithmetic is in float whatever the storage.
#pragma once
#include "kernels.h"
#include "ptx.cuh"

namespace fastconv {
namespace cuda {

// Elements of T in 16 bytes.
template <class T>
constexpr int WIDTH = 16 / (int)sizeof(T);

template <class T>
struct Pack {
  float v[WIDTH<T>];
};

__device__ inline void unpack(uint4 u, Pack<float>& p) {
  p.v[0] = as_float(u.x), p.v[1] = as_float(u.y), p.v[2] = as_float(u.z), p.v[3] = as_float(u.w);
}
template <class T>
__device__ inline void unpack(uint4 u, Pack<T>& p) {
  const uint32_t w[4] = {u.x, u.y, u.z, u.w};
  FASTCONV_UNROLL
  for (int i = 0; i < 4; i++) {
    p.v[2 * i] = to_float(T{(uint16_t)(w[i] & 0xffff)});
    p.v[2 * i + 1] = to_float(T{(uint16_t)(w[i] >> 16)});
  }
}
__device__ inline uint4 repack(const Pack<float>& p) {
  uint4 u;
  u.x = as_bits(p.v[0]), u.y = as_bits(p.v[1]), u.z = as_bits(p.v[2]), u.w = as_bits(p.v[3]);
  return u;
}
template <class T>
__device__ inline uint4 repack(const Pack<T>& p) {
  uint32_t w[4];
  FASTCONV_UNROLL
  for (int i = 0; i < 4; i++)
    w[i] = (uint32_t)from_float<T>(p.v[2 * i]).bits | (uint32_t)from_float<T>(p.v[2 * i + 1]).bits << 16;
  uint4 u;
  u.x = w[0], u.y = w[1], u.z = w[2], u.w = w[3];
  return u;
}

template <class T>
__device__ inline Pack<T> load_pack(const T* p) {
  Pack<T> r;
  unpack(*(const uint4*)p, r);
  return r;
}
template <class T>
__device__ inline void store_pack(T* p, const Pack<T>& v) {
  *(uint4*)p = repack(v);
}

// V elements from p, or one of them for all where the stride is 0.
template <class T, int V>
__device__ inline void read(const T* p, int64_t stride, float (&v)[V]) {
  if (V > 1 && stride != 0) {
    Pack<T> pack = load_pack(p);
    FASTCONV_UNROLL
    for (int e = 0; e < V; e++) v[e] = pack.v[e];
    return;
  }
  const float x = to_float(*p);
  FASTCONV_UNROLL
  for (int e = 0; e < V; e++) v[e] = x;
}

template <class T, int V>
__device__ inline void write(T* p, const float (&v)[V]) {
  if (V > 1) {
    Pack<T> pack;
    FASTCONV_UNROLL
    for (int e = 0; e < V; e++) pack.v[e] = v[e];
    store_pack(p, pack);
  } else {
    *p = from_float<T>(v[0]);
  }
}

// Whether rows from p on, ld apart, lie on 16 bytes.
template <class T>
bool wide(const void* p, int64_t ld) {
  return (uintptr_t)p % 16 == 0 && ld % WIDTH<T> == 0;
}

__device__ inline float infinity() { return as_float(0x7f800000u); }

__device__ inline float expm1_of(float x) { return expm1f(x); }
__device__ inline float sigmoid_of(float x) {
  const float e = expf(-fabsf(x)), s = 1.0f / (1.0f + e);
  return x < 0 ? e * s : s;
}
__device__ inline float clip_of(float x, float lo, float hi) { return nan_min(nan_max(x, lo), hi); }

__device__ __noinline__ inline float function_of(int func, float a, float b, float x) {
  switch ((Func)func) {
    case Func::identity:
      return x;
    case Func::clip:
      return clip_of(x, a, b);
    case Func::leaky_relu:
      return x < 0 ? a * x : x;
    case Func::elu:
      return x < 0 ? a * expm1_of(x) : x;
    case Func::selu:
      return b * (x < 0 ? a * expm1_of(x) : x);
    case Func::sigmoid:
      return sigmoid_of(x);
    case Func::hard_sigmoid:
      return clip_of(fmaf(a, x, b), 0.0f, 1.0f);
    case Func::hard_swish:
      return x * clip_of(fmaf(x, 1.0f / 6.0f, 0.5f), 0.0f, 1.0f);
    case Func::swish:
      return x * sigmoid_of(x);
    case Func::tanh:
      return tanhf(x);
    case Func::gelu:  // 1 + erf(z) = erfc(-z)
      return 0.5f * x * erfcf(-0.707106781f * x);
    case Func::gelu_tanh:  // (1 + tanh u) / 2 = sigmoid(2u)
      return x * sigmoid_of(1.59576912f * fmaf(0.044715f * x * x, x, x));
    case Func::softplus:
      return nan_max(x, 0.0f) + log1pf(expf(-fabsf(x)));
    case Func::mish: {  // tanh(log(1 + e)) = n / (n + 2), n = e (e + 2)
      const float e = expf(nan_min(x, 20.0f)), n = e * (e + 2.0f);
      return x * (n / (n + 2.0f));
    }
    case Func::exp:
      return expf(x);
    case Func::log:
      return logf(x);
    case Func::sqrt:
      return sqrtf(x);
    case Func::reciprocal:
      return 1.0f / x;
    case Func::erf:
      return erff(x);
    case Func::neg:
      return -x;
    case Func::abs:
      return fabsf(x);
    case Func::floor:
      return floorf(x);
    case Func::ceil:
      return ceilf(x);
    case Func::trunc:
      return truncf(x);
    case Func::round:
      return rintf(x);
    case Func::sign:
      return x > 0 ? 1.0f : x < 0 ? -1.0f : x;
    case Func::round_half:
      return to_float(from_float<half_t>(x));
  }
  return x;
}

// y = act(x); the two that nearly every layer has stay inline.
__device__ inline float activate(const Activation& act, float x) {
  if (act.func == Func::identity) return x;
  if (act.func == Func::clip) return clip_of(x, act.alpha, act.beta);
  return function_of((int)act.func, act.alpha, act.beta, x);
}

// Calls visit(T{}) with the storage type.
template <class Visitor>
void with_type(Precision precision, const Visitor& visit) {
  if (precision == Precision::fp16) return visit(half_t{});
  if (precision == Precision::bf16) return visit(bfloat_t{});
  return visit(float{});
}

}  // namespace cuda
}  // namespace fastconv
