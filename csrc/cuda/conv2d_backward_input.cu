// dx[n,h,w,c] = sum over k, r, s of g[n,p,q,k] w[k,c,r,s] with h = p*sh + r*dh - pt, plus residual. Pixels of dx with
// the same h % sh and w % sw, a phase, meet the same taps, and for them it is a convolution of g with stride 1: h =
// i*sh + phase meets p = i + (phase + pt - r*dh) / sh, so that taps r, taken in falling order, lie evenly apart in g.
// Each phase is one product of conv_gemm.cuh with weights of its own taps, gathered in the workspace; dx is written
// phase by phase. Depthwise: a thread for each element. Float storage only.
#include <numeric>

#include "conv_launch.h"
#include "training.cuh"

namespace fastconv {
namespace cuda {
namespace {

// The taps of one axis that a phase meets: first, first - step, ... in falling order; the last index of g is i +
// tap * dilation - pad.
struct Taps {
  int64_t count, first, step, dilation, pad;
};

Taps taps_of(int64_t phase, int64_t pad, int64_t stride, int64_t dilation, int64_t taps) {
  Taps t{0, 0, stride / std::gcd(stride, dilation), 1, 0};
  for (int64_t r = 0; r < taps; r++)
    if ((phase + pad - r * dilation) % stride == 0) t.first = r, t.count++;
  if (t.count == 0) return t;
  t.dilation = t.step * dilation / stride;
  t.pad = -(phase + pad - t.first * dilation) / stride;  // exact
  return t;
}

struct SelectArguments {
  int K, S, columns, rows_used, columns_used;  // K: channels of g in a group; columns: all
  int r_first, r_step, s_first, s_step;
  int64_t w_ld, out_ld;
};

// out[column][tap of the phase][k] of w[column][tap][k]; a thread for each element of a row.
__global__ void select_taps(const __grid_constant__ SelectArguments d, const float* w, float* out) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= d.columns * d.out_ld) return;
  const int64_t column = i / d.out_ld;
  const int e = (int)(i - column * d.out_ld), tap = e / d.K, k = e - tap * d.K;
  float v = 0.0f;
  if (tap < d.rows_used * d.columns_used) {
    const int r = d.r_first - tap / d.columns_used * d.r_step, s = d.s_first - tap % d.columns_used * d.s_step;
    v = w[column * d.w_ld + (r * d.S + s) * d.K + k];
  }
  out[i] = v;
}

int64_t rounded(int64_t n) { return ceil_div(n, 4) * 4; }

// Calls visit(phase_h, phase_w, rows of dx, columns of dx, taps, taps) for the phases that have pixels.
template <class Visitor>
void for_phases(const Conv2dBackwardInput& d, const Visitor& visit) {
  for (int64_t ph = 0; ph < min_i(d.H, d.stride_h); ph++)
    for (int64_t pw = 0; pw < min_i(d.W, d.stride_w); pw++)
      visit(ph, pw, ceil_div(d.H - ph, d.stride_h), ceil_div(d.W - pw, d.stride_w),
            taps_of(ph, d.pad_t, d.stride_h, d.dilation_h, d.R), taps_of(pw, d.pad_l, d.stride_w, d.dilation_w, d.S));
}

// Floats of a phase's weights, of which none has more than all taps.
int64_t weight_floats(const Conv2dBackwardInput& d) { return d.C * rounded(d.K / d.groups * d.R * d.S); }

__global__ void depthwise_kernel(const __grid_constant__ Conv2dBackwardInput d, uint32_t total, const float* g,
                                 const float* w, const float* residual, float* dx) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t C = (uint32_t)d.C, pixel = i / C, c = i - pixel * C;
  const uint32_t row = pixel / (uint32_t)d.W, n = row / (uint32_t)d.H;
  const int column = (int)(pixel - row * (uint32_t)d.W), h = (int)(row - n * (uint32_t)d.H);
  const int stride_h = (int)d.stride_h, stride_w = (int)d.stride_w;
  float sum = 0.0f;
  for (int r = 0; r < (int)d.R; r++) {
    const int up = h + (int)d.pad_t - r * (int)d.dilation_h, p = up / stride_h;
    if (up < 0 || up - p * stride_h != 0 || p >= (int)d.P) continue;
    for (int s = 0; s < (int)d.S; s++) {
      const int left = column + (int)d.pad_l - s * (int)d.dilation_w, q = left / stride_w;
      if (left < 0 || left - q * stride_w != 0 || q >= (int)d.Q) continue;
      const int64_t at = (n * d.P + p) * d.Q + q;
      sum = fmaf(g[at * d.g_ld + c], w[(r * d.S + s) * d.C + c], sum);
    }
  }
  if (residual) sum += residual[pixel * d.res_ld + c];
  dx[n * d.x_image + h * d.x_row + column * d.x_ld + c] = sum;
}

}  // namespace

