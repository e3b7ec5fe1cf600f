// Nanoseconds for one of each term of cost.h, by Isa. Written by bench/fit_cost.py.
// From tests/kernels/cost.json: AMD EPYC, avx512 287 GFLOP/s, avx2 140 GFLOP/s, scalar 57 GFLOP/s.
#pragma once
#include "cpu/cost.h"

namespace fastconv {

// clang-format off
// operation, fma, store, pointer, weight, reread, image, far, panel, tile_in, tile_out, wide, tap, pixel, border, stream
constexpr double COST_NANOSECONDS[4][COST_TERMS] = {
    // scalar
    {32.31, 0.1699, 1.097, 0.6542, 0, 0, 0.002184, 0, 7.899e-05, 1.731, 0, 0.4487, 0.3954, 0.9048, 0.06442, 0.02785},
    // avx2
    {61.47, 0.1257, 0.3831, 0.4754, 0.007695, 0.007461, 0.002105, 0.004074, 0, 0.7997, 1.55, 2.7, 0.1302, 1.291, 0, 0.02797},
    // avx512
    {59.45, 0.1198, 0.04229, 0.472, 0.01147, 0.005996, 0.001877, 0.009285, 0, 1.015, 1.218, 2.639, 0.1845, 0.4477, 0, 0.02526},
    // neon: not measured, as avx2
    {61.47, 0.1257, 0.3831, 0.4754, 0.007695, 0.007461, 0.002105, 0.004074, 0, 0.7997, 1.55, 2.7, 0.1302, 1.291, 0, 0.02797},
};
// clang-format on

}  // namespace fastconv
