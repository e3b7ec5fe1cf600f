// Where a convolution takes vectors of images instead of vectors of output channels (cpu/conv2d_images.cpp), forward
// and for its weights' gradient: a pure function of shape and instruction set.
#pragma once
#include <algorithm>
#include <cmath>

#include "cpu/dispatch.h"
#include "ops.h"

namespace fastconv {

struct ImageBands {
  int64_t groups, bands, rows;  // of images; of output rows; rows of a band
};

// Bytes of a thread's scratch for `rows` rows of output: the pixels of x under them, and y or g.
template <class D>
double image_bytes(const D& d, int64_t rows, int64_t out_rows, Isa isa) {
  const double reach = ((double)rows - 1) * (double)d.stride_h + ((double)d.R - 1) * (double)d.dilation_h + 1;
  const double columns = std::max((double)d.pad_l + (double)d.W, ((double)d.Q - 1) * (double)d.stride_w +
                                                                     ((double)d.S - 1) * (double)d.dilation_w + 1);
  return 4.0 * geometry(isa).vector_length * (reach * columns * (double)d.C + (double)(out_rows * d.Q * d.K));
}

constexpr double IMAGE_BYTES = 512 << 10;  // half of L2

// Products per pixel and image, with what lies idle: lanes of channels there, of images here, and six instructions for
// each number that is turned. Tiles of one vector of channels read a number for each product: 60 to 70% of the peak.
template <class D>
bool images_pay(const D& d, Isa isa) {
  if (d.groups != 1 || d.N < 2 || d.P < 1 || d.Q < 1 || d.K > 64 || d.R * d.S < 4) return false;
  const double V = geometry(isa).vector_length, N = (double)d.N, K = (double)d.K;
  const double depth = (double)d.C * (double)(d.R * d.S), lanes = std::ceil(N / V) * V / N;
  const double turned = (depth * K / 0.9 + 6 * ((double)d.C * (double)(d.stride_h * d.stride_w) + K)) * lanes;
  const double columns = depth * std::ceil(K / V) * V / (K <= V ? 0.7 : 0.95);
  return turned < 0.95 * columns && image_bytes(d, 1, 1, isa) <= IMAGE_BYTES;
}

// About sixteen chunks, none below a few microseconds, and what each holds stays in L2.
template <class D>
ImageBands image_bands(const D& d, Isa isa, bool keeps_rows) {
  const int64_t V = geometry(isa).vector_length, groups = (d.N + V - 1) / V;
  const double row_flops = 2.0 * (double)(d.C * d.R * d.S) * (double)(d.K * d.Q * V);
  int64_t rows = std::max<int64_t>((d.P * groups + 15) / 16, (int64_t)std::min(1e6, std::ceil((1 << 20) / row_flops)));
  rows = std::min(rows, d.P);
  const double one = image_bytes(d, 1, 1, isa), more = image_bytes(d, 2, keeps_rows ? 2 : 1, isa) - one;
  rows = std::min(rows, 1 + (int64_t)std::min(1e9, std::max(0.0, IMAGE_BYTES - one) / more));
  const int64_t bands = (d.P + rows - 1) / rows;
  return {groups, bands, (d.P + bands - 1) / bands};
}

}  // namespace fastconv
