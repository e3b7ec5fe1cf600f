// The twins of csrc/cuda/ptx.cuh, in its order, under the emulator; what they mean is said there. Asynchronous work is
// done at the latest moment that the hardware allows (simt_async.cpp).
#pragma once
#include <string.h>

#include <cmath>

#include "simt.h"

namespace fastconv {
namespace cuda {

namespace host {
inline uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
inline float float_of(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}
inline float from_half(uint16_t h) {
  const int e = (h >> 10) & 31, m = h & 1023;
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (e == 31) return m ? NAN : sign * INFINITY;
  return sign * (e ? ldexpf((float)(1024 + m), e - 25) : ldexpf((float)m, -24));
}
inline uint16_t to_half(float x) {  // to nearest, ties to even
  const uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u;
  const float a = fabsf(x);
  if (a != a) return (uint16_t)(sign | 0x7e00u);
  if (a >= 65520.0f) return (uint16_t)(sign | 0x7c00u);
  if (a < 6.103515625e-5f) return (uint16_t)(sign | (uint32_t)nearbyintf(ldexpf(a, 24)));
  const uint32_t b = bits_of(a), lower = b & 0x1fff;
  uint32_t h = (b >> 13) - (112u << 10);
  h += lower > 0x1000 || (lower == 0x1000 && (h & 1));
  return (uint16_t)(sign | h);
}
inline float from_bfloat(uint16_t b) { return float_of((uint32_t)b << 16); }
inline uint16_t to_bfloat(float x) {
  const uint32_t u = bits_of(x);
  if (x != x) return 0x7fff;
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
// to nearest, ties away from zero, as cvt.rna
inline uint32_t to_tf32(uint32_t u) { return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & ~0x1fffu; }

// What the tensor cores read as the i-th element of 4 bytes; of float, all but the lower 13 bits.
template <class T>
float element(uint32_t word, int i);
template <>
inline float element<half_t>(uint32_t word, int i) {
  return from_half((uint16_t)(word >> 16 * i));
}
template <>
inline float element<bfloat_t>(uint32_t word, int i) {
  return from_bfloat((uint16_t)(word >> 16 * i));
}
template <>
inline float element<float>(uint32_t word, int) {
  return float_of(word & ~0x1fffu);
}

struct Fragments {
  float* c;
  const uint32_t *a, *b;
};

// C += A B. Products are exact and summed in float, in the order of the depth: the hardware's order is not documented.
template <class T>
void multiply(void* const lanes[simt::WARP]) {
  constexpr int per = 4 / (int)sizeof(T), depth = 32 / (int)sizeof(T);
  float a[16][depth], b[8][depth];
  for (int lane = 0; lane < simt::WARP; lane++) {
    if (!lanes[lane]) return simt::fail("mma without all 32 lanes");
    const Fragments& f = *(const Fragments*)lanes[lane];
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++)
      for (int i = 0; i < per; i++) {
        const int k = (half * 4 + t) * per + i;
        a[g][k] = element<T>(f.a[2 * half], i);
        a[g + 8][k] = element<T>(f.a[2 * half + 1], i);
        b[g][k] = element<T>(f.b[half], i);
      }
  }
  for (int lane = 0; lane < simt::WARP; lane++) {
    const Fragments& f = *(const Fragments*)lanes[lane];
    for (int i = 0; i < 4; i++) {
      const float *x = a[lane / 4 + i / 2 * 8], *y = b[lane % 4 * 2 + i % 2];
      float sum = f.c[i];
      for (int k = 0; k < depth; k++) sum += x[k] * y[k];
      f.c[i] = sum;
    }
  }
}

struct MatrixRows {
  uint32_t* r;
  const char* row;
};
inline void gather_matrices(void* const lanes[simt::WARP]) {
  for (int lane = 0; lane < simt::WARP; lane++) {
    if (!lanes[lane]) return simt::fail("ldmatrix without all 32 lanes");
    for (int i = 0; i < 4; i++) {
      const auto* source = (const MatrixRows*)lanes[8 * i + lane / 4];
      if (source) memcpy(((MatrixRows*)lanes[lane])->r + i, source->row + lane % 4 * 4, 4);
    }
  }
}
}  // namespace host

// -- conversions ----------------------------------------------------------------------------------------------------
inline float to_float(float x) { return x; }
inline float to_float(half_t x) { return host::from_half(x.bits); }
inline float to_float(bfloat_t x) { return host::from_bfloat(x.bits); }

template <class T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline half_t from_float<half_t>(float x) {
  return {host::to_half(x)};
}
template <>
inline bfloat_t from_float<bfloat_t>(float x) {
  return {host::to_bfloat(x)};
}

inline uint32_t round_tf32(uint32_t x) { return host::to_tf32(x); }

inline float nan_min(float a, float b) {  // -0 < +0
  return a < b || a != a || (a == b && std::signbit(a)) ? a : b;
}
inline float nan_max(float a, float b) { return a > b || a != a || (a == b && !std::signbit(a)) ? a : b; }

inline float as_float(uint32_t x) { return host::float_of(x); }
inline uint32_t as_bits(float x) { return host::bits_of(x); }

inline void store16(void* to, uint4 v) { *(uint4*)to = v; }

// -- asynchronous copies --------------------------------------------------------------------------------------------
inline uint32_t shared_address(const void* p) { return (uint32_t)((const char*)p - simt::shared_memory); }

inline void copy_async16(void* to, const void* from, bool ok) { simt::copy_async(to, from, 16, ok ? 16 : 0); }
inline void copy_async4(void* to, const void* from, bool ok) { simt::copy_async(to, from, 4, ok ? 4 : 0); }
inline void copy_async_commit() { simt::commit_group(); }
template <int pending>
void copy_async_wait() {
  simt::wait_groups(pending);
}

// -- tensor cores ---------------------------------------------------------------------------------------------------
inline void load_matrices(uint32_t (&r)[4], const void* row) {
  host::MatrixRows mine{r, (const char*)row};
  if ((uintptr_t)row % 16) simt::fail("ldmatrix: unaligned row");
  simt::touch(row, 16, false);
  simt::meet(&mine, host::gather_matrices);
}

template <class T>
void mma(T, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  host::Fragments mine{c, a, b};
  simt::meet(&mine, host::multiply<T>);
}

// -- barriers -------------------------------------------------------------------------------------------------------
inline void barrier_init(uint64_t* b, int arrivals) { simt::barrier_init(b, arrivals); }
inline void barrier_fence() {}
inline void barrier_arrive(uint64_t* b) { simt::barrier_arrive(b, 0); }
inline void barrier_arrive_and_expect(uint64_t* b, int bytes) { simt::barrier_arrive(b, bytes); }
inline void barrier_wait(uint64_t* b, uint32_t parity) { simt::barrier_wait(b, parity); }

// -- copies of tensors ----------------------------------------------------------------------------------------------
using TensorMap = simt::TensorMap;

inline void copy_pixels(void* to, const TensorMap& map, int c, int w, int h, int n, int right, int down,
                        uint64_t* barrier) {
  const int at[4] = {c, w, h, n}, moved[2] = {right, down};
  simt::copy_tensor(to, map, at, moved, barrier);
}
inline void copy_filters(void* to, const TensorMap& map, int c, int tap, int k, uint64_t* barrier) {
  const int at[4] = {c, tap, k, 0}, moved[2] = {0, 0};
  simt::copy_tensor(to, map, at, moved, barrier);
}
inline void prefetch_map(const TensorMap&) {}

// -- products of a warpgroup ----------------------------------------------------------------------------------------
inline uint64_t tile_descriptor(const void* tile) {
  constexpr uint64_t SWIZZLE_128 = uint64_t(1) << 62, GROUP = uint64_t(1024 >> 4) << 32, UNUSED = uint64_t(1) << 16;
  return SWIZZLE_128 | GROUP | UNUSED | ((shared_address(tile) & 0x3ffff) >> 4);
}
inline void product_fence() {}
inline void product_commit() { simt::product_commit(); }
template <int pending>
void product_wait() {
  simt::product_wait(pending);
}

template <class T, int NV>
void product(T, float (&c)[NV][4], uint64_t a, uint64_t b) {
  static_assert(NV == 8 || NV == 16, "the products of ptx.cuh");
  simt::product({&c[0][0], a, b, 8 * NV, (int)sizeof(T), host::element<T>});
}

}  // namespace cuda
}  // namespace fastconv
