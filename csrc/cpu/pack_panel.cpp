// One panel of constant weights, for whichever level: cpu/pack.cpp calls that of the best level here.
#include "cpu/panel.h"

namespace fastconv {
namespace FASTCONV_ISA {

void pack_panel(const FilterPanel& p) { transpose_run(p, 0, p.depth * p.taps); }

}  // namespace FASTCONV_ISA
}  // namespace fastconv
