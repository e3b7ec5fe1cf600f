// What the checks of descriptors are made of: ranges, extents of strided boxes, and numbers of chunks.
#pragma once
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "ops.h"

namespace fastconv {

inline constexpr int64_t SIZE_LIMIT = int64_t(1) << 40;    // of a dimension, a stride or a buffer, in elements
inline constexpr int64_t WINDOW_LIMIT = int64_t(1) << 20;  // of a window, its stride and its dilation
inline constexpr int64_t IMAGE_LIMIT = int64_t(1)
                                       << 31;  // of H, W, P, Q and padding: products with the above fit 64 bits
inline constexpr double CHUNK = 8192;          // elements

inline void in_range(const char* op, const char* field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    throw std::invalid_argument(std::string(op) + ": " + field + " must be from " + std::to_string(low) + " to " +
                                std::to_string(high) + ", got " + std::to_string(value));
}

#define CHECK(op, field, low, high) in_range(op, #field, d.field, low, high)

struct Dim {
  int64_t size, stride;
};

inline void too_large(const char* op, const char* buffer) {
  throw std::invalid_argument(std::string(op) + ": buffer " + buffer + " reaches beyond " + std::to_string(SIZE_LIMIT) +
                              " elements");
}

// One more than the largest index; 0 where a dimension is 0.
inline int64_t reach(const char* op, const char* buffer, const std::vector<Dim>& dims) {
  int64_t last = 0;
  bool empty = false;
  for (const Dim& d : dims) {
    in_range(op, (std::string("a dimension of ") + buffer).c_str(), d.size, 0, SIZE_LIMIT);
    in_range(op, (std::string("a stride of ") + buffer).c_str(), d.stride, 0, SIZE_LIMIT);
    empty = empty || d.size == 0;
    int64_t step = 0;
    if (d.size > 0 && (__builtin_mul_overflow(d.size - 1, d.stride, &step) ||
                       __builtin_add_overflow(last, step, &last) || last >= SIZE_LIMIT))
      too_large(op, buffer);
  }
  return empty ? 0 : last + 1;
}

// The same for an output: distinct elements must have distinct addresses. With the strides sorted, each must step over
// everything that the smaller ones reach; so the number of elements is at most the result.
inline int64_t reach_distinct(const char* op, std::vector<Dim> dims) {
  const int64_t size = reach(op, "y", dims);
  if (size == 0) return 0;
  std::sort(dims.begin(), dims.end(), [](const Dim& a, const Dim& b) { return a.stride < b.stride; });
  int64_t inner = 0;
  for (const Dim& d : dims) {
    if (d.size == 1) continue;
    if (d.stride <= inner)
      throw std::invalid_argument(std::string(op) + ": elements of y overlap: a stride of " + std::to_string(d.stride) +
                                  " steps over " + std::to_string(inner + 1) + " elements");
    inner += (d.size - 1) * d.stride;
  }
  return size;
}

inline int64_t rows_extent(const char* op, const char* buffer, int64_t rows, int64_t ld, int64_t n) {
  return reach(op, buffer, {{rows, ld}, {n, 1}});
}

// The product of sizes, of which none is negative.
inline int64_t times(const char* op, const char* buffer, std::initializer_list<int64_t> sizes) {
  int64_t total = 1;
  for (const int64_t n : sizes) {
    in_range(op, (std::string("a dimension of ") + buffer).c_str(), n, 0, SIZE_LIMIT);
    if (__builtin_mul_overflow(total, std::max<int64_t>(n, 1), &total) || total > SIZE_LIMIT) too_large(op, buffer);
  }
  for (const int64_t n : sizes)
    if (n == 0) return 0;
  return total;
}

// Sizes of images, windows and, up to `steps`, their strides and dilations.
template <typename D>
void check_windows(const char* op, const D& d, int64_t steps) {
  CHECK(op, N, 0, IMAGE_LIMIT);
  CHECK(op, H, 1, IMAGE_LIMIT);
  CHECK(op, W, 1, IMAGE_LIMIT);
  CHECK(op, C, 1, IMAGE_LIMIT);
  CHECK(op, P, 0, IMAGE_LIMIT);
  CHECK(op, Q, 0, IMAGE_LIMIT);
  CHECK(op, R, 1, WINDOW_LIMIT);
  CHECK(op, S, 1, WINDOW_LIMIT);
  CHECK(op, stride_h, 1, steps);
  CHECK(op, stride_w, 1, steps);
  CHECK(op, dilation_h, 1, steps);
  CHECK(op, dilation_w, 1, steps);
  CHECK(op, pad_t, 0, IMAGE_LIMIT);
  CHECK(op, pad_l, 0, IMAGE_LIMIT);
}

inline std::vector<Dim> box(const int64_t* dims, const int64_t* strides, int64_t rank) {
  std::vector<Dim> r;
  for (int64_t i = 0; i < rank; i++) r.push_back({dims[i], strides[i]});
  return r;
}

// Rounded up so that two threads get as many chunks each.
inline int64_t even(int64_t chunks) { return chunks > 1 ? chunks + chunks % 2 : chunks; }

// ceil(work / per_chunk) chunks, made even, but at most one for each unit that can be split off.
inline int64_t chunks_of(double work, double per_chunk, double units) {
  const double wanted = std::max(1.0, std::min(std::ceil(work / per_chunk), 1e6));
  return static_cast<int64_t>(std::max(1.0, std::min<double>(even(static_cast<int64_t>(wanted)), units)));
}

inline double product(const int64_t* dims, int64_t rank) {
  double p = 1;
  for (int64_t i = 0; i < rank; i++) p *= static_cast<double>(dims[i]);
  return p;
}

// Chunks of `dims` elements, each computed by itself.
inline int64_t element_chunks(const int64_t* dims, int64_t rank) {
  const double work = product(dims, rank);
  return chunks_of(work, CHUNK, work);
}

inline double blocks(int64_t n, int64_t size) { return static_cast<double>((n + size - 1) / size); }

}  // namespace fastconv
