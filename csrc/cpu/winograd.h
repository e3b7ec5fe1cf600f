// Layout facts of Winograd's convolution that kernels, packing and checks share.
#pragma once
#include <stdint.h>

namespace fastconv {

constexpr int64_t PLANE_PAD = 16;  // floats behind each plane

// Finite interpolation points of an edge of T numbers; the last point is infinity.
constexpr double WINOGRAD_POINTS_4[] = {0, 1, -1};
constexpr double WINOGRAD_POINTS_5[] = {0, 0.75, -0.75, 1.75};
constexpr double WINOGRAD_POINTS_6[] = {0, 0.625, -0.625, 1.5, -1.5};
constexpr double WINOGRAD_POINTS_8[] = {0, 0.5, -0.5, 1, -1, 2.25, -2.25};

// Which axes of the image a filter runs along: r x r, r x 1 or 1 x r.
enum WinogradAxes : int64_t { WINOGRAD_BOTH, WINOGRAD_DOWN, WINOGRAD_ACROSS };

// Seven taps along one axis are two filters of four, the last tap of the second is zero: their windows lie four pixels
// apart, and one product of twice the depth sums both. An edge of 9 numbers (F(3,7)) would have ten times the error.
static inline int64_t winograd_parts(int64_t r) { return r == 7 ? 2 : 1; }
static inline int64_t winograd_taps(int64_t r) { return r == 7 ? 4 : r; }  // of a part

// What follows from m, r and axes.
struct WinogradForm {
  int64_t edge, parts, planes;
  int64_t step_h, step_w;  // output pixels of a tile
  int64_t side_h, side_w;  // input pixels of a tile
};
static inline WinogradForm winograd_form(int64_t m, int64_t r, int64_t axes) {
  const int64_t parts = winograd_parts(r), taps = winograd_taps(r), edge = m + taps - 1;
  const int64_t side = edge + (parts - 1) * taps;
  return {edge,
          parts,
          axes == WINOGRAD_BOTH ? edge * edge : edge,
          axes == WINOGRAD_ACROSS ? 1 : m,
          axes == WINOGRAD_DOWN ? 1 : m,
          axes == WINOGRAD_ACROSS ? 1 : side,
          axes == WINOGRAD_DOWN ? 1 : side};
}

// The matrix G of F(m, r), g[edge][taps]: row j holds the powers of point j over its distances to the others; the last
// row is infinity. line: filters of one axis, of `taps` taps that are there, the others are zero.
struct WinogradFilter {
  int edge, taps;
  double g[8][5];
  bool line;
  int there;
};

inline bool winograd_known(int64_t m, int64_t r, int64_t axes) {
  if (axes == WINOGRAD_DOWN || axes == WINOGRAD_ACROSS) return r == 3 ? m >= 2 && m <= 4 : r == 7 && m == 3;
  if (axes != WINOGRAD_BOTH) return false;
  return r == 3 ? (m >= 2 && m <= 4) || m == 6 : r == 5 && m == 2;
}

}  // namespace fastconv
