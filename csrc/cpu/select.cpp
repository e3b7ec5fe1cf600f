#include "cpu/select.h"

namespace fastconv {

ConvPlan choose_conv2d(const ConvShape& s, Isa, bool strict) {
  if (s.groups > 1 && s.groups == s.C) return {ConvChoice::depthwise, 0};
  const bool unpadded = s.pad_t == 0 && s.pad_l == 0 && s.pad_b == 0 && s.pad_r == 0;
  if (s.R == 1 && s.S == 1 && s.stride_h == 1 && s.stride_w == 1 && unpadded) return {ConvChoice::gemm, 0};
  // A filter row over so few channels is one run: the loop over 3 channels alone would be all overhead.
  // Its padded copy must not be much larger than the image, whatever a file says of padding.
  const double padded = ((double)s.H + s.pad_t + s.pad_b) * ((double)s.W + s.pad_l + s.pad_r);
  const bool fits = padded <= 4.0 * s.H * s.W + 65536;
  if (s.groups == 1 && s.dilation_w == 1 && s.C <= 8 && s.S > 1 && fits) return {ConvChoice::row_run, 0};
  const bool plain = s.R == s.S && s.groups == 1 && s.stride_h == 1 && s.stride_w == 1 && s.dilation_h == 1 &&
                     s.dilation_w == 1 && s.C >= 32 && s.K >= 32;
  const auto tiles = [&](int64_t m) { return s.N * ((s.P + m - 1) / m) * ((s.Q + m - 1) / m); };
  // Four times the weights must pay: with few tiles they come from memory for little work, and bind two threads.
  if (!strict && plain && s.R == 3 && tiles(4) > 16) return {ConvChoice::winograd, 4};
  if (!strict && plain && s.R == 3 && tiles(3) >= 16) return {ConvChoice::winograd, 3};
  if (!strict && plain && (s.R == 3 || s.R == 5) && tiles(2) >= 16) return {ConvChoice::winograd, 2};
  return {ConvChoice::implicit, 0};
}

const char* choice_name(ConvChoice choice) {
  static const char* const names[] = {"gemm", "implicit", "row_run", "depthwise", "winograd"};
  return names[(int)choice];
}

}  // namespace fastconv
