// The weights' gradient where lanes are images (conv2d_images.cpp): a tile keeps the products of IMAGE_PIXELS elements
// (tap, c) by IMAGE_CHANNELS output channels in registers while all pixels of a part run by. A part is a group of
// Vec::N images and a band of rows; its lanes are added at the end, so that its sums are those of
// conv2d_backward_weight.cpp, [tap][c][columns]. Padding is read as zeros: an infinite g gives NaN there (0 * inf), by
// the definition as well.
#include "cpu/images.h"
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

struct Product {
  const float *x, *g;
  int64_t offsets[IMAGE_PIXELS];  // of elements (tap, c)
  int64_t rows, columns;          // pixels
  int64_t x_row, x_pixel, g_pixel;
  float* sums;  // elements x channels, vectors
  int64_t sums_ld;
};

template <int E, int KB>
void product(const Product& t) {
  constexpr int V = Vec::N;
  Vec acc[E][KB];
#pragma GCC unroll 8
  for (int e = 0; e < E; e++)
#pragma GCC unroll 8
    for (int k = 0; k < KB; k++) acc[e][k] = zero();
  const float* g = t.g;
  for (int64_t p = 0; p < t.rows; p++) {
    const float* x[E];
#pragma GCC unroll 8
    for (int e = 0; e < E; e++) x[e] = t.x + p * t.x_row + t.offsets[e];
    for (int64_t at = 0, q = 0; q < t.columns; q++, at += t.x_pixel, g += t.g_pixel) {
      Vec held[KB];
#pragma GCC unroll 8
      for (int k = 0; k < KB; k++) held[k] = load(g + k * V);
#pragma GCC unroll 8
      for (int e = 0; e < E; e++) {
        const Vec a = load(x[e] + at);
#pragma GCC unroll 8
        for (int k = 0; k < KB; k++) acc[e][k] = fma(a, held[k], acc[e][k]);
      }
    }
  }
#pragma GCC unroll 8
  for (int e = 0; e < E; e++)
#pragma GCC unroll 8
    for (int k = 0; k < KB; k++) store(t.sums + e * t.sums_ld + k * V, acc[e][k]);
}

struct Products {
  using Function = void (*)(const Product&);
  template <int E, int KB>
  static constexpr Function tile = product<E, KB>;
};

// The lanes of `count` vectors added up, into `count` floats rounded up to whole vectors.
void add_lanes(const float* sums, int64_t count, float* out) {
  for (int64_t k = 0; k < count; k += Vec::N) {
    Vec r[Vec::N];
    for (int j = 0; j < Vec::N; j++) r[j] = k + j < count ? load(sums + (k + j) * Vec::N) : zero();
    transpose(r);
    for (int half = Vec::N / 2; half; half /= 2)
      for (int j = 0; j < half; j++) r[j] = add(r[j], r[j + half]);
    store(out + k, r[0]);
  }
}

}  // namespace

void conv2d_backward_weight_images(const Conv2dBackwardWeight& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t V = Vec::N, pixel = d.C * V, elements = d.R * d.S * d.C, width = (d.K + V - 1) / V * V;
  const int64_t bands = d.parts / ((d.N + V - 1) / V);
  const int64_t e_blocks = (elements + IMAGE_PIXELS - 1) / IMAGE_PIXELS;
  const int64_t k_blocks = (d.K + IMAGE_CHANNELS - 1) / IMAGE_CHANNELS;
  Band band;
  band.columns = band_columns(d);
  band.left = d.pad_l;
  for (int64_t part = begin; part < end; part++) {
    const Images images(d.N, part / bands);
    const int64_t first = chunk_begin(d.P, bands, part % bands), last = chunk_begin(d.P, bands, part % bands + 1);
    band.first = first * d.stride_h - d.pad_t;
    band.last = (last - 1) * d.stride_h - d.pad_t + (d.R - 1) * d.dilation_h + 1;
    float *x = b.scratch, *g = x + (band.last - band.first) * band.columns * pixel;
    float* sums = g + (last - first) * d.Q * d.K * V;
    turn_band_in(d, b.in[0], images, band, x);
    const int64_t image = d.P * d.Q;
    turn_pixels_in(b.in[1] + (images.first * image + first * d.Q) * d.g_ld, image * d.g_ld, images.count,
                   (last - first) * d.Q, d.K, d.g_ld, g);
    Product t;
    t.x = x;
    t.rows = last - first;
    t.columns = d.Q;
    t.x_row = d.stride_h * band.columns * pixel;
    t.x_pixel = d.stride_w * pixel;
    t.g_pixel = d.K * V;
    t.sums_ld = d.K * V;
    for (int64_t i = 0; i < e_blocks; i++) {
      const int64_t e = elements * i / e_blocks, n = elements * (i + 1) / e_blocks - e;
      for (int64_t j = 0; j < n; j++) {
        const int64_t tap = (e + j) / d.C, r = tap / d.S, s = tap % d.S;
        t.offsets[j] = ((r * d.dilation_h * band.columns + s * d.dilation_w) * d.C + (e + j) % d.C) * V;
      }
      for (int64_t block = 0; block < k_blocks; block++) {
        const int64_t k = d.K * block / k_blocks, channels = d.K * (block + 1) / k_blocks - k;
        t.g = g + k * V;
        t.sums = sums + k * V;
        find_tile_of<Products>(n, channels)(t);
      }
      for (int64_t j = 0; j < n; j++)
        add_lanes(sums + j * t.sums_ld, d.K, b.out + part * elements * width + (e + j) * width);
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
