// Nanoseconds for one of each term of cost.h, by Isa. Written by bench/fit_cost.py.
// From tests/kernels/cost.json: AMD EPYC, avx512 287 GFLOP/s, avx2 144 GFLOP/s, scalar 54 GFLOP/s.
#pragma once
#include "cpu/cost.h"

namespace fastconv {

// clang-format off
// operation, fma, store, pointer, weight, reread, image, far, panel, tile_in, tile_out, wide, tap, pixel, border, stream
constexpr double COST_NANOSECONDS[4][COST_TERMS] = {
    // scalar
    {125.9, 0.1676, 0, 0.7583, 0.01176, 0.005872, 0.008859, 0.007468, 0.000867, 1.493, 0.4956, 0.7872, 0.1436, 0.7225, 0, 0.03266},
    // avx2
    {77.69, 0.1188, 0, 0.4798, 0.01066, 0.007317, 0.004411, 0.004993, 0.0009677, 0.5771, 1.473, 2.38, 0.1188, 1.371, 0, 0.01936},
    // avx512
    {77, 0.1174, 0, 0.5295, 0.01285, 0.005378, 0.002574, 0.01028, 0, 0.7545, 1.426, 3.12, 0.1613, 0.6269, 0, 0.01794},
    // neon: not measured, as avx2
    {77.69, 0.1188, 0, 0.4798, 0.01066, 0.007317, 0.004411, 0.004993, 0.0009677, 0.5771, 1.473, 2.38, 0.1188, 1.371, 0, 0.01936},
};
// clang-format on

}  // namespace fastconv
