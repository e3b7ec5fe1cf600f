// Dense layers of one to three rows: y[m, k] = act(bias[k] + sum over c of x[m, c] * w[c, k] + residual[m, k]). More
// rows are the pixels of a 1x1 convolution (fastconv/lowering.py).
//
// Weights are panels of columns, [panel][c][columns] (cpu/pack.cpp), and each is read once. In a cache: panels are
// DENSE_NV vectors wide. From memory: what counts is how little of it is read, and how. Behind a ReLU many inputs are
// zero, and their weights are left out. A gap of a few lines saves no time, so a panel's rows are up to 4 KB, and its
// sums, too many for registers, lie in L1. Inputs are taken from STREAMS parts of the depth in turns, so that a step
// reads as many pages side by side. Only there sums have another order.
#include "cpu/kernels.h"
#include "cpu/math.h"
#include "cpu/tile.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int STREAMS = 4;

// The inputs that are not zero in every row, in the order in which they are taken, and FAR_AHEAD more; their number.
int64_t find_inputs(const Linear& d, const float* x, int32_t* list) {
  const float *second = x + (d.M > 1 ? d.x_ld : 0), *third = x + (d.M > 2 ? 2 * d.x_ld : 0);
  const int64_t part = d.C / STREAMS;
  int64_t n = 0;
  const auto take = [&](int64_t c) {
    list[n] = (int32_t)c;
    n += (x[c] != 0) | (second[c] != 0) | (third[c] != 0);
  };
  for (int64_t c = 0; c < part; c++) {
    for (int s = 0; s < STREAMS; s++) take(s * part + c);
  }
  for (int64_t c = STREAMS * part; c < d.C; c++) take(c);
  for (int64_t i = 0; i < FAR_AHEAD; i++) list[n + i] = n ? list[n - 1] : 0;
  return n;
}

// What tile.h's finish_tile does, for sums in memory: a stream ends once in a panel, and inlined into each this was
// half of its code.
__attribute__((noinline)) void finish_stream(const Tile& t, float* sums, int rows, int nv) {
  constexpr int V = Vec::N;
  const bool clip = t.act->func == Func::clip, in_place = clips(*t.act);
  const Vec lo = set1(clip ? t.act->alpha : -__builtin_inff()), hi = set1(clip ? t.act->beta : __builtin_inff());
  const auto put = [&](int i, int j, Vec v) {
    float* y = t.y + i * t.y_ld + j * V;
    if (j < nv - 1 || t.tail == V) return store(y, v);
    store_n(y, v, t.tail);
  };
  for (int i = 0; i < rows; i++) {
    for (int j = 0; j < nv; j++) {
      float* sum = sums + (i * nv + j) * V;
      Vec v = load(sum);
      if (t.residual) {
        const float* r = t.residual + i * t.res_ld + j * V;
        v = add(v, j < nv - 1 || t.tail == V ? load(r) : load_n(r, t.tail));
      }
      if (in_place) {
        put(i, j, min(hi, max(lo, v)));
      } else {
        store(sum, v);
      }
    }
  }
  if (in_place) return;
  activate_row(*t.act, sums, rows * nv * V);
  for (int i = 0; i < rows; i++) {
    for (int j = 0; j < nv; j++) put(i, j, load(sums + (i * nv + j) * V));
  }
}

// Weights from a cache: a tile of NV vectors of a panel.
template <int MR, int NV>
void stream(const Tile& t) {
  constexpr int64_t V = Vec::N;
  Vec acc[MR][NV];
#pragma GCC unroll 8
  for (int j = 0; j < NV; j++) {
    const Vec bias = !t.bias                     ? zero()
                     : j < NV - 1 || t.tail == V ? load(t.bias + j * V)
                                                 : load_n(t.bias + j * V, t.tail);
#pragma GCC unroll 3
    for (int i = 0; i < MR; i++) acc[i][j] = bias;
  }
  for (int64_t c = 0; c < t.len; c++) {
    const float* w = t.w + c * t.w_ld;
    Vec x[MR];
#pragma GCC unroll 3
    for (int i = 0; i < MR; i++) x[i] = set1(t.a[i][c]);
#pragma GCC unroll 8
    for (int j = 0; j < NV; j++) {
#pragma GCC unroll 3
      for (int i = 0; i < MR; i++) acc[i][j] = fma_at(x[i], w + j * V, acc[i][j]);
    }
  }
  alignas(64) float sums[MR * NV * V];
#pragma GCC unroll 3
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; j++) store(sums + (i * NV + j) * V, acc[i][j]);
  }
  finish_stream(t, sums, MR, NV);
}

