// Operations that the GPU does not have. The compiler chooses none of them for it (Winograd), or says so to the user.
#include "kernels.h"

namespace fastconv {
namespace cuda {

#define ABSENT(name, Descriptor) \
  void name(const Descriptor&, const Call&) { throw std::invalid_argument(#name ": the GPU has no kernel for it"); }
ABSENT(winograd_conv2d, Winograd)
ABSENT(winograd_input, Winograd)
ABSENT(winograd_product, Winograd)
#undef ABSENT

}  // namespace cuda
}  // namespace fastconv