int64_t workspace_floats(const Conv2dBackwardInput& d, const Machine& m) {
  int64_t partial = 0;
  for_phases(d, [&](int64_t, int64_t, int64_t rows, int64_t columns, const Taps& r, const Taps& s) {
    const int64_t taps = r.count * s.count, depth = d.K / d.groups * taps;
    partial = max_i(partial, partial_floats(d.N * rows * columns, d.C, d.groups, depth, taps, m));
  });
  return weight_floats(d) + partial;
}

void conv2d_backward_input(const Conv2dBackwardInput& d, const Call& c) {
  require_float(c);
  if (d.N == 0) return;
  const int64_t Kg = d.K / d.groups;
  float* weights = c.workspace;
  ConvArguments a{};
  a.x = c.in[0], a.w = weights;
  a.x_image = d.P * d.Q * d.g_ld, a.x_row = narrow(d.Q * d.g_ld), a.x_ld = narrow(d.g_ld);
  a.H = narrow(d.P), a.W = narrow(d.Q), a.C = narrow(Kg), a.K = narrow(d.C / d.groups), a.groups = narrow(d.groups);
  a.stride_h = a.stride_w = 1;
  a.y_image = d.x_image, a.y_row = d.stride_h * d.x_row, a.y_ld = d.stride_w * d.x_ld;
  a.res_image = d.H * d.W * d.res_ld, a.res_row = d.stride_h * d.W * d.res_ld, a.res_ld = d.stride_w * d.res_ld;
  a.act.func = Func::identity;
  a.dense_y = d.stride_h == 1 && d.stride_w == 1 && d.x_row == d.W * d.x_ld && d.x_image == d.H * d.x_row;
  for_phases(d, [&](int64_t ph, int64_t pw, int64_t rows, int64_t columns, const Taps& r, const Taps& s) {
    a.y = (float*)c.out + ph * d.x_row + pw * d.x_ld;
    a.residual = c.in[2] ? (const float*)c.in[2] + (ph * d.W + pw) * d.res_ld : nullptr;
    a.M = d.N * rows * columns, a.P = narrow(rows), a.Q = narrow(columns);
    a.depth = narrow(Kg * r.count * s.count), a.S = narrow(max_i(1, s.count)), a.w_ld = narrow(rounded(a.depth));
    a.dilation_h = narrow(r.dilation), a.dilation_w = narrow(s.dilation);
    a.pad_t = narrow(r.pad), a.pad_l = narrow(s.pad);
    narrow((r.count * r.dilation + d.P) * a.x_row + (s.count * s.dilation + d.Q) * a.x_ld + d.K),
        narrow(rows * columns);
    const SelectArguments select{(int)Kg,      (int)d.S,    (int)d.C,     (int)r.count, (int)s.count,
                                 (int)r.first, (int)r.step, (int)s.first, (int)s.step,  rounded(Kg * d.R * d.S),
                                 a.w_ld};
    launch(select_taps, grid_of(count_of(d.C * a.w_ld)), dim3(BLOCK), 0, c.stream, select, (const float*)c.in[1],
           weights);
    run_product(a, c, weights + weight_floats(d));
  });
}

void depthwise_backward_input(const Conv2dBackwardInput& d, const Call& c) {
  require_float(c);
  const uint32_t total = count_of(d.N * d.H * d.W * d.C);
  narrow((d.H + d.pad_t) * d.stride_h + d.R * d.dilation_h), narrow((d.W + d.pad_l) * d.stride_w + d.S * d.dilation_w);
  narrow(d.P), narrow(d.Q);
  launch(depthwise_kernel, grid_of(total), dim3(BLOCK), 0, c.stream, d, total, (const float*)c.in[0],
         (const float*)c.in[1], (const float*)c.in[2], (float*)c.out);
}

}  // namespace cuda
}  // namespace fastconv
