// Detects the CPU (compiled with baseline flags only).
#include "cpu/dispatch.h"

#include <string.h>

namespace fastconv {

namespace scalar {
extern const KernelTable table;
}
#if defined(FASTCONV_HAVE_X86)
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif

static const char* const names[] = {"scalar", "avx2", "avx512", "neon"};

bool isa_supported(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return true;
#if defined(FASTCONV_HAVE_X86)
    // The compiler's check covers the operating system too: it asks XGETBV which registers are saved.
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::avx512:
      return isa_supported(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
    default:
      return false;
  }
}

const KernelTable& kernels(Isa isa) {
#if defined(FASTCONV_HAVE_X86)
  if (isa == Isa::avx2) return avx2::table;
  if (isa == Isa::avx512) return avx512::table;
#endif
  (void)isa;
  return scalar::table;
}

const char* isa_name(Isa isa) { return names[(int)isa]; }

bool isa_from_name(const char* name, Isa* isa) {
  for (int i = 0; i < 4; i++) {
    if (strcmp(name, names[i]) == 0) {
      *isa = (Isa)i;
      return true;
    }
  }
  return false;
}

Isa best_isa() {
  if (isa_supported(Isa::avx512)) return Isa::avx512;
  if (isa_supported(Isa::avx2)) return Isa::avx2;
  return Isa::scalar;
}

}  // namespace fastconv
