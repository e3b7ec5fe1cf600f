// dx[n,h,w,c] = sum over k, r, s of g[n,p,q,k] w[k,c,r,s] with h = p*sh + r*dh - pt: the implicit matrix product of
// conv2d.cpp seen from the pixels of dx, for strides and paddings that no forward convolution has. Pixels with the same
// h % sh and w % sw meet the same taps, so a tile takes its pixels from one such phase: no product is wasted on the
// zeros between the pixels of g. Weights are panels of C columns, [group][panel][tap][k][columns] (pack_weights.cpp).
//
// A chunk is a range of rows of dx times a panel, or times all panels where the weights are small. Phases run outside
// rows, so that the taps of one stay in L2.
#include "cpu/gemm.h"
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

struct Scratch {
  const float** pointers;  // taps x rows
  int32_t* taps;
  float* zeros;
};

// Which output position has tap t at position i of dx: i + pad - t * dilation over the stride, or -1.
inline int64_t output_at(int64_t i, int64_t pad, int64_t t, int64_t dilation, int64_t stride, int64_t size) {
  const int64_t at = i + pad - t * dilation;
  if (at < 0 || at % stride) return -1;
  return at / stride < size ? at / stride : -1;
}

// Pointers to g for `rows` pixels w, w + sw, ... of row (n, h), for every tap that meets one of them.
int64_t gather(const Conv2dBackwardInput& d, const float* g, int64_t n, int64_t h, int64_t w, int64_t rows,
               const Scratch& s) {
  int64_t live = 0;
  for (int64_t r = 0; r < d.R; r++) {
    const int64_t p = output_at(h, d.pad_t, r, d.dilation_h, d.stride_h, d.P);
    if (p < 0) continue;
    const float* row = g + (n * d.P + p) * d.Q * d.g_ld;
    for (int64_t t = 0; t < d.S; t++) {
      const int64_t at = w + d.pad_l - t * d.dilation_w;
      if (at % d.stride_w) continue;
      const int64_t q = at / d.stride_w;  // exact, below zero too
      if (q + rows <= 0 || q >= d.Q) continue;
      const float** out = s.pointers + live * rows;
      for (int64_t i = 0; i < rows; i++) out[i] = (uint64_t)(q + i) < (uint64_t)d.Q ? row + (q + i) * d.g_ld : s.zeros;
      s.taps[live++] = (int32_t)(r * d.S + t);
    }
  }
  return live;
}

void run_panel(const Conv2dBackwardInput& d, const Buffers& b, const Scratch& s, int64_t group, const Panels& panels,
               int64_t panel, int64_t row_begin, int64_t row_end) {
  const int64_t Cg = d.C / d.groups, Kg = d.K / d.groups;
  const int nv = panels.width(panel);
  const int64_t first = panels.start(panel) * Vec::N, columns = min_i(Cg - first, nv * Vec::N), c = group * Cg + first;
  const Activation none = {Func::identity, 0, 0};
  Tile t;
  t.len = Kg;
  t.w = b.in[1] + (group * panels.vectors + panels.start(panel)) * Vec::N * d.R * d.S * Kg;
  t.res_ld = d.stride_w * d.res_ld;
  t.y_ld = d.stride_w * d.x_ld;
  t.tail = (int)(columns - (nv - 1) * Vec::N);
  t.a = s.pointers;
  t.taps = s.taps;
  t.bias = t.start = nullptr;
  t.act = &none;
  t.cold = true;
  t.count = 1;
  t.next_step = 0;
  for (int64_t phase_h = 0; phase_h < d.stride_h; phase_h++)
    for (int64_t phase_w = 0; phase_w < min_i(d.W, d.stride_w); phase_w++) {
      const RowBlocks blocks((d.W - phase_w + d.stride_w - 1) / d.stride_w, nv);
      for (int64_t row = row_begin; row < row_end; row++) {
        const int64_t n = row / d.H, h = row % d.H;
        if (h % d.stride_h != phase_h) continue;
        for (int64_t i = 0; i < blocks.count; i++) {
          const int64_t at = blocks.start(i), rows = blocks.start(i + 1) - at, w = phase_w + at * d.stride_w;
          t.n_taps = gather(d, b.in[0] + group * Kg, n, h, w, rows, s);
          t.y = b.out + n * d.x_image + h * d.x_row + w * d.x_ld + c;
          t.residual = b.in[2] ? b.in[2] + (row * d.W + w) * d.res_ld + c : nullptr;
          find_tile(nv, rows)(t);
        }
      }
    }
}

