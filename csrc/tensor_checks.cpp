// The checks of operations that pick, choose, sort and normalise; see checks.h.
#include "check_tools.h"
#include "checks.h"

namespace fastconv {

Extent extent(const Resample& d) {
  const char* op = "resample";
  CHECK(op, n, 1, SIZE_LIMIT);
  CHECK(op, taps, 1, WINDOW_LIMIT);
  Extent e{};
  e.in[0] = reach(op, "x", {{d.outer, d.x_outer}, {d.n, d.x_n}, {d.rows, d.x_row}, {d.C, 1}});
  e.in[1] = times(op, "index", {d.P, d.taps});
  e.in[2] = d.taps > 1 ? e.in[1] : 0;
  e.optional_from = 2;
  if (d.taps > 1) e.optional_from = 3;
  e.out = reach_distinct(op, {{d.outer, d.y_outer}, {d.P, d.y_p}, {d.rows, d.y_row}, {d.C, 1}});
  return e;
}

void prepare(Resample& d) {
  const double rows = static_cast<double>(d.outer) * d.P;
  d.chunks = chunks_of(rows * d.rows * d.C * d.taps, CHUNK, rows);
}

Extent extent(const AffineSample& d) {
  const char* op = "affine_sample";
  CHECK(op, N, 0, SIZE_LIMIT);
  for (const int64_t n : {d.H, d.W, d.P, d.Q}) in_range(op, "H, W, P and Q", n, 1, 1 << 24);
  in_range(op, "fill", static_cast<int64_t>(d.fill), 0, static_cast<int64_t>(FillMode::wrap));
  CHECK(op, bilinear, 0, 1);
  Extent e{};
  e.in[0] = rows_extent(op, "x", times(op, "x", {d.N, d.H, d.W}), d.x_ld, d.C);
  e.in[1] = times(op, "matrix", {d.N, 6});
  e.out = reach_distinct(op, {{times(op, "y", {d.N, d.P, d.Q}), d.y_ld}, {d.C, 1}});
  return e;
}

void prepare(AffineSample& d) {
  const double rows = static_cast<double>(d.N) * d.P;
  d.chunks = chunks_of(8.0 * rows * d.Q * (d.C + 2), CHUNK * 4, rows);
}

Extent extent(const Where& d) {
  const char* op = "where";
  CHECK(op, rank, 0, MAX_RANK);
  Extent e{};
  e.in[0] = reach(op, "condition", box(d.dims, d.c_stride, d.rank));
  e.in[1] = reach(op, "a", box(d.dims, d.a_stride, d.rank));
  e.in[2] = reach(op, "b", box(d.dims, d.b_stride, d.rank));
  e.out = reach_distinct(op, box(d.dims, d.y_stride, d.rank));
  return e;
}

void prepare(Where& d) { d.chunks = element_chunks(d.dims, d.rank); }

Extent extent(const Normalize& d) {
  const char* op = "normalize";
  Extent e{};
  const int64_t channels = times(op, "scale", {d.groups, d.width});
  e.in[0] = reach(op, "x", {{d.outer, d.x_outer}, {d.rows, d.x_row}, {channels, 1}});
  e.in[1] = e.in[2] = channels;
  e.optional_from = 1;
  e.out = reach_distinct(op, {{d.outer, d.y_outer}, {d.rows, d.y_row}, {channels, 1}});
  return e;
}

void prepare(Normalize& d) {
  const double units = static_cast<double>(d.outer) * (d.width >= 16 ? d.groups : blocks(d.groups * d.width, 64));
  d.chunks = chunks_of(static_cast<double>(d.outer) * d.rows * d.groups * d.width, CHUNK, units);
}

Extent extent(const TopK& d) {
  const char* op = "topk";
  CHECK(op, n, 1, 1 << 24);
  CHECK(op, k, 0, d.n);
  CHECK(op, largest, 0, 1);
  Extent e{};
  e.in[0] = times(op, "x", {d.outer, d.n, d.inner});
  e.out = times(op, "y", {d.outer, d.k, d.inner});
  return e;
}

void prepare(TopK& d) {
  d.chunks = chunks_of(8.0 * d.outer * d.n * d.inner, CHUNK, static_cast<double>(d.outer) * d.inner);
}

Extent extent(const Take& d) {
  const char* op = "take";
  CHECK(op, n, 1, 1 << 24);
  Extent e{};
  e.in[0] = times(op, "x", {d.outer, d.n, d.inner});
  e.in[1] = e.out = times(op, "y", {d.outer, d.k, d.inner});
  return e;
}

void prepare(Take& d) {
  const double work = static_cast<double>(d.outer) * d.k * d.inner;
  d.chunks = chunks_of(work, CHUNK, work);
}

Extent extent(const Suppress& d) {
  const char* op = "suppress";
  CHECK(op, boxes, 0, 1 << 24);
  CHECK(op, images, 0, 1 << 24);
  CHECK(op, classes, 0, 1 << 24);
  CHECK(op, most, 0, SIZE_LIMIT);
  CHECK(op, center, 0, 1);
  CHECK(op, has_score, 0, 1);
  Extent e{};
  e.in[0] = times(op, "boxes", {d.images, d.boxes, 4});
  e.in[1] = e.in[2] = times(op, "scores", {d.images, d.classes, d.boxes});
  e.out = times(op, "y", {d.images, d.classes, std::min(d.most, d.boxes), 3});
  return e;
}

void prepare(Suppress& d) { d.chunks = 1; }

}  // namespace fastconv
