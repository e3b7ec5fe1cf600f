// Descriptors of training_ops.h for Python.
#include "bind_descriptor.h"

namespace fastconv {

void init_training_ops(py::module_& m) {
  {
    using Enum = PanelLayout;
    py::enum_<Enum>(m, "PanelLayout")
        .value("conv2d", Enum::conv2d)
        .value("linear", Enum::linear)
        .value("depthwise", Enum::depthwise);
  }
#define F(name) .field(#name, &D::name)
  {
    using D = UnaryBackward;
    Binder<D>(m, "UnaryBackward", "in: g, v") F(chunks) F(rows) F(n) F(g_ld) F(v_ld) F(y_ld) F(act) F(from_output);
  }
  {
    using D = SoftmaxBackward;
    Binder<D>(m, "SoftmaxBackward", "in: g, y") F(chunks) F(outer) F(n) F(inner) F(g_outer) F(g_n) F(y_outer) F(y_n)
        F(x_outer) F(x_n) F(log);
  }
  {
    using D = SoftmaxCrossEntropy;
    Binder<D>(m, "SoftmaxCrossEntropy", "in: x, target; backward: g, x, target") F(chunks) F(M) F(K) F(x_ld) F(t_ld)
        F(dx_ld) F(one_hot) F(smoothing);
  }
  {
    using D = Conv2dBackwardWeight;
    Binder<D>(m, "Conv2dBackwardWeight", "in: x, g; sum: the parts") F(chunks) F(N) F(H) F(W) F(C) F(K) F(P) F(Q) F(R)
        F(S) F(groups) F(stride_h) F(stride_w) F(dilation_h) F(dilation_w) F(pad_t) F(pad_l) F(x_image) F(x_row) F(x_ld)
            F(g_ld) F(dw_k) F(dw_c) F(dw_tap) F(parts) F(images) F(direct);
  }
  {
    using D = Conv2dBackwardInput;
    Binder<D>(m, "Conv2dBackwardInput", "in: g, packed weights, residual") F(chunks) F(N) F(H) F(W) F(C) F(K) F(P) F(Q)
        F(R) F(S) F(groups) F(stride_h) F(stride_w) F(dilation_h) F(dilation_w) F(pad_t) F(pad_l) F(g_ld) F(x_image)
            F(x_row) F(x_ld) F(res_ld) F(row_chunks) F(panels_per_chunk) F(panel_chunks);
  }
  {
    using D = PackWeights;
    Binder<D>(m, "PackWeights", "in: w") F(chunks) F(K) F(C) F(taps) F(groups) F(w_k) F(w_c) F(w_tap) F(w_group)
        F(panel) F(m) F(flip) F(layout);
  }
  {
    using D = Pool2dBackward;
    Binder<D>(m, "Pool2dBackward", "in: g, x, y (average: g)") F(chunks) F(N) F(H) F(W) F(C) F(P) F(Q) F(R) F(S)
        F(stride_h) F(stride_w) F(dilation_h) F(dilation_w) F(pad_t) F(pad_l) F(pad_b) F(pad_r) F(g_ld) F(x_ld) F(y_ld)
            F(dx_ld) F(count_include_pad);
  }
  {
    using D = BatchNorm;
    Binder<D>(m, "BatchNorm", "see csrc/training_ops.h") F(chunks) F(rows) F(C) F(x_ld) F(y_ld) F(g_ld) F(parts)
        F(epsilon);
  }
  {
    using D = NormalizeBackward;
    Binder<D>(m, "NormalizeBackward", "in: g, x, scale") F(chunks) F(outer) F(rows) F(groups) F(width) F(g_outer)
        F(g_row) F(x_outer) F(x_row) F(dx_outer) F(dx_row) F(epsilon);
  }
  {
    using D = LrnBackward;
    Binder<D>(m, "LrnBackward", "in: g, x, y") F(chunks) F(rows) F(C) F(g_ld) F(x_ld) F(y_ld) F(dx_ld) F(size) F(alpha)
        F(beta) F(bias);
  }
  {
    using D = Dropout;
    Binder<D>(m, "Dropout", "in: x, seed") F(chunks) F(rows) F(n) F(x_ld) F(y_ld) F(rate);
  }
  {
    using D = Optimizer;
    Binder<D>(m, "Optimizer", "in: g, hyper, factor; out: w; more: slots") F(chunks) F(n) F(momentum) F(centered)
        F(decays);
  }
  {
    using D = MovingAverage;
    Binder<D>(m, "MovingAverage", "in: x; out: state") F(chunks) F(n) F(momentum);
  }
  {
    using D = SquaredNorm;
    Binder<D>(m, "SquaredNorm", "in: x") F(chunks) F(n);
  }
#undef F
  define_checks<UnaryBackward>(m, Op::unary_backward);
  define_checks<SoftmaxBackward>(m, Op::softmax_backward);
  define_checks<SoftmaxCrossEntropy>(m, Op::softmax_cross_entropy);
  define_checks<Conv2dBackwardWeight>(m, Op::conv2d_backward_weight);
  define_checks<Conv2dBackwardInput>(m, Op::conv2d_backward_input);
  define_checks<PackWeights>(m, Op::pack_weights);
  define_checks<Pool2dBackward>(m, Op::max_pool2d_backward);
  define_checks<BatchNorm>(m, Op::batch_norm_stats);
  define_checks<NormalizeBackward>(m, Op::normalize_backward);
  define_checks<LrnBackward>(m, Op::lrn_backward);
  define_checks<Dropout>(m, Op::dropout);
  define_checks<Optimizer>(m, Op::sgd);
  define_checks<MovingAverage>(m, Op::moving_average);
  define_checks<SquaredNorm>(m, Op::squared_norm);
}

}  // namespace fastconv
