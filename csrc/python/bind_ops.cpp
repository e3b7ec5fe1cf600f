// Descriptors, enumerations and run_kernel for Python. A descriptor is made from keywords, everything else is zero:
// Unary(rows=2, n=8, x_ld=8, y_ld=8, act=Activation(func=Func.exp)). Arrays of MAX_RANK are sequences of integers.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bind_descriptor.h"
#include "conv_checks.h"
#include "cpu/dispatch.h"
#include "gil.h"

namespace py = pybind11;

namespace fastconv {

namespace {

void init_enums(py::module_& m) {
#define V(name) .value(#name, Enum::name)
  {
    using Enum = Isa;
    py::enum_<Enum>(m, "Isa") V(scalar) V(avx2) V(avx512) V(neon);
  }
  {
    using Enum = Op;
    py::enum_<Enum>(m, "Op")
#define KERNEL(name, Descriptor) V(name)
#include "cpu/kernels.def"
#undef KERNEL
        ;
  }
  {
    using Enum = Func;
    py::enum_<Enum>(m, "Func") V(identity) V(clip) V(leaky_relu) V(elu) V(selu) V(sigmoid) V(hard_sigmoid) V(hard_swish)
        V(swish) V(tanh) V(gelu) V(gelu_tanh) V(softplus) V(mish) V(exp) V(log) V(sqrt) V(reciprocal) V(erf) V(neg)
            V(abs) V(floor) V(ceil) V(trunc) V(round) V(sign) V(round_half);
  }
  {
    using Enum = BinaryFunc;
    py::enum_<Enum>(m, "BinaryFunc") V(add) V(sub) V(mul) V(div) V(max) V(min) V(pow) V(prelu) V(less) V(less_equal)
        V(equal);
  }
  {
    using Enum = ReduceFunc;
    py::enum_<Enum>(m, "ReduceFunc") V(mean) V(sum) V(max) V(min) V(arg_max) V(arg_min) V(last_arg_max) V(last_arg_min);
  }
  {
    using Enum = PadMode;
    py::enum_<Enum>(m, "PadMode") V(constant) V(edge) V(reflect);
  }
  {
    using Enum = FillMode;
    py::enum_<Enum>(m, "FillMode") V(constant) V(nearest) V(reflect) V(wrap);
  }
  {
    using Enum = ConvAlgorithm;
    py::enum_<Enum>(m, "ConvAlgorithm") V(gemm) V(implicit) V(row_run) V(images) V(grouped);
  }
#undef V
}

void init_descriptors(py::module_& m) {
#define F(name) .field(#name, &D::name)
  {
    using D = Activation;
    Binder<D>(m, "Activation", "An element-wise function and its parameters.") F(func) F(alpha) F(beta);
  }
  {
    using D = Conv2d;
    Binder<D>(m, "Conv2d", "in: x, packed weights, bias, residual") F(chunks) F(N) F(H) F(W) F(C) F(K) F(P) F(Q) F(R)
        F(S) F(groups) F(stride_h) F(stride_w) F(dilation_h) F(dilation_w) F(pad_t) F(pad_l) F(x_image) F(x_row) F(x_ld)
            F(y_ld) F(res_ld) F(algorithm) F(act) F(rows_per_chunk) F(row_chunks) F(row_unit) F(panels_per_chunk)
                F(panel_chunks) F(depth_parts) F(taps_per_slice);
  }
  {
    using D = Winograd;
    Binder<D>(m, "Winograd", "in: x (or planes), packed weights, bias, residual") F(chunks) F(N) F(H) F(W) F(C) F(K)
        F(P) F(Q) F(pad_t) F(pad_l) F(x_image) F(x_row) F(x_ld) F(y_ld) F(res_ld) F(act) F(m) F(r) F(axes) F(pool)
            F(tiles_h) F(tiles_w) F(block);
  }
  {
    using D = DepthwiseConv2d;
    Binder<D>(m, "DepthwiseConv2d", "in: x, packed weights, bias, residual; more: sums of bands") F(chunks) F(N) F(H)
        F(W) F(C) F(K) F(P) F(Q) F(R) F(S) F(multiplier) F(stride_h) F(stride_w) F(dilation_h) F(dilation_w) F(pad_t)
            F(pad_l) F(x_image) F(x_row) F(x_ld) F(y_ld) F(res_ld) F(act) F(means) F(bands) F(line_chunks);
  }
  {
    using D = Linear;
    Binder<D>(m, "Linear", "in: x, packed weights, bias, residual") F(chunks) F(M) F(C) F(K) F(x_ld) F(y_ld) F(res_ld)
        F(act);
  }
  {
    using D = MatMul;
    Binder<D>(m, "MatMul", "in: a, b") F(chunks) F(batch) F(M) F(N) F(K) F(a_batch) F(a_ld) F(b_batch) F(b_ld)
        F(y_batch) F(y_ld);
  }
  {
    using D = Pool2d;
    Binder<D>(m, "Pool2d", "in: x") F(chunks) F(N) F(H) F(W) F(C) F(P) F(Q) F(R) F(S) F(stride_h) F(stride_w)
        F(dilation_h) F(dilation_w) F(pad_t) F(pad_l) F(pad_b) F(pad_r) F(x_image) F(x_row) F(x_ld) F(y_ld)
            F(count_include_pad) F(columns_first);
  }
  {
    using D = Unary;
    Binder<D>(m, "Unary", "in: x") F(chunks) F(rows) F(n) F(x_ld) F(y_ld) F(act);
  }
  {
    using D = Binary;
    Binder<D>(m, "Binary", "in: a, b") F(chunks) F(rank) F(dims) F(a_stride) F(b_stride) F(y_stride) F(func) F(act);
  }
  {
    using D = Affine;
    Binder<D>(m, "Affine", "in: x, scale, shift") F(chunks) F(rows) F(n) F(x_ld) F(y_ld) F(act);
  }
  {
    using D = Reduce;
    Binder<D>(m, "Reduce", "in: x") F(chunks) F(outer) F(n) F(inner) F(x_outer) F(x_n) F(y_outer) F(func);
  }
  {
    using D = Softmax;
    Binder<D>(m, "Softmax", "in: x") F(chunks) F(outer) F(n) F(inner) F(x_outer) F(x_n) F(y_outer) F(y_n) F(log);
  }
  {
    using D = Lrn;
    Binder<D>(m, "Lrn", "in: x") F(chunks) F(rows) F(C) F(x_ld) F(y_ld) F(size) F(alpha) F(beta) F(bias);
  }
  {
    using D = Copy;
    Binder<D>(m, "Copy", "in: x") F(chunks) F(rank) F(dims) F(x_stride) F(y_stride);
  }
  {
    using D = Pad;
    Binder<D>(m, "Pad", "in: x") F(chunks) F(rank) F(dims) F(x_dims) F(before) F(x_stride) F(y_stride) F(mode) F(value);
  }
  {
    using D = Resample;
    Binder<D>(m, "Resample", "in: x, index, weight") F(chunks) F(outer) F(n) F(P) F(taps) F(rows) F(C) F(x_outer) F(x_n)
        F(x_row) F(y_outer) F(y_p) F(y_row);
  }
  {
    using D = AffineSample;
    Binder<D>(m, "AffineSample", "in: x, matrix") F(chunks) F(N) F(H) F(W) F(C) F(P) F(Q) F(x_ld) F(y_ld) F(fill)
        F(bilinear) F(value);
  }
  {
    using D = Where;
    Binder<D>(m, "Where", "in: condition, a, b") F(chunks) F(rank) F(dims) F(c_stride) F(a_stride) F(b_stride)
        F(y_stride);
  }
  {
    using D = Normalize;
    Binder<D>(m, "Normalize", "in: x, scale, shift") F(chunks) F(outer) F(rows) F(groups) F(width) F(x_outer) F(x_row)
        F(y_outer) F(y_row) F(epsilon);
  }
  {
    using D = TopK;
    Binder<D>(m, "TopK", "in: x") F(chunks) F(outer) F(n) F(inner) F(k) F(largest);
  }
  {
    using D = Take;
    Binder<D>(m, "Take", "in: x, index") F(chunks) F(outer) F(n) F(inner) F(k);
  }
  {
    using D = Suppress;
    Binder<D>(m, "Suppress", "in: boxes, scores, order") F(chunks) F(images) F(boxes) F(classes) F(most) F(iou) F(score)
        F(center) F(has_score);
  }
#undef F
}

// Convolutions and dense layers need the ISA, and most own more chunk fields than `chunks`.
template <class D>
constexpr bool has_weights =
    std::is_same_v<D, Conv2d> || std::is_same_v<D, Winograd> || std::is_same_v<D, DepthwiseConv2d> ||
    std::is_same_v<D, Linear> || std::is_same_v<D, Conv2dBackwardWeight> || std::is_same_v<D, Conv2dBackwardInput>;

const float* address(const py::array& a, int64_t needed, const std::string& what) {
  if (!py::isinstance<py::array_t<float>>(a) || !(a.flags() & py::array::c_style))
    throw py::type_error(what + " must be a contiguous float32 array");
  if (a.size() < needed)
    throw py::value_error(what + " has " + std::to_string(a.size()) + " elements, the kernel needs " +
                          std::to_string(needed));
  return static_cast<const float*>(a.data());
}

using Arrays = std::vector<std::optional<py::array>>;

constexpr size_t GUARD_BYTES = 4096;

template <class D>
void run_one(const char* name, void (*const KernelTable::*kernel)(const D&, const Buffers&, int64_t, int64_t), Isa isa,
             Op op, D d, const Arrays& inputs, const py::array& out,
             const std::optional<std::pair<int64_t, int64_t>>& chunks, const std::vector<py::array>& more) {
  const Extent needs = extent_for(d, isa, op);
  if (has_weights<D> || d.chunks < 1) prepare_for(d, isa, op);
  if (inputs.size() > 4) throw py::value_error("a kernel has at most four inputs");
  Buffers b{};
  for (size_t i = 0; i < 4; i++) {
    const std::string what = "input " + std::to_string(i);
    if (i < inputs.size() && inputs[i])
      b.in[i] = address(*inputs[i], needs.in[i], what);
    else if (needs.in[i] > 0 && (int)i < needs.optional_from)
      throw py::value_error(what + " is missing");
  }
  auto written = [](const py::array& array, int64_t size, const std::string& what) {
    address(array, size, what);
    if (!array.writeable()) throw py::value_error(what + " is read-only");
    return static_cast<float*>(const_cast<void*>(array.data()));
  };
  b.out = written(out, needs.out, "out");
  for (size_t i = 0; i < 2; i++) {
    if (i < more.size())
      b.more[i] = written(more[i], needs.more[i], "more[" + std::to_string(i) + "]");
    else if (needs.more[i] > 0)
      throw py::value_error("more[" + std::to_string(i) + "] is missing");
  }
  const auto [begin, end] = chunks.value_or(std::make_pair(int64_t{0}, d.chunks));
  if (begin < 0 || end < begin || end > d.chunks)
    throw py::value_error("chunks must lie in [0, " + std::to_string(d.chunks) + "]");
  // Scratch as large as in a plan, with a guard behind it.
  constexpr char GUARD = 0x5A;
  const auto bytes = static_cast<size_t>(scratch_for(d, isa, op));
  std::vector<char> scratch(64 + bytes + GUARD_BYTES, GUARD);
  char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
  b.scratch = reinterpret_cast<float*>(start);
  {
    ReleaseGil release;
    (kernels(isa).*kernel)(d, b, begin, end);
  }
  if (std::any_of(start + bytes, scratch.data() + scratch.size(), [](char c) { return c != GUARD; }))
    throw std::runtime_error(std::string(name) + ": the kernel wrote behind its " + std::to_string(bytes) +
                             " bytes of scratch memory");
}

void run_kernel(Isa isa, const py::object& desc, const Arrays& inputs, const py::array& out,
                const std::optional<std::pair<int64_t, int64_t>>& chunks, std::optional<Op> op,
                const std::vector<py::array>& more) {
  require_isa(isa);
  if (!op && py::isinstance<Conv2d>(desc)) op = operation_of(desc.cast<Conv2d>());
  int kinds = 0;
#define KERNEL(name, Descriptor) kinds += py::isinstance<Descriptor>(desc) && (!op || *op == Op::name);
#include "cpu/kernels.def"
#undef KERNEL
  if (kinds == 0) throw py::type_error("desc is not a descriptor, or not one of op's");
  if (kinds > 1) throw py::type_error("several operations share this descriptor: name one with op");
#define KERNEL(name, Descriptor)                                                                                       \
  if (py::isinstance<Descriptor>(desc) && (!op || *op == Op::name))                                                    \
    return run_one<Descriptor>(#name, &KernelTable::name, isa, Op::name, desc.cast<Descriptor>(), inputs, out, chunks, \
                               more);
#include "cpu/kernels.def"
#undef KERNEL
}

}  // namespace

void init_ops(py::module_& m) {
  m.attr("MAX_RANK") = MAX_RANK;
  m.attr("LINEAR_ROWS") = LINEAR_ROWS;
  init_enums(m);
  init_descriptors(m);
  define_checks<Conv2d>(m, Op::conv2d);
  define_checks<Winograd>(m, Op::winograd_conv2d);
  define_checks<DepthwiseConv2d>(m, Op::depthwise_conv2d);
  define_checks<Linear>(m, Op::linear);
  define_checks<MatMul>(m, Op::matmul);
  define_checks<Pool2d>(m, Op::max_pool2d);
  define_checks<Unary>(m, Op::unary);
  define_checks<Binary>(m, Op::binary);
  define_checks<Affine>(m, Op::affine);
  define_checks<Reduce>(m, Op::reduce);
  define_checks<Softmax>(m, Op::softmax);
  define_checks<Lrn>(m, Op::lrn);
  define_checks<Copy>(m, Op::copy);
  define_checks<Pad>(m, Op::pad);
  define_checks<Resample>(m, Op::resample);
  define_checks<AffineSample>(m, Op::affine_sample);
  define_checks<Where>(m, Op::where);
  define_checks<Normalize>(m, Op::normalize);
  define_checks<TopK>(m, Op::topk);
  define_checks<Take>(m, Op::take);
  define_checks<Suppress>(m, Op::suppress);
  init_training_ops(m);
  m.def(
      "run_kernel", &run_kernel, py::arg("isa"), py::arg("desc"), py::arg("inputs"), py::arg("out"),
      py::arg("chunks") = py::none(), py::arg("op") = py::none(), py::arg("more") = std::vector<py::array>(),
      "Run a kernel, or its chunks [begin, end), on contiguous float32 arrays (None for an absent input); for tests.\n"
      "`op` is needed where a descriptor serves two kernels (Pool2d). A descriptor without chunks is prepared first.");
}

}  // namespace fastconv
