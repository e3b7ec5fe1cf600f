// Descriptors of backward passes, batch statistics and optimizer steps; ops.h includes this file and says what all
// descriptors have in common. g is the gradient of the forward operation's output, dx and dw those of its operands.
// Sums over pixels or rows are cut into parts by the shape alone; a second operation joins the parts, in order.
#pragma once

namespace fastconv {

// dx = g f'(x). in: g, v: the output y of f where from_output, else its input x
struct UnaryBackward {
  int64_t chunks;
  int64_t rows, n, g_ld, v_ld, y_ld;
  Activation act;
  int32_t from_output;
};

// softmax: dx = y (g - sum of g y); log: dx = g - exp(y) sum of g, sums over j of [o, j, i]. in: g, y
struct SoftmaxBackward {
  int64_t chunks;
  int64_t outer, n, inner;
  int64_t g_outer, g_n, y_outer, y_n, x_outer, x_n;
  int32_t log;
};

// loss[m] = -sum over k of t[m,k] log softmax(x[m])[k], where t is (1 - smoothing) target + smoothing / K; the target
// is [M, K] (one_hot: [M] class numbers, clamped to [0, K)). softmax_cross_entropy in: x, target.
// softmax_cross_entropy_backward in: g [M], x, target; out: dx [M, K]
struct SoftmaxCrossEntropy {
  int64_t chunks;
  int64_t M, K, x_ld, t_ld, dx_ld;
  int32_t one_hot;
  float smoothing;
};

// dw[k,c,r,s] = sum over n, p, q of g[n,p,q,k] x[n, p*sh + r*dh - pt, q*sw + s*dw - pl, c]. Sizes as in Conv2d;
// depthwise_backward_weight: groups == C, K = C * multiplier.
// conv2d_backward_weight in: x, g; out: sums of `parts` ranges of pixels, [part][group][slice][tap][c][columns],
// slices of up to 64 output channels, rounded up to whole vectors. conv2d_backward_weight_sum in: these sums; out: dw.
struct Conv2dBackwardWeight {
  int64_t chunks;
  int64_t N, H, W, C, K, P, Q, R, S, groups;
  int64_t stride_h, stride_w, dilation_h, dilation_w, pad_t, pad_l;
  int64_t x_image, x_row, x_ld, g_ld;
  int64_t dw_k, dw_c, dw_tap;  // strides of dw: output channel, channel within a group, tap
  int64_t parts;
  int64_t images;  // 1: lanes are images, and parts are groups of images times bands of rows; set by prepare()
  int64_t direct;  // 1: one part of a dense layer, whose sums are dw itself: no sum follows; set by prepare()
};

// dx[n,h,w,c] = sum over k, r, s of g[n,p,q,k] w[k,c,r,s] where h = p*sh + r*dh - pt and w = q*sw + s*dw - pl, plus
// residual[n,h,w,c]. Sizes as in Conv2d (H, W, C are of dx). in: g, packed weights, residual (or null).
// conv2d_backward_input: weights as pack_weights makes them for C columns and a depth of K channels.
// depthwise_backward_input: groups == C == K, weights [tap][C].
struct Conv2dBackwardInput {
  int64_t chunks;
  int64_t N, H, W, C, K, P, Q, R, S, groups;
  int64_t stride_h, stride_w, dilation_h, dilation_w, pad_t, pad_l;
  int64_t g_ld, x_image, x_row, x_ld, res_ld;
  int64_t row_chunks, panels_per_chunk, panel_chunks;
};

enum class PanelLayout : int32_t { conv2d, linear, depthwise };  // depthwise: one panel of all columns

// Weights from the plain layout into that which kernels read, each step anew: element (k, c, tap) lies at
// k * w_k + c * w_c + tap * w_tap; flip: taps in reverse order. The result is [group][panel][tap][c][columns].
// in: w
struct PackWeights {
  int64_t chunks;
  int64_t K, C, taps, groups;  // K: columns, C: depth, all groups together
  int64_t w_k, w_c, w_tap, w_group;
  int64_t panel;  // columns of a panel, where the layout is linear
  int64_t m;      // pack_winograd_weights: F(m x m, r x r), taps = r * r, [panel][plane][c][columns]
  int32_t flip;
  PanelLayout layout;
};

// Windows as in Pool2d. max_pool2d_backward in: g, x, y: the first of equal maxima gets g. avg_pool2d_backward in: g
struct Pool2dBackward {
  int64_t chunks;
  int64_t N, H, W, C, P, Q, R, S;
  int64_t stride_h, stride_w, dilation_h, dilation_w, pad_t, pad_l, pad_b, pad_r;
  int64_t g_ld, x_ld, y_ld, dx_ld;
  int32_t count_include_pad;
};

// Batch normalisation with the statistics of the batch, over rows [rows, C].
// batch_norm_stats           in: x                      out: parts [parts][2][C]: mean, sum of squared differences
// batch_norm_finish          in: parts, scale           out: mean; more: variance (biased), scale / sqrt(var + eps)
// batch_norm_apply           in: x, mean, factor, shift out: y = (x - mean) factor + shift
// batch_norm_backward_stats  in: g, x, mean             out: parts [parts][2][C]: sums of g and of g (x - mean)
// batch_norm_backward_finish in: parts, var, scale      out: dscale; more: dshift, coefficients [3][C]
// batch_norm_backward_apply  in: g, x, mean, coefficients a, b, c   out: dx = a g + b (x - mean) + c
struct BatchNorm {
  int64_t chunks;
  int64_t rows, C, x_ld, y_ld, g_ld;
  int64_t parts;
  float epsilon;
};

// dx of Normalize, and dscale, dshift as sums over `parts` ranges of outer: more [parts][2][groups * width].
// in: g, x, scale or null. Strides of g, x and dx: outer and row.
struct NormalizeBackward {
  int64_t chunks;
  int64_t outer, rows, groups, width;
  int64_t g_outer, g_row, x_outer, x_row, dx_outer, dx_row;
  float epsilon;
};

// dx of Lrn. in: g, x, y
struct LrnBackward {
  int64_t chunks;
  int64_t rows, C, g_ld, x_ld, y_ld, dx_ld, size;
  float alpha, beta, bias;
};

// y = 0 with probability `rate`, else x / (1 - rate): by a hash of seed and element, row * n + column, so that the same
// seed gives the same elements. in: x, seed [1]: a whole number
struct Dropout {
  int64_t chunks;
  int64_t rows, n, x_ld, y_ld;
  float rate;
};

// One step on n weights, in place. in: g, hyper, factor [1] or null: g is multiplied by it. out: w; more: the slots,
// n elements each, one after the other. Formulas and the numbers in `hyper` are those of the update nodes in
// fastconv/graph.py; decays: first w -= w times the last number. momentum: there is a slot for it.
struct Optimizer {
  int64_t chunks;
  int64_t n;
  int32_t momentum, centered, decays;
};

// state = momentum state + (1 - momentum) x, in place. in: x; out: state
struct MovingAverage {
  int64_t chunks;
  int64_t n;
  float momentum;
};

// Sums of x^2 over `chunks` ranges of n elements. in: x; out: [chunks]
struct SquaredNorm {
  int64_t chunks;
  int64_t n;
};

}  // namespace fastconv
