// Layout facts of Winograd's convolution that kernels, packing and checks share.
#pragma once
#include <stdint.h>

namespace fastconv {

constexpr int64_t PLANE_PAD = 16;  // floats behind each plane

// Finite interpolation points of an edge of T numbers; the last point is infinity.
constexpr double WINOGRAD_POINTS_4[] = {0, 1, -1};
constexpr double WINOGRAD_POINTS_5[] = {0, 0.75, -0.75, 1.75};
constexpr double WINOGRAD_POINTS_6[] = {0, 0.625, -0.625, 1.5, -1.5};

// The matrix G of F(m, r), g[edge][taps]: row j holds the powers of point j over its distances to the others; the last
// row is infinity.
struct WinogradFilter {
  int edge, taps;
  double g[6][5];
};

inline bool winograd_known(int64_t m, int64_t r) {
  return (m == 2 && r == 3) || (m == 3 && r == 3) || (m == 4 && r == 3) || (m == 2 && r == 5);
}

}  // namespace fastconv
