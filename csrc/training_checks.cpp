// Everything but convolutions and dense layers, whose checks are in conv_backward_checks.cpp.
#include "training_checks.h"

#include "check_tools.h"

namespace fastconv {

namespace {

constexpr int64_t PARTS = 64;              // of the rows of a batch, at most
constexpr double PART_ELEMENTS = 1 << 16;  // of a part, at least

bool from_output(Func f) {
  return f == Func::elu || f == Func::selu || f == Func::sigmoid || f == Func::hard_sigmoid || f == Func::tanh ||
         f == Func::exp || f == Func::sqrt || f == Func::reciprocal;
}

bool anyhow(Func f) {  // clip and what is piecewise linear
  return f == Func::identity || f == Func::clip || f == Func::leaky_relu || f == Func::neg || f == Func::floor ||
         f == Func::ceil || f == Func::trunc || f == Func::round || f == Func::sign || f == Func::round_half;
}

int64_t parts_of(const BatchNorm& d) {
  return std::min(PARTS, chunks_of(static_cast<double>(d.rows) * d.C, PART_ELEMENTS, blocks(d.rows, 32)));
}

int64_t flat(const char* op, int64_t n) {
  in_range(op, "n", n, 0, SIZE_LIMIT);
  return n;
}

}  // namespace

Extent extent(const UnaryBackward& d) {
  const char* op = "unary_backward";
  check_activation(d.act, op);
  CHECK(op, from_output, 0, 1);
  if (d.from_output && !from_output(d.act.func) && !anyhow(d.act.func))
    throw std::invalid_argument("unary_backward: this function's derivative does not follow from its output");
  Extent e{};
  e.in[0] = rows_extent(op, "g", d.rows, d.g_ld, d.n);
  e.in[1] = rows_extent(op, "v", d.rows, d.v_ld, d.n);
  e.out = reach_distinct(op, {{d.rows, d.y_ld}, {d.n, 1}});
  return e;
}

void prepare(UnaryBackward& d) {
  const double work = static_cast<double>(d.rows) * d.n;
  const bool touching = d.rows <= 1 || (d.g_ld == d.n && d.v_ld == d.n && d.y_ld == d.n);
  d.chunks = chunks_of(work, CHUNK, touching ? work : std::max<double>(d.rows, 1));
}

Extent extent(const SoftmaxBackward& d) {
  const char* op = "softmax_backward";
  CHECK(op, log, 0, 1);
  Extent e{};
  e.in[0] = reach(op, "g", {{d.outer, d.g_outer}, {d.n, d.g_n}, {d.inner, 1}});
  e.in[1] = reach(op, "y", {{d.outer, d.y_outer}, {d.n, d.y_n}, {d.inner, 1}});
  e.out = reach_distinct(op, {{d.outer, d.x_outer}, {d.n, d.x_n}, {d.inner, 1}});
  return e;
}

void prepare(SoftmaxBackward& d) {
  d.chunks = chunks_of(static_cast<double>(d.outer) * d.n * d.inner, CHUNK, d.outer * blocks(d.inner, 16));
}

Extent extent(const SoftmaxCrossEntropy& d, Op op) {
  const char* name = "softmax_cross_entropy";
  CHECK(name, K, 1, 1 << 24);
  CHECK(name, one_hot, 0, 1);
  if (!(d.smoothing >= 0 && d.smoothing <= 1)) throw std::invalid_argument("softmax_cross_entropy: smoothing");
  const int64_t x = rows_extent(name, "x", d.M, d.x_ld, d.K);
  const int64_t t = d.one_hot ? d.M : rows_extent(name, "target", d.M, d.t_ld, d.K);
  Extent e{};
  if (op == Op::softmax_cross_entropy) {
    e.in[0] = x, e.in[1] = t;
    e.out = d.M;
  } else {
    e.in[0] = d.M, e.in[1] = x, e.in[2] = t;
    e.out = reach_distinct(name, {{d.M, d.dx_ld}, {d.K, 1}});
  }
  return e;
}

void prepare(SoftmaxCrossEntropy& d) {
  d.chunks = chunks_of(static_cast<double>(d.M) * d.K, CHUNK / 2, std::max<double>(1, d.M));
}

Extent extent(const Pool2dBackward& d, Op op) {
  const char* name = "pool2d_backward";
  CHECK(name, N, 0, IMAGE_LIMIT);
  CHECK(name, H, 1, IMAGE_LIMIT);
  CHECK(name, W, 1, IMAGE_LIMIT);
  CHECK(name, C, 1, IMAGE_LIMIT);
  CHECK(name, P, 0, IMAGE_LIMIT);
  CHECK(name, Q, 0, IMAGE_LIMIT);
  CHECK(name, R, 1, WINDOW_LIMIT);
  CHECK(name, S, 1, WINDOW_LIMIT);
  CHECK(name, stride_h, 1, WINDOW_LIMIT);
  CHECK(name, stride_w, 1, WINDOW_LIMIT);
  CHECK(name, dilation_h, 1, WINDOW_LIMIT);
  CHECK(name, dilation_w, 1, WINDOW_LIMIT);
  CHECK(name, pad_t, 0, IMAGE_LIMIT);
  CHECK(name, pad_l, 0, IMAGE_LIMIT);
  CHECK(name, pad_b, 0, IMAGE_LIMIT);
  CHECK(name, pad_r, 0, IMAGE_LIMIT);
  CHECK(name, count_include_pad, 0, 1);
  int64_t out, in;
  if (__builtin_mul_overflow(d.P * d.Q, d.N, &out)) too_large(name, "g");
  if (__builtin_mul_overflow(d.H * d.W, d.N, &in)) too_large(name, "x");
  Extent e{};
  e.in[0] = rows_extent(name, "g", out, d.g_ld, d.C);
  if (op == Op::max_pool2d_backward) {
    e.in[1] = rows_extent(name, "x", in, d.x_ld, d.C);
    e.in[2] = rows_extent(name, "y", out, d.y_ld, d.C);
  }
  e.out = reach_distinct(name, {{in, d.dx_ld}, {d.C, 1}});
  return e;
}

void prepare(Pool2dBackward& d) {
  const double work = static_cast<double>(d.N) * (d.H * d.W + d.P * d.Q * std::min<int64_t>(d.R * d.S, 9)) * d.C;
  d.chunks = chunks_of(work, 2 * CHUNK, d.N * blocks(d.C, 64));
}

Extent extent(const BatchNorm& d, Op op) {
  const char* name = "batch_norm";
  CHECK(name, rows, 0, SIZE_LIMIT);
  CHECK(name, C, 1, IMAGE_LIMIT);
  const int64_t x = rows_extent(name, "x", d.rows, d.x_ld, d.C), sums = 2 * parts_of(d) * d.C;
  Extent e{};
  switch (op) {
    case Op::batch_norm_stats:
      e.in[0] = x;
      e.out = sums;
      break;
    case Op::batch_norm_finish:
      e.in[0] = sums, e.in[1] = d.C;
      e.out = e.more[0] = e.more[1] = d.C;
      break;
    case Op::batch_norm_apply:
      e.in[0] = x, e.in[1] = e.in[2] = e.in[3] = d.C;
      e.out = reach_distinct(name, {{d.rows, d.y_ld}, {d.C, 1}});
      break;
    case Op::batch_norm_backward_stats:
      e.in[0] = rows_extent(name, "g", d.rows, d.g_ld, d.C), e.in[1] = x, e.in[2] = d.C;
      e.out = sums;
      break;
    case Op::batch_norm_backward_finish:
      e.in[0] = sums, e.in[1] = e.in[2] = d.C;
      e.out = e.more[0] = d.C, e.more[1] = 3 * d.C;
      break;
    default:
      e.in[0] = rows_extent(name, "g", d.rows, d.g_ld, d.C), e.in[1] = x, e.in[2] = d.C, e.in[3] = 3 * d.C;
      e.out = reach_distinct(name, {{d.rows, d.y_ld}, {d.C, 1}});
  }
  return e;
}

void prepare(BatchNorm& d, Op op) {
  d.parts = parts_of(d);
  if (op == Op::batch_norm_stats || op == Op::batch_norm_backward_stats)
    d.chunks = d.parts;
  else if (op == Op::batch_norm_finish || op == Op::batch_norm_backward_finish)
    d.chunks = chunks_of(2.0 * d.parts * d.C, CHUNK, d.C);
  else
    d.chunks = chunks_of(static_cast<double>(d.rows) * d.C, CHUNK, std::max<double>(1, d.rows));
}

static int64_t parts_of(const NormalizeBackward& d) {
  const double work = static_cast<double>(d.outer) * d.rows * d.groups * d.width;
  return std::min(PARTS, chunks_of(work, CHUNK, std::max<double>(1, d.outer)));
}

Extent extent(const NormalizeBackward& d) {
  const char* op = "normalize_backward";
  CHECK(op, groups, 0, IMAGE_LIMIT);
  CHECK(op, width, 0, IMAGE_LIMIT);
  int64_t channels;
  if (__builtin_mul_overflow(d.groups, d.width, &channels) || channels > SIZE_LIMIT / PARTS) too_large(op, "scale");
  Extent e{};
  e.in[0] = reach(op, "g", {{d.outer, d.g_outer}, {d.rows, d.g_row}, {channels, 1}});
  e.in[1] = reach(op, "x", {{d.outer, d.x_outer}, {d.rows, d.x_row}, {channels, 1}});
  e.in[2] = channels;
  e.optional_from = 2;
  e.out = reach_distinct(op, {{d.outer, d.dx_outer}, {d.rows, d.dx_row}, {channels, 1}});
  e.more[0] = parts_of(d) * 2 * channels;
  return e;
}

void prepare(NormalizeBackward& d) { d.chunks = parts_of(d); }

Extent extent(const LrnBackward& d) {
  const char* op = "lrn_backward";
  CHECK(op, size, 1, SIZE_LIMIT);
  Extent e{};
  e.in[0] = rows_extent(op, "g", d.rows, d.g_ld, d.C);
  e.in[1] = rows_extent(op, "x", d.rows, d.x_ld, d.C);
  e.in[2] = rows_extent(op, "y", d.rows, d.y_ld, d.C);
  e.out = reach_distinct(op, {{d.rows, d.dx_ld}, {d.C, 1}});
  return e;
}

void prepare(LrnBackward& d) {
  const double taps = static_cast<double>(std::min(d.size, 2 * d.C));
  d.chunks = chunks_of(static_cast<double>(d.rows) * d.C * (2 * taps + 8), 4 * CHUNK, std::max<double>(1, d.rows));
}

Extent extent(const Dropout& d) {
  const char* op = "dropout";
  if (!(d.rate >= 0 && d.rate < 1)) throw std::invalid_argument("dropout: rate must be from 0 to below 1");
  Extent e{};
  e.in[0] = rows_extent(op, "x", d.rows, d.x_ld, d.n);
  e.in[1] = 1;
  e.out = reach_distinct(op, {{d.rows, d.y_ld}, {d.n, 1}});
  return e;
}

void prepare(Dropout& d) {
  const double work = static_cast<double>(d.rows) * d.n;
  d.chunks = chunks_of(work, CHUNK / 2, std::max(1.0, work));
}

Extent extent(const Optimizer& d, Op op) {
  Extent e{};
  const int64_t n = flat("optimizer", d.n);
  CHECK("optimizer", momentum, 0, 1);
  CHECK("optimizer", centered, 0, 1);
  CHECK("optimizer", decays, 0, 1);
  e.in[0] = n, e.in[1] = op == Op::sgd ? 4 : 5, e.in[2] = 1;
  e.optional_from = 2;
  e.out = n;
  e.more[0] = n * (op == Op::adam ? 2 : op == Op::sgd ? d.momentum : 1 + d.momentum + d.centered);
  return e;
}

void prepare(Optimizer& d) { d.chunks = chunks_of(static_cast<double>(d.n), CHUNK, std::max<double>(1, d.n)); }

Extent extent(const MovingAverage& d) {
  Extent e{};
  e.in[0] = e.out = flat("moving_average", d.n);
  return e;
}

void prepare(MovingAverage& d) { d.chunks = chunks_of(static_cast<double>(d.n), CHUNK, std::max<double>(1, d.n)); }

static int64_t norm_parts(int64_t n) {
  return std::min<int64_t>(1024, chunks_of(static_cast<double>(n), 2 * CHUNK, 1e6));
}

Extent extent(const SquaredNorm& d) {
  Extent e{};
  e.in[0] = flat("squared_norm", d.n);
  e.out = norm_parts(d.n);
  return e;
}

void prepare(SquaredNorm& d) { d.chunks = norm_parts(d.n); }

}  // namespace fastconv
