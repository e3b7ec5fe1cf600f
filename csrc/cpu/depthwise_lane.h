// A vector of channels of a depthwise convolution: where it is read and written, pixel by pixel, and how outputs end.
// (grouped_conv2d.cpp walks over pixels, too.)
#pragma once
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int V = Vec::N;

struct Lane {      // one vector of channels
  const float* x;  // first channel of the first pixel
  const float* w;
  const float *residual, *bias;  // or null
  float* y;
  Vec lo, hi;
  int n;  // channels in use
};

static inline Vec get(const float* p, int n) { return n == V ? load(p) : load_n(p, n); }
static inline void set(float* p, Vec a, int n) { return n == V ? store(p, a) : store_n(p, a, n); }
static inline Vec bias_of(const Lane& lane) { return lane.bias ? get(lane.bias, lane.n) : zero(); }

// pixel: of the output, from the first image on
static inline void put(const DepthwiseConv2d& d, const Lane& lane, int64_t pixel, Vec acc) {
  if (lane.residual) acc = add(acc, get(lane.residual + pixel * d.res_ld, lane.n));
  acc = min(lane.hi, max(lane.lo, acc));
  set(lane.y + pixel * d.y_ld, acc, lane.n);
}

static inline int64_t weights_ld(const DepthwiseConv2d& d) { return (d.K + V - 1) / V * V; }

// Of the channels from k on. With a channel multiplier x stays the first channel of all.
static inline Lane lane_at(const DepthwiseConv2d& d, const Buffers& b, int64_t k) {
  const bool clip = d.act.func == Func::clip;
  Lane lane;
  lane.n = (int)min_i(V, d.K - k);
  lane.x = b.in[0] + (d.multiplier == 1 ? k : 0);
  lane.w = b.in[1] + k;
  lane.residual = b.in[3] ? b.in[3] + k : nullptr;
  lane.y = b.out + k;
  lane.bias = b.in[2] ? b.in[2] + k : nullptr;
  lane.lo = set1(clip ? d.act.alpha : -__builtin_inff());
  lane.hi = set1(clip ? d.act.beta : __builtin_inff());
  return lane;
}

// Pixels one after the other. Compilers would compute all addresses before the loop over channels and read
// them from the stack: more instructions than products.
template <class T>
struct Walk {
  T* at;
  int64_t one, three;  // floats
  Walk(T* p, int64_t ld) : at(p), one(ld), three(3 * ld) {}
  T* pixel(int i) {  // ascending from one of the first four on, each once
    if (i > 0 && i % 4 == 0) {
      at += 4 * one;
      __asm__("" : "+r"(at));
    }
    return at + (i % 4 == 3 ? three : i % 4 * one);
  }
};

}  // namespace

}  // namespace FASTCONV_ISA
}  // namespace fastconv
