// Layout facts of F(4x4, 3x3) that kernels, packing and checks share.
#pragma once
#include <stdint.h>

namespace fastconv {

constexpr int64_t PLANE_PAD = 16;  // floats behind each of the 36 planes

}  // namespace fastconv
