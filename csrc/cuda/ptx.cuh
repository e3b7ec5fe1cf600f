// Every instruction that C++ has no word for, each with a twin for the host that computes the same.
//
// Fragments of mma follow the PTX manual ("Matrix fragments for mma"): lane = 4 g + t holds of a 16 x (32 bytes)
// operand A four registers (rows g, g + 8, g, g + 8; 16-byte halves 0, 0, 1, 1, the t-th 4 bytes of each), of B
// [8 columns, 32 bytes each] two (column g, halves 0 and 1), of C (16 x 8 floats) rows g and g + 8, columns 2t, 2t + 1.
// ldmatrix gives exactly that from rows of 16 bytes, for tf32 too, whose elements are 4 bytes.
#pragma once
#include "device.cuh"

namespace fastconv {
namespace cuda {

struct half_t {
  uint16_t bits;
};
struct bfloat_t {
  uint16_t bits;
};

#if defined(__CUDACC__)
#define FASTCONV_ON_DEVICE 1
#else
#define FASTCONV_ON_DEVICE 0
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

struct Fragments {
  float* c;
  const uint32_t *a, *b;
};

// C += A B with elements of `bytes` bytes; `value` reads the i-th element of a 4-byte register. Products are exact and
// summed in float, in the order of the depth: the hardware's order is not documented.
template <int bytes, class Value>
void multiply(void* const lanes[simt::WARP], Value value) {
  constexpr int per = 4 / bytes, depth = 32 / bytes;
  float a[16][depth], b[8][depth];
  for (int lane = 0; lane < simt::WARP; lane++) {
    if (!lanes[lane]) return simt::fail("mma without all 32 lanes");
    const Fragments& f = *(const Fragments*)lanes[lane];
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++)
      for (int i = 0; i < per; i++) {
        const int k = (half * 4 + t) * per + i;
        a[g][k] = value(f.a[2 * half], i);
        a[g + 8][k] = value(f.a[2 * half + 1], i);
        b[g][k] = value(f.b[half], i);
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
}  // namespace host
#endif

// -- conversions ----------------------------------------------------------------------------------------------------
__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(half_t x) {
#if FASTCONV_ON_DEVICE
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  return host::from_half(x.bits);
#endif
}
__device__ inline float to_float(bfloat_t x) {
#if FASTCONV_ON_DEVICE
  return __uint_as_float((uint32_t)x.bits << 16);
#else
  return host::from_bfloat(x.bits);
#endif
}

template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline half_t from_float<half_t>(float x) {
#if FASTCONV_ON_DEVICE
  half_t y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  return {host::to_half(x)};
#endif
}
template <>
__device__ inline bfloat_t from_float<bfloat_t>(float x) {
#if FASTCONV_ON_DEVICE
  bfloat_t y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  return {host::to_bfloat(x)};
#endif
}

__device__ inline uint32_t round_tf32(uint32_t x) {
#if FASTCONV_ON_DEVICE
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(__uint_as_float(x)));
  return y;
#else
  return host::to_tf32(x);
#endif
}

__device__ inline float as_float(uint32_t x) {
#if FASTCONV_ON_DEVICE
  return __uint_as_float(x);
#else
  return host::float_of(x);
#endif
}
__device__ inline uint32_t as_bits(float x) {
#if FASTCONV_ON_DEVICE
  return __float_as_uint(x);
#else
  return host::bits_of(x);
#endif
}

// -- asynchronous copies --------------------------------------------------------------------------------------------
// 16 bytes from global to shared memory, past L1; zeros where !ok (then `from` is not read).
__device__ inline void copy_async16(void* to, const void* from, bool ok) {
#if FASTCONV_ON_DEVICE
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
  const int bytes = ok ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
#else
  simt::copy_async(to, from, 16, ok ? 16 : 0);
#endif
}
// The same for 4 bytes, which go through L1.
__device__ inline void copy_async4(void* to, const void* from, bool ok) {
#if FASTCONV_ON_DEVICE
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
  const int bytes = ok ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
#else
  simt::copy_async(to, from, 4, ok ? 4 : 0);
#endif
}
__device__ inline void copy_async_commit() {
#if FASTCONV_ON_DEVICE
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  simt::commit_group();
#endif
}
// Until at most `pending` of this thread's groups are under way.
template <int pending>
__device__ inline void copy_async_wait() {
#if FASTCONV_ON_DEVICE
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#else
  simt::wait_groups(pending);
#endif
}

// -- tensor cores ---------------------------------------------------------------------------------------------------
// Four 8 x 16-byte matrices; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
#if FASTCONV_ON_DEVICE
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#else
  host::MatrixRows mine{r, (const char*)row};
  if ((uintptr_t)row % 16) simt::fail("ldmatrix: unaligned row");
  simt::touch(row, 16, false);
  simt::meet(&mine, [](void* const lanes[simt::WARP]) {
    for (int lane = 0; lane < simt::WARP; lane++) {
      if (!lanes[lane]) return simt::fail("ldmatrix without all 32 lanes");
      for (int i = 0; i < 4; i++) {
        const auto* source = (const host::MatrixRows*)lanes[8 * i + lane / 4];
        if (source) memcpy(((host::MatrixRows*)lanes[lane])->r + i, source->row + lane % 4 * 4, 4);
      }
    }
  });
#endif
}

__device__ inline void mma(half_t, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if FASTCONV_ON_DEVICE
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  host::Fragments mine{c, a, b};
  simt::meet(&mine, [](void* const lanes[simt::WARP]) {
    host::multiply<2>(lanes, [](uint32_t r, int i) { return host::from_half((uint16_t)(r >> 16 * i)); });
  });
#endif
}
__device__ inline void mma(bfloat_t, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if FASTCONV_ON_DEVICE
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  host::Fragments mine{c, a, b};
  simt::meet(&mine, [](void* const lanes[simt::WARP]) {
    host::multiply<2>(lanes, [](uint32_t r, int i) { return host::from_bfloat((uint16_t)(r >> 16 * i)); });
  });
#endif
}
// Operands already rounded to tf32: the tensor cores ignore the lower 13 bits.
__device__ inline void mma(float, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if FASTCONV_ON_DEVICE
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  host::Fragments mine{c, a, b};
  simt::meet(&mine, [](void* const lanes[simt::WARP]) {
    host::multiply<4>(lanes, [](uint32_t r, int) { return host::float_of(r & ~0x1fffu); });
  });
#endif
}

}  // namespace cuda
}  // namespace fastconv
