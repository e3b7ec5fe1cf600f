#include "conv_launch.h"

namespace fastconv {
namespace cuda {

template <int WM, int WN>
using EngineFp32 = PlainFma<WM, WN>;

void launch_conv_fp32(const ConvArguments& d, const ConvChoice& choice, bool gather, cudaStream_t stream) {
  launch_conv<EngineFp32>(d, choice, gather, stream);
}

}  // namespace cuda
}  // namespace fastconv
