// Detects the CPU (compiled with baseline flags only). FASTCONV_HAVE_<LEVEL> says which levels are built.
#include "cpu/dispatch.h"

#include <string.h>

#include <initializer_list>

namespace fastconv {

#if defined(FASTCONV_HAVE_SCALAR)
namespace scalar {
extern const KernelTable table;
}
#endif
#if defined(FASTCONV_HAVE_AVX2)
namespace avx2 {
extern const KernelTable table;
}
#endif
#if defined(FASTCONV_HAVE_AVX512)
namespace avx512 {
extern const KernelTable table;
}
#endif
#if defined(FASTCONV_HAVE_NEON)
namespace neon {
extern const KernelTable table;
}
#endif

static const char* const names[] = {"scalar", "avx2", "avx512", "neon"};

#if defined(__x86_64__)
// The compiler's check covers the operating system too: it asks XGETBV which registers are saved.
[[maybe_unused]] static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

[[maybe_unused]] static bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

static const KernelTable* find(Isa isa) {
  switch (isa) {
#if defined(FASTCONV_HAVE_SCALAR)
    case Isa::scalar:
      return &scalar::table;
#endif
#if defined(FASTCONV_HAVE_AVX2)
    case Isa::avx2:
      return has_avx2() ? &avx2::table : nullptr;
#endif
#if defined(FASTCONV_HAVE_AVX512)
    case Isa::avx512:
      return has_avx512() ? &avx512::table : nullptr;
#endif
#if defined(FASTCONV_HAVE_NEON)
    case Isa::neon:  // every aarch64 has it
      return &neon::table;
#endif
    default:
      return nullptr;
  }
}

bool isa_supported(Isa isa) { return find(isa) != nullptr; }

const KernelTable& kernels(Isa isa) { return *find(isa); }

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
  for (Isa isa : {Isa::avx512, Isa::avx2, Isa::neon}) {
    if (isa_supported(isa)) return isa;
  }
  return Isa::scalar;
}

}  // namespace fastconv
