#include "cpu/select.h"

#include <initializer_list>

#include "cpu/cost.h"
#include "cpu/dispatch.h"
#include "cpu/winograd.h"
#include "grouped_checks.h"
#include "images_checks.h"

namespace fastconv {

constexpr int64_t FEWEST_TILES = 8;  // below, weights are all that counts, and only one block of rows uses them

// A filter row over few channels is one run: the loop over 3 channels alone would be all overhead. Its padded copy must
// not be much larger than the image, whatever a file says of padding.
static bool runs(const ConvShape& s) {
  const double padded = ((double)s.H + s.pad_t + s.pad_b) * ((double)s.W + s.pad_l + s.pad_r);
  return s.groups == 1 && s.dilation_w == 1 && s.C <= 8 && s.S > 1 && padded <= 4.0 * s.H * s.W + 65536;
}

bool countable(const ConvShape& s) {
  for (int64_t v :
       {s.N, s.H, s.W, s.C, s.K, s.P, s.Q, s.R, s.S, s.groups, s.stride_h, s.stride_w, s.dilation_h, s.dilation_w}) {
    if (v < 1 || v >= int64_t(1) << 31) return false;
  }
  for (int64_t v : {s.pad_t, s.pad_l, s.pad_b, s.pad_r}) {
    if (v < 0 || v >= int64_t(1) << 31) return false;
  }
  const double most = (double)(int64_t(1) << 50);
  return s.C % s.groups == 0 && s.K % s.groups == 0 && (double)s.N * s.H * s.W * s.C < most &&
         (double)s.N * s.P * s.Q * s.K < most && (double)s.K * s.C * s.R * s.S < most;
}

Candidates conv2d_candidates(const ConvShape& s, Isa isa, int winograd) {
  Candidates c{};
  const auto add = [&](ConvChoice algorithm, int m) { c.plans[c.count++] = {algorithm, m}; };
  const bool unpadded = s.pad_t == 0 && s.pad_l == 0 && s.pad_b == 0 && s.pad_r == 0;
  const bool unit = s.stride_h == 1 && s.stride_w == 1;
  if (s.groups > 1 && s.groups == s.C) {
    add(ConvChoice::depthwise, 0);
  } else if (s.R == 1 && s.S == 1 && unit && unpadded) {
    add(ConvChoice::gemm, 0);
  } else {
    if (runs(s)) add(ConvChoice::row_run, 0);
    add(ConvChoice::implicit, 0);
    if (grouped_fits(s, geometry(isa).vector_length)) add(ConvChoice::grouped, 0);
    // below 32 channels the rounding error is more than 2.7 times that of direct summation
    const int64_t axes = winograd_axes(s.R, s.S), r = s.R > s.S ? s.R : s.S;
    if (countable(s) && s.groups == 1 && unit && s.dilation_h == 1 && s.dilation_w == 1 && s.C >= 32) {
      for (int m = 2; m <= winograd; m++) {
        if ((axes == WINOGRAD_BOTH && s.R != s.S) || !winograd_known(m, r, axes)) continue;
        const WinogradForm f = winograd_form(m, r, axes);
        const int64_t tiles = s.N * ((s.P + f.step_h - 1) / f.step_h) * ((s.Q + f.step_w - 1) / f.step_w);
        if (tiles >= FEWEST_TILES) add(ConvChoice::winograd, m);
      }
    }
  }
  return c;
}

ConvPlan choose_conv2d(const ConvShape& s, Isa isa, int winograd) {
  const Candidates c = conv2d_candidates(s, isa, winograd);
  ConvPlan best = c.plans[0];
  double least = 0;
  for (int i = 0; c.count > 1 && countable(s) && i < c.count; i++) {
    const Cost cost = conv2d_cost(s, c.plans[i], isa);
    const double seconds = cost_seconds(cost, isa) + weight_price(cost.terms[COST_WEIGHT]);
    if (i == 0 || seconds < least) best = c.plans[i], least = seconds;
  }
  return best;
}

int64_t winograd_axes(int64_t R, int64_t S) {
  return R == S ? WINOGRAD_BOTH : S == 1 ? WINOGRAD_DOWN : R == 1 ? WINOGRAD_ACROSS : WINOGRAD_BOTH;
}

int64_t row_run_group(const ConvShape& s, Isa isa) {
  int64_t group = 1;
  if (!runs(s) || s.stride_w >= s.S || images_pay(s, isa)) return group;
  for (int64_t g = 2; g * s.K <= geometry(isa).vector_length; g++) {
    if (s.Q % g == 0) group = g;
  }
  return group;
}

const char* choice_name(ConvChoice choice) {
  static const char* const names[] = {"gemm", "implicit", "row_run", "depthwise", "winograd", "grouped"};
  return names[(int)choice];
}

bool choice_from_name(const char* name, ConvChoice* choice) {
  for (int i = 0; i <= (int)ConvChoice::grouped; i++) {
    if (__builtin_strcmp(name, choice_name((ConvChoice)i)) == 0) {
      *choice = (ConvChoice)i;
      return true;
    }
  }
  return false;
}

}  // namespace fastconv
