#include "checks.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastconv {

namespace {

constexpr int64_t SIZE_LIMIT = int64_t(1) << 40;    // of a dimension, a stride or a buffer, in elements
constexpr int64_t WINDOW_LIMIT = int64_t(1) << 20;  // of a window, its stride and its dilation
constexpr int64_t IMAGE_LIMIT = int64_t(1) << 31;   // of H, W, P, Q and padding: products with the above fit 64 bits
constexpr double CHUNK = 8192;                      // elements

void in_range(const char* op, const char* field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    throw std::invalid_argument(std::string(op) + ": " + field + " must be from " + std::to_string(low) + " to " +
                                std::to_string(high) + ", got " + std::to_string(value));
}

#define CHECK(op, field, low, high) in_range(op, #field, d.field, low, high)

struct Dim {
  int64_t size, stride;
};

void too_large(const char* op, const char* buffer) {
  throw std::invalid_argument(std::string(op) + ": buffer " + buffer + " reaches beyond " + std::to_string(SIZE_LIMIT) +
                              " elements");
}

// One more than the largest index; 0 where a dimension is 0.
int64_t reach(const char* op, const char* buffer, const std::vector<Dim>& dims) {
  int64_t last = 0;
  bool empty = false;
  for (const Dim& d : dims) {
    in_range(op, (std::string("a dimension of ") + buffer).c_str(), d.size, 0, SIZE_LIMIT);
    in_range(op, (std::string("a stride of ") + buffer).c_str(), d.stride, 0, SIZE_LIMIT);
    empty = empty || d.size == 0;
    int64_t step = 0;
    if (d.size > 0 && (__builtin_mul_overflow(d.size - 1, d.stride, &step) ||
                       __builtin_add_overflow(last, step, &last) || last >= SIZE_LIMIT))
      too_large(op, buffer);
  }
  return empty ? 0 : last + 1;
}

// The same for an output: distinct elements must have distinct addresses. With the strides sorted, each must step over
// everything that the smaller ones reach; so the number of elements is at most the result.
int64_t reach_distinct(const char* op, std::vector<Dim> dims) {
  const int64_t size = reach(op, "y", dims);
  if (size == 0) return 0;
  std::sort(dims.begin(), dims.end(), [](const Dim& a, const Dim& b) { return a.stride < b.stride; });
  int64_t inner = 0;
  for (const Dim& d : dims) {
    if (d.size == 1) continue;
    if (d.stride <= inner)
      throw std::invalid_argument(std::string(op) + ": elements of y overlap: a stride of " + std::to_string(d.stride) +
                                  " steps over " + std::to_string(inner + 1) + " elements");
    inner += (d.size - 1) * d.stride;
  }
  return size;
}

int64_t rows_extent(const char* op, const char* buffer, int64_t rows, int64_t ld, int64_t n) {
  return reach(op, buffer, {{rows, ld}, {n, 1}});
}

std::vector<Dim> box(const int64_t* dims, const int64_t* strides, int64_t rank) {
  std::vector<Dim> r;
  for (int64_t i = 0; i < rank; i++) r.push_back({dims[i], strides[i]});
  return r;
}

// ceil(work / per_chunk) chunks, but at most one for each unit that can be split off.
int64_t chunks_of(double work, double per_chunk, double units) {
  return static_cast<int64_t>(std::max(1.0, std::min(std::ceil(work / per_chunk), std::min(units, 1e6))));
}

double product(const int64_t* dims, int64_t rank) {
  double p = 1;
  for (int64_t i = 0; i < rank; i++) p *= static_cast<double>(dims[i]);
  return p;
}

double blocks(int64_t n, int64_t size) { return static_cast<double>((n + size - 1) / size); }

}  // namespace

void check_activation(const Activation& act, const char* op) {
  in_range(op, "activation function", static_cast<int64_t>(act.func), 0, static_cast<int64_t>(Func::ceil));
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
  CHECK(op, N, 0, IMAGE_LIMIT);
  CHECK(op, H, 1, IMAGE_LIMIT);
  CHECK(op, W, 1, IMAGE_LIMIT);
  CHECK(op, C, 1, IMAGE_LIMIT);
  CHECK(op, P, 0, IMAGE_LIMIT);
  CHECK(op, Q, 0, IMAGE_LIMIT);
  CHECK(op, R, 1, WINDOW_LIMIT);
  CHECK(op, S, 1, WINDOW_LIMIT);
  CHECK(op, stride_h, 1, WINDOW_LIMIT);
  CHECK(op, stride_w, 1, WINDOW_LIMIT);
  CHECK(op, dilation_h, 1, WINDOW_LIMIT);
  CHECK(op, dilation_w, 1, WINDOW_LIMIT);
  CHECK(op, pad_t, 0, IMAGE_LIMIT);
  CHECK(op, pad_l, 0, IMAGE_LIMIT);
  CHECK(op, pad_b, 0, IMAGE_LIMIT);
  CHECK(op, pad_r, 0, IMAGE_LIMIT);
  CHECK(op, count_include_pad, 0, 1);
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
  in_range(op, "func", static_cast<int64_t>(d.func), 0, static_cast<int64_t>(BinaryFunc::prelu));
  check_activation(d.act, op);
  Extent e{};
  e.in[0] = reach(op, "a", box(d.dims, d.a_stride, d.rank));
  e.in[1] = reach(op, "b", box(d.dims, d.b_stride, d.rank));
  e.out = reach_distinct(op, box(d.dims, d.y_stride, d.rank));
  return e;
}

void prepare(Binary& d) {
  const double work = product(d.dims, d.rank);
  d.chunks = chunks_of(work, CHUNK, work);
}

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
  in_range(op, "func", static_cast<int64_t>(d.func), 0, static_cast<int64_t>(ReduceFunc::max));
  Extent e{};
  e.in[0] = reach(op, "x", {{d.outer, d.x_outer}, {d.n, d.x_n}, {d.inner, 1}});
  e.out = reach_distinct(op, {{d.outer, d.y_outer}, {d.inner, 1}});
  return e;
}

void prepare(Reduce& d) {
  d.chunks = chunks_of(static_cast<double>(d.outer) * d.n * d.inner, 2 * CHUNK, d.outer * blocks(d.inner, 16));
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

void prepare(Copy& d) {
  const double work = product(d.dims, d.rank);
  d.chunks = chunks_of(work, CHUNK, work);
}

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
