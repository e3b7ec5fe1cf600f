#include "cpu/select.h"

namespace fastconv {

ConvChoice choose_conv2d(const ConvShape& s, Isa) {
  if (s.groups > 1 && s.groups == s.C) return ConvChoice::depthwise;
  const bool unpadded = s.pad_t == 0 && s.pad_l == 0 && s.pad_b == 0 && s.pad_r == 0;
  if (s.R == 1 && s.S == 1 && s.stride_h == 1 && s.stride_w == 1 && unpadded) return ConvChoice::gemm;
  // A filter row over so few channels is one run: the loop over 3 channels alone would be all overhead.
  if (s.groups == 1 && s.dilation_w == 1 && s.C <= 8 && s.S > 1) return ConvChoice::row_run;
  return ConvChoice::implicit;
}

const char* choice_name(ConvChoice choice) {
  static const char* const names[] = {"gemm", "implicit", "row_run", "depthwise"};
  return names[(int)choice];
}

}  // namespace fastconv
