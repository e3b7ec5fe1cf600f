// Plain weights into panels, at run time: [group][panel][tap][c][columns], as cpu/pack.cpp writes them once for
// constants. Reading is by runs: of columns where they are contiguous in w (w_k == 1), else of taps (w_tap == 1), and
// of (c, tap) together where these touch; N columns by N elements of a run are transposed in registers. Chunks are
// ranges of (group, panel, block of 16 c). Lanes beyond K are zero.
#include "cpu/gemm.h"
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { BLOCK = 16 };  // channels of a work item; checks_training.cpp counts chunks alike

struct Panel {
  const float* w;  // of the panel's first column
  float* out;
  int64_t columns, width;  // in use, and with padding
};

inline int64_t tap_of(const PackWeights& d, int64_t t) { return d.flip ? d.taps - 1 - t : t; }

// Columns are contiguous in w.
void copy_columns(const PackWeights& d, const Panel& p, int64_t c0, int64_t c1, int64_t depth) {
  for (int64_t t = 0; t < d.taps; t++)
    for (int64_t c = c0; c < c1; c++) {
      const float* w = p.w + c * d.w_c + t * d.w_tap;
      float* out = p.out + (tap_of(d, t) * depth + c) * p.width;
      for (int64_t k = 0; k < p.width; k += Vec::N) {
        const int64_t n = p.columns - k;
        store(out + k, n >= Vec::N ? load(w + k) : n > 0 ? load_n(w + k, (int)n) : zero());
      }
    }
}

// Elements [i, i + n) of the run that begins at channel c, `taps` of each channel, for Vec::N columns from k on.
inline void transpose_square(const PackWeights& d, const Panel& p, int64_t k, int64_t c, int64_t i, int n,
                             int64_t depth) {
  const float* w = p.w + k * d.w_k + c * d.w_c + i;
  const int64_t live = min_i(Vec::N, p.columns - k);
  Vec r[Vec::N];
  for (int j = 0; j < Vec::N; j++) {
    r[j] = j >= live ? zero() : n == Vec::N ? load(w + j * d.w_k) : load_n(w + j * d.w_k, n);
    if (n == Vec::N) __builtin_prefetch(w + j * d.w_k + 2 * Vec::N);
  }
  transpose(r);
  int64_t channel = c + i / d.taps, t = i % d.taps;
  for (int j = 0; j < n; j++) {
    store(p.out + (tap_of(d, t) * depth + channel) * p.width + k, r[j]);
    if (++t == d.taps) t = 0, channel++;
  }
}

// All columns before the next elements of the run: rows of the panel are written whole.
void transpose_run(const PackWeights& d, const Panel& p, int64_t c, int64_t length, int64_t depth) {
  for (int64_t i = 0; i < length; i += Vec::N)
    for (int64_t k = 0; k < p.width; k += Vec::N)
      transpose_square(d, p, k, c, i, (int)min_i(Vec::N, length - i), depth);
}

void gather_columns(const PackWeights& d, const Panel& p, int64_t c0, int64_t c1, int64_t depth) {
  for (int64_t t = 0; t < d.taps; t++)
    for (int64_t c = c0; c < c1; c++) {
      const float* w = p.w + c * d.w_c + t * d.w_tap;
      float* out = p.out + (tap_of(d, t) * depth + c) * p.width;
      for (int64_t k = 0; k < p.width; k++) out[k] = k < p.columns ? w[k * d.w_k] : 0.0f;
    }
}

void pack_block(const PackWeights& d, const Panel& p, int64_t c0, int64_t c1, int64_t depth) {
  if (d.w_k == 1) return copy_columns(d, p, c0, c1, depth);
  if (d.w_tap != 1 && d.taps > 1) return gather_columns(d, p, c0, c1, depth);
  if (d.w_c == d.taps) return transpose_run(d, p, c0, (c1 - c0) * d.taps, depth);
  for (int64_t c = c0; c < c1; c++) transpose_run(d, p, c, d.taps, depth);
}

}  // namespace

void pack_weights(const PackWeights& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t Kg = d.K / d.groups, depth = d.C / d.groups, vectors = (Kg + Vec::N - 1) / Vec::N;
  const Panels even(Kg, MAX_NV);
  const bool dense = d.layout == PanelLayout::linear, whole = d.layout == PanelLayout::depthwise;
  const int64_t panels = whole ? 1 : dense ? (vectors + DENSE_NV - 1) / DENSE_NV : even.count;
  const int64_t blocks = (depth + BLOCK - 1) / BLOCK, items = d.groups * panels * blocks;
  const int64_t last = chunk_begin(items, d.chunks, end);
  for (int64_t item = chunk_begin(items, d.chunks, begin); item < last; item++) {
    const int64_t group = item / (panels * blocks), panel = item / blocks % panels, c0 = item % blocks * BLOCK;
    const int64_t first = dense ? panel * DENSE_NV : whole ? 0 : even.start(panel);
    const int64_t nv = whole ? vectors : dense ? min_i(DENSE_NV, vectors - first) : even.width(panel);
    Panel p;
    p.w = b.in[0] + group * d.w_group + first * Vec::N * d.w_k;
    p.out = b.out + (group * vectors + first) * Vec::N * d.taps * depth;
    p.width = nv * Vec::N;
    p.columns = min_i(p.width, Kg - first * Vec::N);
    pack_block(d, p, c0, min_i(depth, c0 + BLOCK), depth);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
