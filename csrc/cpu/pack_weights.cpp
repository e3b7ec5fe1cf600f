// Plain weights into panels, at run time: [group][panel][tap][c][columns], as cpu/pack.cpp writes them once for
// constants. Reading is by runs: of columns where they are contiguous in w (w_k == 1), else of taps (w_tap == 1), and
// of (c, tap) together where these touch; N columns by N elements of a run are transposed in registers. Chunks are
// ranges of (group, panel, block of 16 c). Lanes beyond K are zero.
#include "cpu/gemm.h"
#include "cpu/panel.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { BLOCK = 16 };  // channels of a work item; conv_backward_checks.cpp counts chunks alike

// Columns are contiguous in w.
void copy_columns(const PackWeights& d, const FilterPanel& p, int64_t c0, int64_t c1) {
  for (int64_t t = 0; t < d.taps; t++)
    for (int64_t c = c0; c < c1; c++) {
      const float* w = p.w + c * d.w_c + t * d.w_tap;
      float* out = p.out + (tap_of(p, t) * p.depth + c) * p.ld;
      for (int64_t k = 0; k < p.width; k += Vec::N) {
        const int64_t n = p.columns - k;
        store(out + k, n >= Vec::N ? load(w + k) : n > 0 ? load_n(w + k, (int)n) : zero());
      }
    }
}

void gather_columns(const PackWeights& d, const FilterPanel& p, int64_t c0, int64_t c1) {
  for (int64_t t = 0; t < d.taps; t++)
    for (int64_t c = c0; c < c1; c++) {
      const float* w = p.w + c * d.w_c + t * d.w_tap;
      float* out = p.out + (tap_of(p, t) * p.depth + c) * p.ld;
      for (int64_t k = 0; k < p.width; k++) out[k] = k < p.columns ? w[k * d.w_k] : 0.0f;
    }
}

void pack_block(const PackWeights& d, const FilterPanel& p, int64_t c0, int64_t c1) {
  if (d.w_k == 1) return copy_columns(d, p, c0, c1);
  if (d.w_tap != 1 && d.taps > 1) return gather_columns(d, p, c0, c1);
  if (d.w_c == d.taps) return transpose_run(p, c0, (c1 - c0) * d.taps);
  for (int64_t c = c0; c < c1; c++) transpose_run(p, c, d.taps);
}

}  // namespace

void pack_weights(const PackWeights& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t Kg = d.K / d.groups, depth = d.C / d.groups, vectors = (Kg + Vec::N - 1) / Vec::N;
  const Panels even(Kg, MAX_NV);
  const bool dense = d.layout == PanelLayout::linear, whole = d.layout == PanelLayout::depthwise;
  const int64_t wide = d.panel / Vec::N, panels = whole ? 1 : dense ? (vectors + wide - 1) / wide : even.count;
  const int64_t blocks = (depth + BLOCK - 1) / BLOCK, items = d.groups * panels * blocks;
  const int64_t last = chunk_begin(items, d.chunks, end);
  for (int64_t item = chunk_begin(items, d.chunks, begin); item < last; item++) {
    const int64_t group = item / (panels * blocks), panel = item / blocks % panels, c0 = item % blocks * BLOCK;
    const int64_t first = dense ? panel * wide : whole ? 0 : even.start(panel);
    const int64_t nv = whole ? vectors : dense ? min_i(wide, vectors - first) : even.width(panel);
    FilterPanel p;
    p.w = b.in[0] + group * d.w_group + first * Vec::N * d.w_k;
    p.scale = nullptr;
    p.out = b.out + (group * vectors + first) * Vec::N * d.taps * depth;
    p.w_k = d.w_k;
    p.w_c = d.w_c;
    p.width = p.ld = nv * Vec::N;
    p.columns = min_i(p.width, Kg - first * Vec::N);
    p.depth = depth;
    p.taps = d.taps;
    p.flip = d.flip != 0;
    pack_block(d, p, c0, min_i(depth, c0 + BLOCK));
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