inline Vec get(const float* p, int n) { return n == Vec::N ? load(p) : load_n(p, n); }

}  // namespace

void conv2d_backward_input(const Conv2dBackwardInput& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t Kg = d.K / d.groups, rows = d.N * d.H;
  const Panels panels(d.C / d.groups, MAX_NV);
  Scratch s;  // zeros, pointers, taps; sized by scratch_bytes(Conv2dBackwardInput&)
  s.zeros = b.scratch;
  const int64_t zeros = (Kg + 15) / 16 * 16;
  for (int64_t k = 0; k < zeros; k++) s.zeros[k] = 0;
  s.pointers = (const float**)(s.zeros + zeros);
  s.taps = (int32_t*)(s.pointers + d.R * d.S * 16);
  const int64_t parts = d.groups * d.panel_chunks;
  for (int64_t part = 0; part < parts; part++) {
    const int64_t group = part / d.panel_chunks, pc = part % d.panel_chunks;
    const int64_t last = min_i(panels.count, (pc + 1) * d.panels_per_chunk);
    for (int64_t chunk = begin + (part - begin % parts + parts) % parts; chunk < end; chunk += parts) {
      const int64_t row_begin = chunk_begin(rows, d.row_chunks, chunk / parts);
      const int64_t row_end = chunk_begin(rows, d.row_chunks, chunk / parts + 1);
      for (int64_t p = pc * d.panels_per_chunk; p < last; p++) run_panel(d, b, s, group, panels, p, row_begin, row_end);
    }
  }
}

// Which taps each column of dx meets, and which column of g they read: made once for a range of chunks, since dividing
// by the stride for each pixel took most of the time.
struct Columns {
  int32_t *count, *taps;  // taps: S pairs (tap, q) for each column
};

static Columns list_columns(const Conv2dBackwardInput& d, float* scratch) {
  const Columns c = {(int32_t*)scratch, (int32_t*)scratch + d.W};
  for (int64_t w = 0; w < d.W; w++) {
    int32_t n = 0, *taps = c.taps + w * 2 * d.S;
    for (int64_t t = 0; t < d.S; t++) {
      const int64_t q = output_at(w, d.pad_l, t, d.dilation_w, d.stride_w, d.Q);
      if (q < 0) continue;
      taps[2 * n] = (int32_t)t;
      taps[2 * n + 1] = (int32_t)q;
      n++;
    }
    c.count[w] = n;
  }
  return c;
}

// One vector of channels runs along a row of dx before the next; taps that a phase does not meet are left out.
void depthwise_backward_input(const Conv2dBackwardInput& d, const Buffers& b, int64_t begin, int64_t end) {
  if (begin >= end) return;
  const int64_t rows = d.N * d.H, last = chunk_begin(rows, d.chunks, end), w_ld = (d.C + Vec::N - 1) / Vec::N * Vec::N;
  const Columns columns = list_columns(d, b.scratch);
  for (int64_t row = chunk_begin(rows, d.chunks, begin); row < last; row++) {
    const int64_t n = row / d.H, h = row % d.H;
    for (int64_t c = 0; c < d.C; c += Vec::N) {
      const int lanes = (int)min_i(Vec::N, d.C - c);
      float* dx = b.out + n * d.x_image + h * d.x_row + c;
      const float* residual = b.in[2] ? b.in[2] + row * d.W * d.res_ld + c : nullptr;
      bool first = true;
      for (int64_t r = 0; r < d.R || first; r++) {
        const int64_t p = r < d.R ? output_at(h, d.pad_t, r, d.dilation_h, d.stride_h, d.P) : -1;
        if (p < 0 && !(first && r + 1 >= d.R)) continue;  // a row that no filter row meets is written all the same
        const float *g = b.in[0] + (n * d.P + p) * d.Q * d.g_ld + c, *weights = b.in[1] + r * d.S * w_ld + c;
        for (int64_t w = 0; w < d.W; w++) {
          float* out = dx + w * d.x_ld;
          Vec total = !first ? get(out, lanes) : residual ? get(residual + w * d.res_ld, lanes) : zero();
          const int32_t *tap = columns.taps + w * 2 * d.S, *stop = tap + 2 * columns.count[w];
          for (; p >= 0 && tap < stop; tap += 2)
            total = fma(get(g + tap[1] * d.g_ld, lanes), load(weights + tap[0] * w_ld), total);
          if (lanes == Vec::N)
            store(out, total);
          else
            store_n(out, total, lanes);
        }
        first = false;
      }
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
