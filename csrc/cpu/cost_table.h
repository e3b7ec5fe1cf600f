// Nanoseconds for one of each term of cost.h, by Isa. Written by bench/fit_cost.py.
// From tests/kernels/cost.json: AMD EPYC, avx512 284 GFLOP/s, avx2 139 GFLOP/s, scalar 57 GFLOP/s.
#pragma once
#include "cpu/cost.h"

namespace fastconv {

// operation, fma, store, pointer, weight, bare, reread, image, far, panel, tile_in, tile_out, tap, pixel, border,
// stream
constexpr double COST_NANOSECONDS[4][COST_TERMS] = {
    // scalar
    {32.74, 0.165, 1.235, 0.644, 0, 0, 0, 0.00582, 0, 0.001294, 0.4489, 0.02394, 0.4032, 0.5917, 0.05354, 0.02786},
    // avx2
    {58.57, 0.1227, 0.3825, 0.5098, 0.009065, 0.001354, 0.006661, 0.006709, 0.003801, 0.0002409, 1.017, 1.203, 0.1904,
     1.803, 0.01489, 0.02559},
    // avx512
    {55.95, 0.1181, 0.2664, 0.5237, 0.008087, 0.004416, 0.003706, 0.004518, 0, 0.001215, 1.177, 0.9604, 0.3998, 0.04115,
     0.0423, 0.02337},
    // neon: not measured, as avx2
    {58.57, 0.1227, 0.3825, 0.5098, 0.009065, 0.001354, 0.006661, 0.006709, 0.003801, 0.0002409, 1.017, 1.203, 0.1904,
     1.803, 0.01489, 0.02559},
};

}  // namespace fastconv
