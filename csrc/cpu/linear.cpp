// Dense layers: y[m, k] = act(bias[k] + sum over c of x[m, c] * w[c, k] + residual[m, k]).
//
// Weights are panels of DENSE_NV vectors of columns, [panel][c][columns] (cpu/pack.cpp). Up to three rows read each
// weight once and are bound by memory: one tile is as wide as the panel, and a panel is one long stream for the
// prefetcher. More rows take the panel in parts of MAX_NV vectors, with the tiles of the convolution, and DEPTH inputs
// at a time: several tiles of rows then read the weights from L2. Sums wait in y; their order stays. Only up to three
// rows with weights from memory add in another order, that of the streams.
//
// Behind a ReLU many inputs are zero, and what is bound by memory gains what it does not read: with an eighth of the
// inputs zero or more, the streams take only the others, in the same order.
#include "cpu/follower.h"
#include "cpu/gemm.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int64_t DEPTH = 1024;  // inputs: 256 KB of weights on AVX-512
constexpr int STREAMS = 4;
constexpr int64_t AHEAD = 4096;  // bytes

// The inputs that are not zero in every row, in the order in which the streams take them, and STREAM_AHEAD more.
struct Inputs {
  const int32_t* list;  // null: all
  int64_t count;
};

Inputs find_inputs(const Linear& d, const float* x, int32_t* list) {
  const float *second = x + (d.M > 1 ? d.x_ld : 0), *third = x + (d.M > 2 ? 2 * d.x_ld : 0);
  const auto counts = [&](int64_t c) { return (int32_t)((x[c] != 0) | (second[c] != 0) | (third[c] != 0)); };
  int32_t live = 0;
  for (int64_t c = 0; c < d.C; c++) live += counts(c);
  if (live > d.C - d.C / 8) return {nullptr, 0};
  const int64_t part = d.C / STREAMS;
  int64_t n = 0;
  const auto take = [&](int64_t c) {
    list[n] = (int32_t)c;
    n += counts(c);
  };
  for (int64_t c = 0; c < part; c++) {
    for (int s = 0; s < STREAMS; s++) take(s * part + c);
  }
  for (int64_t c = STREAMS * part; c < d.C; c++) take(c);
  for (int64_t i = 0; i < STREAM_AHEAD; i++) list[n + i] = n ? list[n - 1] : 0;
  return {list, n};
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

// Few rows, weights from memory: one tile as wide as the panel. Its depth is read in STREAMS parts side by side, which
// go to the same sums, and fetched AHEAD bytes ahead, past the pages at which the prefetcher of the CPU stops. Where
// inputs are left out, every line is fetched: there is no row of lines that a prefetcher could follow.
template <int MR, int NV>
void stream(const Tile& t) {
  constexpr int64_t V = Vec::N, LINE = 16;
  Vec acc[MR][NV];
#pragma GCC unroll 8
  for (int j = 0; j < NV; j++) {
    const Vec bias = !t.bias                     ? zero()
                     : j < NV - 1 || t.tail == V ? load(t.bias + j * V)
                                                 : load_n(t.bias + j * V, t.tail);
#pragma GCC unroll 3
    for (int i = 0; i < MR; i++) acc[i][j] = bias;
  }
  const int64_t part = t.len / STREAMS;
  const auto step = [&](int64_t c, bool ahead) {
    const float* w = t.w + c * t.w_ld;
    Vec x[MR];
#pragma GCC unroll 3
    for (int i = 0; i < MR; i++) x[i] = set1(t.a[i][c]);
#pragma GCC unroll 8
    for (int j = 0; j < NV; j++) {
      if (ahead && j * V % (2 * LINE) == 0) __builtin_prefetch((const char*)(w + j * V) + AHEAD, 0, 0);
#pragma GCC unroll 3
      for (int i = 0; i < MR; i++) acc[i][j] = fma_at(x[i], w + j * V, acc[i][j]);
    }
  };
  if (t.inputs) {
    for (int64_t i = 0; i < t.n_inputs; i++) {
      const float* ahead = t.w + t.inputs[i + STREAM_AHEAD] * t.w_ld;
#pragma GCC unroll 8
      for (int j = 0; j < NV; j++) {
        if (j * V % LINE == 0) __builtin_prefetch(ahead + j * V, 0, 3);
      }
      step(t.inputs[i], false);
    }
  } else {
    int64_t c = 0;
    for (; t.cold && c < part; c++) {
#pragma GCC unroll 8
      for (int s = 0; s < STREAMS; s++) step(s * part + c, true);
    }
    for (c *= STREAMS; c < t.len; c++) step(c, false);
  }
  alignas(64) float sums[MR * NV * V];
#pragma GCC unroll 3
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; j++) store(sums + (i * NV + j) * V, acc[i][j]);
  }
  finish_stream(t, sums, MR, NV);
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

}  // namespace

void linear(const Linear& d, const Buffers& b, int64_t begin, int64_t end) {
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
  const bool far = streams_far(d);
  const Inputs inputs = far && begin < end ? find_inputs(d, b.in[0], (int32_t*)b.scratch) : Inputs{nullptr, 0};
  t.inputs = inputs.list;
  t.n_inputs = inputs.count;

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
        t.cold = stream ? far : part == 0;
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
