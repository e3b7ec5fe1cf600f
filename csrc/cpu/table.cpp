// This level's row of the dispatch table, and its peak: independent FMA chains in registers, as many as hide latency.
#include "cpu/table.h"

#include "cpu/kernels.h"

#if defined(FASTCONV_SOME_KERNELS)
#include "fastconv_kept.h"
#define ENTRY(name) FASTCONV_ENTRY_##name
#else
#define ENTRY(name) name
#endif

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int CHAINS = REGISTERS == 32 ? 24 : Vec::N == 8 ? 12 : 10;

constexpr Geometry MINE = GEOMETRY[(int)Isa::FASTCONV_ISA];
static_assert(MINE.vector_length == Vec::N && MINE.max_panel == MAX_NV && MINE.dense_panel == DENSE_NV, "table.h");
static_assert(MINE.rows[0] == ROWS[0] && MINE.rows[1] == ROWS[1] && MINE.rows[2] == ROWS[2] &&
                  MINE.rows[3] == ROWS[3] && MINE.rows[4] == ROWS[4],
              "table.h");

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
#define KERNEL(name, Descriptor) ENTRY(name),
#include "cpu/kernels.def"
#undef KERNEL
    ENTRY(winograd_filter), ENTRY(pack_panel), fma_rate, 2.0 * CHAINS * Vec::N};

}  // namespace FASTCONV_ISA
}  // namespace fastconv
