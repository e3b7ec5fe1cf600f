#include "conv_launch.h"

namespace fastconv {
namespace cuda {

template <int WM, int WN>
using EngineBf16 = TensorCores<bfloat_t, false, WM, WN>;

void launch_conv_bf16(const ConvArguments& d, const ConvChoice& choice, bool gather, cudaStream_t stream) {
  launch_conv<EngineBf16>(d, choice, gather, stream);
}

}  // namespace cuda
}  // namespace fastconv