// N inputs of the list into the sums of a panel. Of those FAR_AHEAD behind every whole line is fetched.
template <int MR, int N>
void add_inputs(const Tile& t, const int32_t* inputs, float* sums) {
  constexpr int64_t V = Vec::N, LINE = 16;
  const float *w[N], *ahead[N];
  Vec x[MR][N];
  for (int n = 0; n < N; n++) {
    w[n] = t.w + inputs[n] * t.w_ld;
    ahead[n] = t.w + inputs[n + FAR_AHEAD] * t.w_ld;
    for (int i = 0; i < MR; i++) x[i][n] = set1(t.a[i][inputs[n]]);
  }
  const auto add_vector = [&](int64_t k) {
    Vec sum[MR];
#pragma GCC unroll 3
    for (int i = 0; i < MR; i++) sum[i] = load(sums + i * t.w_ld + k);
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
#pragma GCC unroll 3
      for (int i = 0; i < MR; i++) sum[i] = fma_at(x[i][n], w[n] + k, sum[i]);
    }
#pragma GCC unroll 3
    for (int i = 0; i < MR; i++) store(sums + i * t.w_ld + k, sum[i]);
  };
  int64_t k = 0;
  for (; k + LINE <= t.w_ld; k += LINE) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) __builtin_prefetch(ahead[n] + k, 0, 3);
#pragma GCC unroll 4
    for (int64_t v = 0; v < LINE; v += V) add_vector(k + v);
  }
  if constexpr (V < LINE) {
    for (; k < t.w_ld; k += V) add_vector(k);
  }
}

// Weights from memory: the sums of a whole panel.
template <int MR>
void add_panel(const Tile& t, const int32_t* inputs, int64_t count) {
  alignas(64) float sums[MR * MAX_FAR_PANEL];
  const int64_t columns = t.w_ld - Vec::N + t.tail;
  for (int i = 0; i < MR; i++) {
    float* row = sums + i * t.w_ld;
    for (int64_t k = 0; k < t.w_ld; k++) row[k] = t.bias && k < columns ? t.bias[k] : 0;
  }
  int64_t i = 0;
  for (; i + STREAMS <= count; i += STREAMS) add_inputs<MR, STREAMS>(t, inputs + i, sums);
  for (; i < count; i++) add_inputs<MR, 1>(t, inputs + i, sums);
  finish_stream(t, sums, MR, (int)(t.w_ld / Vec::N));
}

using StreamFunction = void (*)(const Tile&);

// Vectors of a tile: a panel. Half of one where the sums of three rows would not fit registers: for two, reading a
// panel in halves costs more than that.
constexpr int widest(int64_t rows) { return rows < 3 || REGISTERS >= 32 ? DENSE_NV : DENSE_NV / 2; }

template <int NV>
StreamFunction stream_of_rows(int64_t rows) {
  if constexpr (NV > widest(3)) {
    return rows == 1 ? stream<1, NV> : stream<2, NV>;
  } else {
    return rows == 1 ? stream<1, NV> : rows == 2 ? stream<2, NV> : stream<3, NV>;
  }
}

// nv up to widest(rows), one to three rows
StreamFunction find_stream(int nv, int64_t rows) {
  switch (nv) {
    case 1:
      return stream_of_rows<1>(rows);
    case 2:
      return stream_of_rows<2>(rows);
    case 3:
      return stream_of_rows<3>(rows);
    case 4:
      return stream_of_rows<4>(rows);
    case 5:
      return stream_of_rows<5>(rows);
    case 6:
      return stream_of_rows<6>(rows);
    case 7:
      return stream_of_rows<7>(rows);
    default:
      return stream_of_rows<8>(rows);
  }
}

}  // namespace

// Chunks are panels.
void linear(const Linear& d, const Buffers& b, int64_t begin, int64_t end) {
  if (begin == end) return;
  constexpr int64_t V = Vec::N;
  const bool far = reads_far(d);
  const int64_t panel = far ? far_panel(d.K) : DENSE_NV * V, step = far ? panel : widest(d.M) * V;
  int32_t* inputs = (int32_t*)b.scratch;
  const int64_t count = far ? find_inputs(d, b.in[0], inputs) : 0;
  const float* rows[3];
  for (int64_t i = 0; i < d.M; i++) rows[i] = b.in[0] + i * d.x_ld;
  Tile t;
  t.a = rows;
  t.len = d.C;
  t.res_ld = d.res_ld;
  t.y_ld = d.y_ld;
  t.act = &d.act;
  for (int64_t k = begin * panel; k < min_i(d.K, end * panel); k += step) {
    const int64_t first = k / panel * panel, columns = min_i(step, d.K - k), vectors = (columns + V - 1) / V;
    t.w_ld = (min_i(panel, d.K - first) + V - 1) / V * V;
    t.w = b.in[1] + first * d.C + k - first;
    t.bias = b.in[2] ? b.in[2] + k : nullptr;
    t.residual = b.in[3] ? b.in[3] + k : nullptr;
    t.y = b.out + k;
    t.tail = (int)(columns - (vectors - 1) * V);
    if (far) {
      (d.M == 1 ? add_panel<1> : d.M == 2 ? add_panel<2> : add_panel<3>)(t, inputs, count);
    } else {
      find_stream((int)vectors, d.M)(t);
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
