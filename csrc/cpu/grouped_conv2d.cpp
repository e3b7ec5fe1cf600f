// conv2d for groups of few channels and filters three pixels wide (grouped_checks.h), as in ResNeXt and
// RegNet. As a product each block of pixels would make a pointer for a few channels of each tap, and a group's pixels
// lie so far apart that they share few sets of L1.
//
// A band of a group's image is copied, with the padding at both sides. Then a tile keeps neighbouring outputs of one
// vector of channels in registers: each number of x is read once a filter row and used for every output that it
// touches (of two vectors: once a tap). Where groups are narrower than a vector, as many go together as fill one. Sums
// run in the order (r, c, s). Weights are packed as for conv2d.cpp.
#include "cpu/depthwise_lane.h"
#include "cpu/gemm.h"
#include "grouped_checks.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int S = 3;
constexpr bool MERGES_GROUPS = V > 4;
// Outputs of a tile of so many vectors, which leave registers for three weights and x, or for two and x.
constexpr int most_outputs(int nv) { return REGISTERS == 32 ? (nv == 1 ? 14 : 8) : nv == 1 ? 10 : 6; }
static_assert(most_outputs(1) / 2 <= GROUPED_LINE && most_outputs(2) / 2 <= GROUPED_LINE, "find_grouped_tile()");

// Groups side by side, those of a vector or one, and their band.
struct Part {
  bool merged;
  int64_t groups, Cg, Kg;
  int64_t pitch, x_row;   // of the copy: its channels, floats of a row
  const float *copy, *w;  // of the first group
};

// Output rows [begin, end) of an image; the copy begins with image row `top`.
struct Rows {
  int64_t begin, end, top;
};

struct Window {
  const float *x, *w;  // of the first filter row that lies inside the image
  int64_t x_row, pitch, channels, rows, w_ld;
};

// `columns` of x by weights of three taps: each number of x is read once.
template <int ST, bool SPREAD, int QT>
__attribute__((always_inline)) static inline void add_channel(const float* x, int64_t pitch, const float* w,
                                                              int64_t tap, const GroupLanes& lanes, Vec (&acc)[QT][1]) {
  constexpr int COLUMNS = (QT - 1) * ST + S;
  __asm__("" : "+r"(x));  // compilers would read the pixels of SPREAD before the loop and keep them on the stack
  Walk<const float> columns(x, pitch);
  const Vec weights[S] = {load(w), load(w + tap), load(w + 2 * tap)};
#pragma GCC unroll 32
  for (int i = 0; i < COLUMNS; i++) {
    const float* pixel = columns.pixel(i);
    const Vec v = SPREAD ? lanes.spread(load(pixel)) : set1(*pixel);
#pragma GCC unroll 16
    for (int q = 0; q < QT; q++) {
      const int s = i - q * ST;
      if (s >= 0 && s < S) acc[q][0] = fma_onto(v, weights[s], acc[q][0]);
    }
  }
}

// Two vectors: six weights would take too many registers.
template <int ST, bool SPREAD, int QT>
__attribute__((always_inline)) static inline void add_channel(const float* x, int64_t pitch, const float* w,
                                                              int64_t tap, const GroupLanes&, Vec (&acc)[QT][2]) {
#pragma GCC unroll 3
  for (int s = 0; s < S; s++, x += pitch, w += tap) {
    Walk<const float> columns(x, pitch * ST);
    const Vec a = load(w), b = load(w + V);
#pragma GCC unroll 16
    for (int q = 0; q < QT; q++) {
      const Vec v = set1(*columns.pixel(q));
      acc[q][0] = fma_onto(v, a, acc[q][0]);
      acc[q][1] = fma_onto(v, b, acc[q][1]);
    }
  }
}

// The end of `outputs` sums of nv vectors with a residual, or with lanes that are not written.
__attribute__((noinline)) void finish_sums(const Tile& t, const float* sums, int64_t outputs, int nv) {
  const Vec lo = set1(t.act->alpha), hi = set1(t.act->beta);
  for (int64_t q = 0; q < outputs; q++) {
    for (int j = 0; j < nv; j++, sums += V) {
      const int n = j < nv - 1 ? V : t.tail;
      Vec sum = load(sums);
      if (t.residual) sum = add(sum, get(t.residual + q * t.res_ld + j * V, n));
      set(t.y + q * t.y_ld + j * V, min(hi, max(lo, sum)), n);
    }
  }
}

// Not finish_tile(): that many tiles would take 200 kB. Without an activation lo and hi are infinite.
template <int QT, int NV>
__attribute__((always_inline)) static inline void finish(const Tile& t, const Vec (&acc)[QT][NV]) {
  if (t.residual || t.tail < V) {
    float sums[QT * NV * V];
#pragma GCC unroll 32
    for (int i = 0; i < QT * NV; i++) store(sums + i * V, acc[i / NV][i % NV]);
    return finish_sums(t, sums, QT, NV);
  }
  const Vec lo = set1(t.act->alpha), hi = set1(t.act->beta);
  const int64_t y_ld = t.y_ld;
  float* y = t.y;
#pragma GCC unroll 16
  for (int q = 0; q < QT; q++, y += y_ld) {
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) store(y + j * V, min(hi, max(lo, acc[q][j])));
  }
}

