// Nanoseconds for one of each term of cost.h, by Isa. Written by bench/fit_cost.py.
// From tests/kernels/cost.json: AMD EPYC, avx512 284 GFLOP/s, avx2 139 GFLOP/s, scalar 57 GFLOP/s.
#pragma once
#include "cpu/cost.h"

namespace fastconv {

// clang-format off
// operation, fma, store, pointer, weight, reread, image, far, panel, tile_in, tile_out, wide, tap, pixel, border, stream
constexpr double COST_NANOSECONDS[4][COST_TERMS] = {
    // scalar
    {32.31, 0.1699, 1.097, 0.6542, 0, 0, 0.002184, 0, 7.899e-05, 1.731, 0, 0.4487, 0.3954, 0.9048, 0.06442, 0.02785},
    // avx2
    {60.96, 0.125, 0.3725, 0.5124, 0.007925, 0.007684, 0.004265, 0.005571, 0, 0.8205, 1.539, 2.675, 0.1926, 1.909, 0.01363, 0.02559},
    // avx512
    {58.14, 0.1189, 0.38, 0.5176, 0.01131, 0.006283, 0.00347, 0, 0, 1.171, 0.9414, 2.617, 0.4012, 0.15, 0.04108, 0.02336},
    // neon: not measured, as avx2
    {60.96, 0.125, 0.3725, 0.5124, 0.007925, 0.007684, 0.004265, 0.005571, 0, 0.8205, 1.539, 2.675, 0.1926, 1.909, 0.01363, 0.02559},
};
// clang-format on

}  // namespace fastconv
