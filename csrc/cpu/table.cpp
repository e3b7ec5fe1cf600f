// This level's row of the dispatch table, and its peak: independent FMA chains in registers, as many as hide latency.
#include "cpu/table.h"

#include "cpu/kernels.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int CHAINS = Vec::N == 16 ? 24 : Vec::N == 8 ? 12 : 10;

float fma_rate(int64_t iterations) {
  Vec acc[CHAINS], a = set1(0.999f), b = set1(1e-3f);
  for (int i = 0; i < CHAINS; i++) acc[i] = set1((float)i);
  for (int64_t k = 0; k < iterations; k++) {
#pragma GCC unroll 32
    for (int i = 0; i < CHAINS; i++) acc[i] = fma(acc[i], a, b);
  }
  float total = 0;
  for (int i = 0; i < CHAINS; i++) total += sum(acc[i]);
  return total;
}

}  // namespace

extern const KernelTable table;
const KernelTable table = {
#define KERNEL(name, Descriptor) name,
#include "cpu/kernels.def"
#undef KERNEL
    winograd_filter,
    fma_rate,
    2.0 * CHAINS * Vec::N,
    Vec::N,
    MAX_NV,
    DENSE_NV,
    {ROWS[0], ROWS[1], ROWS[2], ROWS[3], ROWS[4]}};

}  // namespace FASTCONV_ISA
}  // namespace fastconv
