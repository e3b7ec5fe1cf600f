#include "conv_launch.h"

namespace fastconv {
namespace cuda {

template <int WM, int WN>
using EngineFp16 = TensorCores<half_t, false, WM, WN>;

void launch_conv_fp16(const ConvArguments& d, const ConvChoice& choice, bool gather, cudaStream_t stream) {
  launch_conv<EngineFp16>(d, choice, gather, stream);
}

}  // namespace cuda
}  // namespace fastconv