// NV vectors. SPREAD: of several groups, each lane takes a number of its own.
template <int QT, int ST, int NV, bool SPREAD>
void grouped_tile(const Tile& t, const Window& g) {
  Vec acc[QT][NV];
#pragma GCC unroll 2
  for (int j = 0; j < NV; j++) {
    const float* bias = t.bias ? t.bias + j * V : nullptr;
    const Vec start = bias ? get(bias, j < NV - 1 ? V : t.tail) : zero();
#pragma GCC unroll 16
    for (int q = 0; q < QT; q++) acc[q][j] = start;
  }
  const int64_t channels = g.channels, pitch = g.pitch, w_ld = g.w_ld, tap = channels * w_ld;
  const float* w = g.w;
  for (int64_t r = 0; r < g.rows; r++, w += (S - 1) * tap) {
    const float* x = g.x + r * g.x_row;
    GroupLanes lanes(channels);
    for (int64_t c = 0; c < channels; c++, w += w_ld) {
      add_channel<ST, SPREAD>(SPREAD ? x : x + c, pitch, w, tap, lanes, acc);
      if (SPREAD) lanes.next();
    }
  }
  finish(t, acc);
}

using GroupedTile = void (*)(const Tile&, const Window&);

// A line of at least half of the most outputs is cut into blocks of at least as many.
template <int ST, int NV, bool SPREAD, int QT = most_outputs(NV)>
GroupedTile tile_of_outputs(int64_t outputs) {
  if constexpr (QT < most_outputs(NV) / 2) {
    return nullptr;
  } else {
    return outputs == QT ? grouped_tile<QT, ST, NV, SPREAD> : tile_of_outputs<ST, NV, SPREAD, QT - 1>(outputs);
  }
}

template <int ST>
GroupedTile find_grouped_tile(int nv, bool spread, int64_t outputs) {
  if (nv == 2) return tile_of_outputs<ST, 2, false>(outputs);
  return spread ? tile_of_outputs<ST, 1, MERGES_GROUPS>(outputs) : tile_of_outputs<ST, 1, false>(outputs);
}

// `channels` of `pixels` pixels, one behind the other; VECTORS: how many that is, or 0. Writes up to a vector more.
template <int VECTORS>
void copy_pixels(const float* x, int64_t x_ld, int64_t channels, int64_t pixels, float* out) {
  if (VECTORS) channels = VECTORS * V;
  for (int64_t i = 0; i < pixels; i++, x += x_ld, out += channels) {
    int64_t c = 0;
    for (; c + V <= channels; c += V) store(out + c, load(x + c));
    if (c < channels) store(out + c, load_n(x + c, (int)(channels - c)));
  }
}

void write_zeros(float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += V) store(out + i, zero());
}

// Rows [first, last) of an image of `channels` of x, each `width` pixels from the padding on.
void copy_band(const Conv2d& d, const float* x, int64_t channels, int64_t first, int64_t last, int64_t width,
               float* out) {
  const auto copy = channels == V ? copy_pixels<1> : channels == 2 * V ? copy_pixels<2> : copy_pixels<0>;
  const int64_t left = min_i(width, d.pad_l), right = max_i(left, min_i(width, d.pad_l + d.W));
  for (int64_t h = first; h < last; h++, out += width * channels) {
    write_zeros(out, left * channels);
    if (left < right) {
      copy(x + h * d.x_row + (left - d.pad_l) * d.x_ld, d.x_ld, channels, right - left, out + left * channels);
    }
    write_zeros(out + right * channels, (width - right) * channels);
  }
}

// Weights of groups that make a vector, [tap][c] vectors, from those of one after the other.
void merge_weights(const Part& part, int64_t taps, float* out) {
  const int64_t vectors = taps * part.Cg;
  for (int64_t i = 0; i < vectors; i++) {
    for (int64_t g = 0; g < part.groups; g++) {
      const float* w = part.w + (g * vectors + i) * V;
      for (int64_t k = 0; k < part.Kg; k++) out[i * V + g * part.Kg + k] = w[k];
    }
  }
}

