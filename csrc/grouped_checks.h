// Which convolutions grouped_conv2d computes, and how it cuts their images (cpu/grouped_conv2d.cpp): pure functions of
// shape and instruction set.
#pragma once
#include <stdint.h>

namespace fastconv {

constexpr int64_t GROUPED_CHANNELS = 32;  // of a group, the most
constexpr int64_t GROUPED_LINE = 7;       // outputs, the fewest

// Groups whose channels make a vector of V floats, as many as are computed together, or one.
template <class D>
static inline int64_t merged_groups(const D& d, int64_t V) {
  const int64_t Cg = d.C / d.groups, Kg = d.K / d.groups;
  return Cg == Kg && Kg >= 4 && V % Kg == 0 ? V / Kg : 1;
}

// Output rows of a band, of whose image a part is copied at a time, and that copy's rows and pixels a row.
struct GroupBand {
  int64_t rows, height, width;
};

template <class D>
static inline GroupBand group_band(const D& d, int64_t V) {
  constexpr int64_t FLOATS = 4096;  // half of L1
  const int64_t width = (d.Q - 1) * d.stride_w + d.S;
  const int64_t height = FLOATS / (width * merged_groups(d, V) * (d.C / d.groups));
  const int64_t most = height < d.R ? 1 : (height - d.R) / d.stride_h + 1;
  const int64_t rows = most < d.P ? most : d.P;
  return {rows, (rows - 1) * d.stride_h + d.R, width};
}

// Fields may hold anything yet.
template <class D>
static inline bool grouped_fits(const D& d, int64_t V) {
  const bool window = d.R >= 1 && d.R <= 1024 && d.S == 3 && d.dilation_h == 1 && d.dilation_w == 1 &&
                      d.stride_h >= 1 && d.stride_w >= 1 && d.stride_w <= 2 && d.pad_t >= 0 && d.pad_l >= 0;
  if (d.groups < 2 || !window || d.N < 1 || d.P < 1 || d.Q < GROUPED_LINE) return false;
  const int64_t Cg = d.C / d.groups, Kg = d.K / d.groups;
  if (Cg < 2 || Cg > GROUPED_CHANNELS || Kg < 2 || Kg > GROUPED_CHANNELS) return false;
  const double width = ((double)d.Q - 1) * (double)d.stride_w + 3;
  return width * (double)(d.R * merged_groups(d, V) * Cg) <= 65536;  // a window's rows lie in L2
}

}  // namespace fastconv
