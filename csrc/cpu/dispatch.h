// Which ISA levels this CPU and this build have, and the kernels of each.
#pragma once
#include "cpu/table.h"

namespace fastconv {

bool isa_supported(Isa isa);          // by this CPU, its operating system, and this build
const KernelTable& kernels(Isa isa);  // isa must be supported
inline const Geometry& geometry(Isa isa) { return GEOMETRY[(int)isa]; }  // of any level
const char* isa_name(Isa isa);
bool isa_from_name(const char* name, Isa* isa);
Isa best_isa();

}  // namespace fastconv
