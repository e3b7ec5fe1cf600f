// What kernels share whose vectors hold one number of Vec::N images: pixels on their way into that order and back.
//
// For layers of so few output channels that a vector of channels would be mostly empty, where the batch is large.
#pragma once
#include "cpu/gemm.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

constexpr int IMAGE_PIXELS = 4;                          // of a tile
constexpr int IMAGE_CHANNELS = REGISTERS >= 32 ? 6 : 3;  // 24 or 12 accumulators

// The tile of `rows` by `channels` among Products::tile<1 to 4, 1 to IMAGE_CHANNELS>.
template <class Products, int ROWS, int KB = IMAGE_CHANNELS>
typename Products::Function tile_of_channels(int64_t channels) {
  if constexpr (KB == 0) {
    return nullptr;
  } else {
    return channels == KB ? Products::template tile<ROWS, KB> : tile_of_channels<Products, ROWS, KB - 1>(channels);
  }
}

template <class Products>
typename Products::Function find_tile_of(int64_t rows, int64_t channels) {
  switch (rows) {
    case 1:
      return tile_of_channels<Products, 1>(channels);
    case 2:
      return tile_of_channels<Products, 2>(channels);
    case 3:
      return tile_of_channels<Products, 3>(channels);
    default:
      return tile_of_channels<Products, 4>(channels);
  }
}

// Images [first, first + count) of a batch, at most Vec::N.
struct Images {
  int64_t first, count;
  Images(int64_t N, int64_t group) : first(group * Vec::N), count(min_i(Vec::N, N - first)) {}
};

// `n` neighbouring floats of each image, an image apart: out[i] holds the i-th of all; zero beyond the last image.
inline void turn_in(const float* x, int64_t image, int64_t images, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += Vec::N) {
    const int lanes = (int)min_i(Vec::N, n - i);
    Vec r[Vec::N];
    for (int j = 0; j < Vec::N; j++)
      r[j] = j >= images ? zero() : lanes == Vec::N ? load(x + j * image + i) : load_n(x + j * image + i, lanes);
    transpose(r);
    for (int j = 0; j < lanes; j++) store(out + (i + j) * Vec::N, r[j]);
  }
}

// `pixels` pixels of C channels, ld apart.
inline void turn_pixels_in(const float* x, int64_t image, int64_t images, int64_t pixels, int64_t C, int64_t ld,
                           float* out) {
  if (ld == C) return turn_in(x, image, images, pixels * C, out);
  for (int64_t p = 0; p < pixels; p++) turn_in(x + p * ld, image, images, C, out + p * C * Vec::N);
}

// Rows [first, last) of an image with a border of zeros: [h][columns][C][image], `left` zero columns before each row.
struct Band {
  int64_t first, last, columns, left;
};

template <class D>
inline void turn_band_in(const D& d, const float* x, const Images& images, const Band& b, float* out) {
  const int64_t pixel = d.C * Vec::N, right = b.columns - b.left - d.W;
  for (int64_t h = b.first; h < b.last; h++, out += b.columns * pixel) {
    const bool inside = h >= 0 && h < d.H;
    const int64_t before = inside ? b.left : b.columns;
    for (int64_t i = 0; i < before * d.C; i++) store(out + i * Vec::N, zero());
    if (!inside) continue;
    float* row = out + b.left * pixel;
    turn_pixels_in(x + images.first * d.x_image + h * d.x_row, d.x_image, images.count, d.W, d.C, d.x_ld, row);
    row += d.W * pixel;
    for (int64_t i = 0; i < right * d.C; i++) store(row + i * Vec::N, zero());
  }
}

// Columns of a band: as far as windows and pixels reach.
template <class D>
inline int64_t band_columns(const D& d) {
  return max_i(d.pad_l + d.W, (d.Q - 1) * d.stride_w + (d.S - 1) * d.dilation_w + 1);
}

}  // namespace
}  // namespace FASTCONV_ISA
}  // namespace fastconv