// b: of the part's first channel and of the image's first pixel.
void run_part(const Conv2d& d, const Buffers& b, const Part& part, const Rows& rows) {
  const int64_t K = part.groups * part.Kg;
  const Panels panels(K, MAX_NV);
  const Activation none = {Func::clip, -__builtin_inff(), __builtin_inff()};
  Tile t;
  t.res_ld = d.res_ld, t.y_ld = d.y_ld;
  t.act = d.act.func == Func::clip ? &d.act : &none;
  Window g;
  g.x_row = part.x_row, g.pitch = part.pitch, g.channels = part.Cg;
  for (int64_t panel = 0; panel < panels.count; panel++) {
    g.w_ld = panels.width(panel) * V;
    int nv = 1;
    for (int64_t i = 0; i < panels.width(panel); i += nv) {
      nv = i + 1 < panels.width(panel) ? 2 : 1;
      const int64_t k = (panels.start(panel) + i) * V, row_weights = S * part.Cg * g.w_ld;
      const int64_t most = most_outputs(nv), blocks = (d.Q + most - 1) / most;
      const float* w = part.w + panels.start(panel) * V * d.R * S * part.Cg + i * V;
      t.bias = b.in[2] ? b.in[2] + k : nullptr;
      t.tail = (int)min_i(V, K - k - (nv - 1) * V);
      for (int64_t p = rows.begin; p < rows.end; p++) {
        const int64_t h = p * d.stride_h - d.pad_t, r_begin = max_i(0, -h);
        g.rows = max_i(0, min_i(d.R, d.H - h) - r_begin);
        g.w = g.rows ? w + r_begin * row_weights : w;
        const float* row = g.rows ? part.copy + (h + r_begin - rows.top) * g.x_row : part.copy;
        for (int64_t block = 0; block < blocks; block++) {
          const int64_t q = d.Q * block / blocks, count = d.Q * (block + 1) / blocks - q, pixel = p * d.Q + q;
          g.x = row + q * d.stride_w * g.pitch;
          t.residual = b.in[3] ? b.in[3] + pixel * d.res_ld + k : nullptr;
          t.y = b.out + pixel * d.y_ld + k;
          const auto find = d.stride_w == 1 ? find_grouped_tile<1> : find_grouped_tile<2>;
          find(nv, part.merged, count)(t, g);
        }
      }
    }
  }
  if (!clips(d.act)) {
    activate_rows(d.act, b.out + rows.begin * d.Q * d.y_ld, d.y_ld, (rows.end - rows.begin) * d.Q, K);
  }
}

// What a turn of `turns` fetches of the next operation's weights.
void fetch_turn(const Fetch& next, int64_t turn, int64_t turns) {
  for (int64_t i = next.bytes * turn / turns / 64; i < next.bytes * (turn + 1) / turns / 64; i++) {
    prefetch_l2(next.from + 64 * i);
  }
}

}  // namespace

void grouped_conv2d(const Conv2d& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t bands = d.row_chunks / d.N, merged = merged_groups(d, V), parts = (d.groups + merged - 1) / merged;
  const GroupBand band = group_band(d, V);
  Part part;
  part.merged = merged > 1, part.Cg = d.C / d.groups, part.Kg = d.K / d.groups;
  float *weights = b.scratch, *copy = weights + (merged > 1 ? d.R * S * part.Cg * V : 0);
  part.copy = copy;
  const int64_t packed = Panels(part.Kg, MAX_NV).vectors * V * d.R * S * part.Cg;  // of a group
  for (int64_t chunk = begin; chunk < end;) {
    const int64_t range = chunk / d.panel_chunks, slice = chunk % d.panel_chunks, n = range / bands;
    // neighbouring ranges of an image go together: each would copy rows of the other
    const int64_t ranges = d.panel_chunks > 1 ? 1 : min_i(end - chunk, (n + 1) * bands - range);
    const int64_t p_begin = range % bands * d.rows_per_chunk, p_end = min_i(d.P, p_begin + ranges * d.rows_per_chunk);
    const int64_t g_begin = chunk_begin(parts, d.panel_chunks, slice) * merged;
    const int64_t g_end = min_i(d.groups, chunk_begin(parts, d.panel_chunks, slice + 1) * merged);
    const Fetch next = next_operation(b, chunk, chunk + ranges, d.panel_chunks == 1);
    const int64_t turns = ((p_end - p_begin - 1) / band.rows + 1) * ((g_end - g_begin - 1) / merged + 1);
    int64_t turn = 0;
    chunk += ranges;
    for (int64_t p = p_begin; p < p_end; p += band.rows) {
      const int64_t stop = min_i(p_end, p + band.rows), top = max_i(0, p * d.stride_h - d.pad_t);
      const int64_t bottom = min_i(d.H, (stop - 1) * d.stride_h - d.pad_t + d.R);
      for (int64_t group = g_begin; group < g_end; group += merged) {
        part.groups = min_i(merged, d.groups - group), part.pitch = part.groups * part.Cg;
        part.x_row = band.width * part.pitch;
        const int64_t k = group * part.Kg, pixel = n * d.P * d.Q;
        Buffers of = b;
        of.in[2] = b.in[2] ? b.in[2] + k : nullptr;
        of.in[3] = b.in[3] ? b.in[3] + pixel * d.res_ld + k : nullptr;
        of.out = b.out + pixel * d.y_ld + k;
        copy_band(d, b.in[0] + n * d.x_image + group * part.Cg, part.pitch, top, bottom, band.width, copy);
        part.w = b.in[1] + group * packed;
        fetch_turn(next, turn++, turns);
        if (merged > 1) merge_weights(part, d.R * S, weights), part.w = weights;
        run_part(d, of, part, {p, stop, top});
      }
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
