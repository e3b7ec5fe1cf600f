#include "conv_launch.h"

namespace fastconv {
namespace cuda {

template <int WM, int WN>
using EngineTf32 = TensorCores<float, true, WM, WN>;

void launch_conv_tf32(const ConvArguments& d, const ConvChoice& choice, bool gather, cudaStream_t stream) {
  launch_conv<EngineTf32>(d, choice, gather, stream);
}

}  // namespace cuda
}  // namespace fastconv
