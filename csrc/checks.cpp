#include "checks.h"

#include "check_tools.h"

namespace fastconv {

void check_activation(const Activation& act, const char* op) {
  in_range(op, "activation function", static_cast<int64_t>(act.func), 0, static_cast<int64_t>(Func::round_half));
}

Extent extent(const MatMul& d) {
  const char* op = "matmul";
  Extent e{};
  e.in[0] = reach(op, "a", {{d.batch, d.a_batch}, {d.M, d.a_ld}, {d.K, 1}});
  e.in[1] = reach(op, "b", {{d.batch, d.b_batch}, {d.K, d.b_ld}, {d.N, 1}});
  e.out = reach_distinct(op, {{d.batch, d.y_batch}, {d.M, d.y_ld}, {d.N, 1}});
  return e;
}

void prepare(MatMul& d) {
  const double flops = 2.0 * d.batch * d.M * d.N * d.K;
  d.chunks = chunks_of(flops, 1 << 19, d.batch * blocks(d.M, 24) * blocks(d.N, 128));
}

Extent extent(const Pool2d& d) {
  const char* op = "pool2d";
  check_windows(op, d, WINDOW_LIMIT);
  CHECK(op, pad_b, 0, IMAGE_LIMIT);
  CHECK(op, pad_r, 0, IMAGE_LIMIT);
  CHECK(op, count_include_pad, 0, 1);
  CHECK(op, columns_first, 0, 1);
  Extent e{};
  e.in[0] = reach(op, "x", {{d.N, d.x_image}, {d.H, d.x_row}, {d.W, d.x_ld}, {d.C, 1}});
  int64_t pixels;
  if (__builtin_mul_overflow(d.P * d.Q, d.N, &pixels)) too_large(op, "y");
  e.out = reach_distinct(op, {{pixels, d.y_ld}, {d.C, 1}});
  return e;
}

void prepare(Pool2d& d) {
  const double rows = static_cast<double>(d.N) * d.P, in = static_cast<double>(d.N) * d.H * d.W * d.C;
  d.chunks = chunks_of(std::max(in, rows * d.Q * d.C * d.R * d.S / 4), 2 * CHUNK, rows);
}

Extent extent(const Unary& d) {
  check_activation(d.act, "unary");
  Extent e{};
  e.in[0] = rows_extent("unary", "x", d.rows, d.x_ld, d.n);
  e.out = reach_distinct("unary", {{d.rows, d.y_ld}, {d.n, 1}});
  return e;
}

void prepare(Unary& d) {
  const double work = static_cast<double>(d.rows) * d.n;
  d.chunks = chunks_of(work, CHUNK, d.x_ld == d.n && d.y_ld == d.n ? work : std::max<double>(d.rows, 1));
  if (d.rows == 1) d.chunks = chunks_of(work, CHUNK, work);
}

Extent extent(const Binary& d) {
  const char* op = "binary";
  CHECK(op, rank, 0, MAX_RANK);
  in_range(op, "func", static_cast<int64_t>(d.func), 0, static_cast<int64_t>(BinaryFunc::equal));
  check_activation(d.act, op);
  Extent e{};
  e.in[0] = reach(op, "a", box(d.dims, d.a_stride, d.rank));
  e.in[1] = reach(op, "b", box(d.dims, d.b_stride, d.rank));
  e.out = reach_distinct(op, box(d.dims, d.y_stride, d.rank));
  return e;
}

void prepare(Binary& d) { d.chunks = element_chunks(d.dims, d.rank); }

Extent extent(const Affine& d) {
  check_activation(d.act, "affine");
  Extent e{};
  e.in[0] = rows_extent("affine", "x", d.rows, d.x_ld, d.n);
  e.in[1] = e.in[2] = d.n;
  e.out = reach_distinct("affine", {{d.rows, d.y_ld}, {d.n, 1}});
  return e;
}

void prepare(Affine& d) { d.chunks = chunks_of(static_cast<double>(d.rows) * d.n, CHUNK, d.rows); }

Extent extent(const Reduce& d) {
  const char* op = "reduce";
  in_range(op, "func", static_cast<int64_t>(d.func), 0, static_cast<int64_t>(ReduceFunc::last_arg_min));
  Extent e{};
  e.in[0] = reach(op, "x", {{d.outer, d.x_outer}, {d.n, d.x_n}, {d.inner, 1}});
  e.out = reach_distinct(op, {{d.outer, d.y_outer}, {d.inner, 1}});
  return e;
}

void prepare(Reduce& d) {
  // where there are enough of them, whole rows: a part of a row would be read with gaps
  const double units = d.outer >= 16 ? static_cast<double>(d.outer) : d.outer * blocks(d.inner, 16);
  d.chunks = chunks_of(static_cast<double>(d.outer) * d.n * d.inner, 2 * CHUNK, units);
}

Extent extent(const Softmax& d) {
  const char* op = "softmax";
  CHECK(op, log, 0, 1);
  Extent e{};
  e.in[0] = reach(op, "x", {{d.outer, d.x_outer}, {d.n, d.x_n}, {d.inner, 1}});
  e.out = reach_distinct(op, {{d.outer, d.y_outer}, {d.n, d.y_n}, {d.inner, 1}});
  return e;
}

void prepare(Softmax& d) {
  d.chunks = chunks_of(static_cast<double>(d.outer) * d.n * d.inner, CHUNK / 2, d.outer * blocks(d.inner, 16));
}

Extent extent(const Lrn& d) {
  CHECK("lrn", size, 1, SIZE_LIMIT);
  Extent e{};
  e.in[0] = rows_extent("lrn", "x", d.rows, d.x_ld, d.C);
  e.out = reach_distinct("lrn", {{d.rows, d.y_ld}, {d.C, 1}});
  return e;
}

void prepare(Lrn& d) {
  const double taps = static_cast<double>(std::min(d.size, 2 * d.C));
  d.chunks = chunks_of(static_cast<double>(d.rows) * d.C * (taps + 4), 4 * CHUNK, d.rows);
}

Extent extent(const Copy& d) {
  const char* op = "copy";
  CHECK(op, rank, 0, MAX_RANK);
  Extent e{};
  e.in[0] = reach(op, "x", box(d.dims, d.x_stride, d.rank));
  e.out = reach_distinct(op, box(d.dims, d.y_stride, d.rank));
  return e;
}

void prepare(Copy& d) { d.chunks = element_chunks(d.dims, d.rank); }

Extent extent(const Pad& d) {
  const char* op = "pad";
  CHECK(op, rank, 0, MAX_RANK);
  in_range(op, "mode", static_cast<int64_t>(d.mode), 0, static_cast<int64_t>(PadMode::reflect));
  Extent e{};
  e.in[0] = reach(op, "x", box(d.x_dims, d.x_stride, d.rank));
  e.out = reach_distinct(op, box(d.dims, d.y_stride, d.rank));
  int64_t inner = 1, unused;  // the kernel may join trailing dimensions into one
  for (int64_t i = d.rank - 1; i >= 0; i--) {
    in_range(op, "before", d.before[i], -SIZE_LIMIT, SIZE_LIMIT);
    if (d.mode != PadMode::constant) in_range(op, "x_dims", d.x_dims[i], 1, SIZE_LIMIT);
    if (__builtin_mul_overflow(d.before[i], inner, &unused) || __builtin_mul_overflow(d.x_dims[i], inner, &unused) ||
        __builtin_mul_overflow(std::max<int64_t>(1, d.dims[i]), inner, &inner))
      too_large(op, "y");
  }
  return e;
}

void prepare(Pad& d) {
  const double work = product(d.dims, d.rank);
  d.chunks = chunks_of(work, CHUNK, d.rank > 0 && d.dims[d.rank - 1] > 0 ? work / d.dims[d.rank - 1] : 1);
}

}  // namespace fastconv
