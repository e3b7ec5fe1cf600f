// Dense layers: y[m, k] = act(bias[k] + sum over c of x[m, c] * w[c, k] + residual[m, k]).
//
// Weights are panels of columns, [panel][c][columns] (cpu/pack.cpp). Up to three rows read each weight once: one tile
// is as wide as the panel, DENSE_NV vectors. More rows take the panel in parts of MAX_NV vectors, with the tiles of the
// convolution, and DEPTH inputs at a time: several tiles of rows then read the weights from L2. Sums wait in y; their
// order stays.
//
// Up to three rows with weights from memory are bound by it. Behind a ReLU many inputs are zero, and their weights are
// not read. Memory gives up little for a gap of a few lines, so their panels have rows of up to 4 KB, too many for
// registers: sums lie in L1. Inputs are taken from STREAMS parts of the depth side by side, so that each step reads as
// many pages at once. Only there sums have another order.
#include "cpu/follower.h"
#include "cpu/gemm.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int64_t DEPTH = 1024;  // inputs: 256 KB of weights on AVX-512
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

// Few rows: one tile as wide as the panel.
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

// N inputs of the list into the sums of a panel; every line of those FAR_AHEAD behind is fetched.
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

// Few rows, weights from memory: sums of a whole panel.
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

template <int NV>
TileFunction narrow_tile(int64_t rows) {
  return rows == 1 ? stream<1, NV> : rows == 2 ? stream<2, NV> : stream<3, NV>;
}

// nv up to 8, one to three rows
TileFunction find_stream(int nv, int64_t rows) {
  switch (nv) {
    case 1:
      return narrow_tile<1>(rows);
    case 2:
      return narrow_tile<2>(rows);
    case 3:
      return narrow_tile<3>(rows);
    case 4:
      return narrow_tile<4>(rows);
    case 5:
      return narrow_tile<5>(rows);
    case 6:
      return narrow_tile<6>(rows);
    case 7:
      return narrow_tile<7>(rows);
    default:
      return narrow_tile<8>(rows);
  }
}

// Chunks are panels.
void linear_far(const Linear& d, const Buffers& b, int64_t begin, int64_t end) {
  if (begin == end) return;
  constexpr int64_t V = Vec::N;
  const int64_t panel = far_panel(d.K);
  int32_t* inputs = (int32_t*)b.scratch;
  const int64_t count = find_inputs(d, b.in[0], inputs);
  const float* rows[3];
  for (int64_t i = 0; i < d.M; i++) rows[i] = b.in[0] + i * d.x_ld;
  Tile t;
  t.a = rows;
  t.res_ld = d.res_ld;
  t.y_ld = d.y_ld;
  t.act = &d.act;
  for (int64_t k = begin * panel; k < min_i(d.K, end * panel); k += panel) {
    const int64_t columns = min_i(panel, d.K - k);
    t.w_ld = (columns + V - 1) / V * V;
    t.w = b.in[1] + k * d.C;
    t.bias = b.in[2] ? b.in[2] + k : nullptr;
    t.residual = b.in[3] ? b.in[3] + k : nullptr;
    t.y = b.out + k;
    t.tail = (int)(columns + V - t.w_ld);
    (d.M == 1 ? add_panel<1> : d.M == 2 ? add_panel<2> : add_panel<3>)(t, inputs, count);
  }
}

}  // namespace

void linear(const Linear& d, const Buffers& b, int64_t begin, int64_t end) {
  if (reads_far(d)) return linear_far(d, b, begin, end);
  const int64_t V = Vec::N, vectors = (d.K + V - 1) / V;
  const float* pointers[16];
  Tile t;
  t.a = pointers;
  t.taps = nullptr;
  t.n_taps = t.count = 1;
  t.res_ld = d.res_ld;
  t.y_ld = d.y_ld;
  t.next_step = 0;
  t.start_ld = d.y_ld;
  const Activation none = {Func::identity, 0, 0};
  for (int64_t chunk = begin; chunk < end; chunk++) {
    const int64_t panels = d.chunks / d.row_chunks, rc = chunk / panels, first = chunk % panels * DENSE_NV;
    const int panel_nv = (int)min_i(DENSE_NV, vectors - first);
    const float* panel = b.in[1] + first * V * d.C;
    const int64_t row_begin = rc * d.rows_per_chunk, row_end = min_i(d.M, row_begin + d.rows_per_chunk);
    const bool stream = d.M <= 3;
    const int widest = stream ? DENSE_NV : MAX_NV;
    t.w_ld = panel_nv * V;
    for (int v = 0; v < panel_nv; v += widest) {
      const int nv = panel_nv - v < widest ? panel_nv - v : widest;
      const int64_t k = (first + v) * V;
      t.bias = b.in[2] ? b.in[2] + k : nullptr;
      t.tail = (int)min_i(V, d.K - k - (nv - 1) * V);
      const RowBlocks blocks(row_end - row_begin, stream ? 1 : nv);
      // A residual in y itself is read last, so sums cannot wait there.
      const bool whole = stream || blocks.count == 1 || b.in[3] == b.out;
      const int64_t parts = whole ? 1 : (d.C + DEPTH - 1) / DEPTH;
      Follower activation(d.act, b.out + row_begin * d.y_ld + k, d.y_ld, min_i(nv * V, d.K - k));
      for (int64_t part = 0; part < parts; part++) {
        const int64_t c = d.C * part / parts;
        const bool last = part == parts - 1;
        t.len = d.C * (part + 1) / parts - c;
        t.w = panel + v * V + c * t.w_ld;
        t.act = last && (stream || clips(d.act)) ? &d.act : &none;
        t.cold = part == 0;
        for (int64_t i = 0; i < blocks.count; i++) {
          const int64_t at = row_begin + blocks.start(i), rows = row_begin + blocks.start(i + 1) - at;
          for (int64_t r = 0; r < rows; r++) pointers[r] = b.in[0] + (at + r) * d.x_ld + c;
          t.y = b.out + at * d.y_ld + k;
          t.start = part ? t.y : nullptr;
          t.residual = b.in[3] && last ? b.in[3] + at * d.res_ld + k : nullptr;
          (stream ? find_stream(nv, rows) : find_tile(nv, rows))(t);
          if (last && !stream) activation.follow(blocks.start(i + 1), i + 1 == blocks.count);
        }
      }
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
