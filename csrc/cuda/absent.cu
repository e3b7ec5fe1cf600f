// Operations that the GPU does not have (absent.def): plans refuse them. The compiler chooses none for it, or the
// user hears of it.
#include "kernels.h"

namespace fastconv {
namespace cuda {

#define ABSENT(name, Descriptor) \
  void name(const Descriptor&, const Call&) { throw std::invalid_argument(#name ": the GPU has no kernel for it"); }
#include "absent.def"
#undef ABSENT

bool present(Op op) {
  switch (op) {
#define ABSENT(name, Descriptor) case Op::name:
#include "absent.def"
#undef ABSENT
    return false;
    default:
      return true;
  }
}

}  // namespace cuda
}  // namespace fastconv
