// Picks the vector level that a kernel file is compiled for. CMake compiles every csrc/cpu/<op>.cpp once per level with
// FASTCONV_ISA set to the level's name, which is also the namespace: nothing with external linkage may stand outside
// it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(FASTCONV_ISA_AVX512)
#define FASTCONV_ISA avx512
#include "cpu/simd/avx512.h"
#elif defined(FASTCONV_ISA_AVX2)
#define FASTCONV_ISA avx2
#include "cpu/simd/avx2.h"
#elif defined(FASTCONV_ISA_NEON)
#define FASTCONV_ISA neon
#include "cpu/simd/neon.h"
#else
#define FASTCONV_ISA scalar
#include "cpu/simd/scalar.h"
#endif
