// conv2d on NHWC as a matrix product of pixels by output channels: implicit GEMM with an indirection of pointers.
//
// Weights are panels of up to MAX_NV vectors of output channels, [group][panel][tap][c][columns] (cpu/pack.cpp). A
// chunk is a range of rows times a panel, or times all panels where the weights are small; neighbouring chunks share
// rows, so that a thread finds in its own caches what it wrote in the operation before (conv_checks.cpp). The reduction
// runs in one order, (r, s, c), in one accumulator per output, so that results depend on neither tiles nor threads.
#include "cpu/follower.h"
#include "cpu/row_cut.h"
#include "cpu/stagger.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int64_t WEIGHTS_IN_L2 = 512 << 10, ROWS_IN_L2 = 256 << 10;  // bytes
// 1x1 layers fetch y, and rows of an image of more bytes than FAR_IMAGE, ahead of a tile with AVX2: of outputs of DEEP
// products or more 2 to 7% (Zen 3); with AVX-512 y is 1 to 2% slower, rows are 0 (Zen 5).
constexpr bool FETCHES_AHEAD = REGISTERS == 16;
constexpr int64_t DEEP = 128;

// A 1x1 layer whose rows lie one behind the other, beyond L2.
bool far_rows(const Conv2d& d) {
  return FETCHES_AHEAD && d.algorithm == ConvAlgorithm::gemm && d.groups == 1 && d.x_ld == d.C &&
         4 * d.N * d.H * d.W * d.C > FAR_IMAGE;
}

struct Scratch {
  const float** pointers;  // row_pointers(): taps x rows of a block, or rows of several blocks
  int32_t* taps;
  float* zeros;  // row_of_zeros() floats
  float* sums;   // rows_of_sums() x columns of a panel, where the depth is cut
};

// Pointers of `rows` pixels from `at` on, which moves behind them, for every tap that touches the image in at least one
// of them; returns how many such taps there are. A tap that only meets padding adds nothing: at 7x7 that saves a tenth
// of the work.
int64_t gather(const Conv2d& d, const float* x, Pixel& at, int64_t rows, const Scratch& s) {
  int64_t live = 0;
  const int64_t reach_h = (d.R - 1) * d.dilation_h, reach_w = (d.S - 1) * d.dilation_w;
  const float* base[16];
  int64_t ih[16], iw[16];
  bool inside = true;
  for (int64_t i = 0; i < rows; i++) {
    ih[i] = at.p * d.stride_h - d.pad_t;
    iw[i] = at.q * d.stride_w - d.pad_l;
    base[i] = x + at.n * d.x_image + ih[i] * d.x_row + iw[i] * d.x_ld;
    inside = inside && ih[i] >= 0 && iw[i] >= 0 && ih[i] + reach_h < d.H && iw[i] + reach_w < d.W;
    if (++at.q == d.Q) {
      at.q = 0;
      if (++at.p == d.P) at.p = 0, at.n++;
    }
  }
  for (int64_t r = 0; r < d.R; r++) {
    for (int64_t t = 0; t < d.S; t++) {
      const int64_t dh = r * d.dilation_h, dw = t * d.dilation_w;
      const int64_t offset = dh * d.x_row + dw * d.x_ld;
      const float** out = s.pointers + live * rows;
      bool any = inside;
      if (inside) {
        for (int64_t i = 0; i < rows; i++) out[i] = base[i] + offset;
      } else {
        for (int64_t i = 0; i < rows; i++) {
          bool ok = (uint64_t)(ih[i] + dh) < (uint64_t)d.H && (uint64_t)(iw[i] + dw) < (uint64_t)d.W;
          out[i] = ok ? base[i] + offset : s.zeros;
          any = any || ok;
        }
      }
      if (any) s.taps[live++] = (int32_t)(r * d.S + t);
    }
  }
  return live;
}

// One filter row is one run of memory; x needs no padding. The filter rows lie d.dilation_h image rows apart.
int64_t gather_runs(const Conv2d& d, const float* x, Pixel& at, int64_t rows, const Scratch& s) {
  const int64_t step = d.stride_w * d.x_ld;
  for (int64_t i = 0; i < rows;) {
    const int64_t n = min_i(rows - i, d.Q - at.q);
    const float* base = x + at.n * d.x_image + at.p * d.stride_h * d.x_row + at.q * step;
    for (int64_t j = 0; j < n; j++) s.pointers[i + j] = base + j * step;
    i += n;
    at.q += n;
    if (at.q == d.Q) {
      at.q = 0;
      if (++at.p == d.P) at.p = 0, at.n++;
    }
  }
  return d.R;
}

int64_t gather_rows(const Conv2d& d, const float* x, int64_t row, int64_t rows, const Scratch& s) {
  const int64_t len = d.C / d.groups / d.depth_parts;
  for (int64_t k = 0; k < d.depth_parts; k++) {
    for (int64_t i = 0; i < rows; i++) s.pointers[k * rows + i] = x + (row + i) * d.x_ld + k * len;
    s.taps[k] = (int32_t)k;
  }
  return d.depth_parts;
}

// Of the taps that gather() found, those in [begin, end).
void keep_taps(Tile& t, int64_t rows, int64_t begin, int64_t end) {
  int64_t skip = 0, live = t.n_taps;
  while (skip < live && t.taps[skip] < begin) skip++;
  while (live > skip && t.taps[live - 1] >= end) live--;
  t.a += skip * rows;
  t.taps += skip;
  t.n_taps = live - skip;
}

void run_panel(const Conv2d& d, const Buffers& b, const Scratch& s, int64_t group, const Panels& panels, int64_t panel,
               int64_t row_begin, int64_t row_end, Fetch after) {
  const int64_t Cg = d.C / d.groups, Kg = d.K / d.groups;
  const bool runs = d.algorithm == ConvAlgorithm::row_run, gemm = d.algorithm == ConvAlgorithm::gemm;
  const int64_t taps = runs ? d.R : d.R * d.S * d.depth_parts, len = runs ? d.S * Cg : Cg / d.depth_parts;
  const int nv = panels.width(panel);
  const int64_t first = panels.start(panel) * Vec::N, columns = min_i(Kg - first, nv * Vec::N);
  const int64_t k = group * Kg + first;
  const float* x = b.in[0] + group * Cg;

  Tile t;
  t.len = len;
  t.w = b.in[1] + (group * panels.vectors + panels.start(panel)) * Vec::N * taps * len;
  t.w_ld = nv * Vec::N;
  t.res_ld = d.res_ld;
  t.runs = runs;
  t.run = runs ? d.dilation_h * d.x_row : 0;
  t.tail = (int)(columns - (nv - 1) * Vec::N);
  // rows of whole pages are left to the CPU's own prefetchers
  t.fetches_rows = far_rows(d) && d.depth_parts == 1 && d.C >= DEEP && d.C % (PAGE / 4) != 0;

  const RowCut cut(d, nv, t.tail, row_end - row_begin);
  const RowBlocks blocks = cut.blocks_of(row_end - row_begin);
  const int64_t slice = runs ? taps : min_i(taps, d.taps_per_slice), tap_bytes = len * t.w_ld * 4;
  const Activation none = {Func::identity, 0, 0};
  Follower activation(d.act, b.out + row_begin * d.y_ld + k, d.y_ld, columns);
  const bool last_panel = group == d.groups - 1 && panel == panels.count - 1;

  for (int64_t tap = 0; tap < taps; tap += slice) {
    const int64_t end = min_i(taps, tap + slice);
    // The next weights are fetched at an even pace.
    const bool other = end == taps && after.bytes > 0;
    const int64_t ahead = last_panel && end == taps ? 0 : min_i(slice, end < taps ? taps - end : taps) * tap_bytes;
    const Fetch fetch = other              ? after
                        : blocks.count < 2 ? Fetch{nullptr, 0}
                                           : Fetch{(const char*)t.w + end * tap_bytes, ahead};
    Pace pace(fetch, nv, blocks.count, (end - tap) * iterations(len));
    Pixel pixel = gemm ? Pixel{} : pixel_of(d, row_begin);
    for (int64_t i = 0; i < blocks.count; i += t.count) {
      const int64_t rows = blocks.size(i), at = row_begin + blocks.start(i);
      const TileFunction compute = cut.tile(rows);
      t.count = pace.most(cut.several ? blocks.same(i) : 1);
      if (cut.by_run) t.count = min_i(t.count, RUNS_AT_ONCE / rows);
      if (!clips(d.act)) t.count = min_i(t.count, max_i(1, Follower::FLOATS / (rows * columns)));
      t.a_step = gemm ? rows * d.x_ld : 0;
      t.a_next = cut.by_run ? rows : 0;
      t.n_taps = gemm         ? gather_rows(d, x, at, rows, s)
                 : cut.by_run ? gather_runs(d, x, pixel, rows * t.count, s)
                              : gather(d, x, pixel, rows, s);
      t.a = s.pointers;
      t.taps = cut.by_run ? nullptr : s.taps;
      float* sums = s.sums + (at - row_begin) * t.w_ld;
      const bool fresh = tap == 0, last = end == taps;
      if (!fresh || !last) keep_taps(t, rows, tap, end);
      t.start = fresh ? nullptr : sums;
      t.start_ld = t.w_ld;
      t.y = last ? b.out + at * d.y_ld + k : sums;
      t.cold = last && (!cut.several || (FETCHES_AHEAD && gemm && Cg >= DEEP));
      t.y_ld = last ? d.y_ld : t.w_ld;
      t.act = last && clips(d.act) ? &d.act : &none;
      t.bias = b.in[2] ? b.in[2] + k : nullptr;
      t.residual = last && b.in[3] ? b.in[3] + at * d.res_ld + k : nullptr;
      pace.fetch_during(t);
      compute(t);
      if (last) activation.follow(blocks.start(i + t.count), i + t.count == blocks.count);
    }
  }
}

// Of the chunks from `chunk` to before `end` that lie `parts` apart, the last that is computed with the first as one:
// at most `together`.
int64_t last_of_run(const Conv2d& d, const Buffers& b, int64_t chunk, int64_t end, int64_t parts, int64_t together) {
  int64_t last = chunk + min_i(together - 1, (end - 1 - chunk) / parts) * parts;
  if (parts == 1 && chunk < b.next_begin) last = min_i(last, b.next_begin - 1);  // fetched too early they leave L2
  // Where two rows share a vector (row_cut.h), an odd range goes alone.
  const bool odd = last / parts + 1 == d.row_chunks && d.N * d.P * d.Q % d.row_unit;
  return odd && last > chunk ? last - parts : last;
}

// What is fetched of rows [begin, end) of a 1x1 layer's image during one of `panels` panels.
Fetch image_part(const Conv2d& d, const float* x, int64_t begin, int64_t end, int64_t panel, int64_t panels) {
  if (begin >= end) return {nullptr, 0};
  const int64_t bytes = 4 * (end - begin) * d.x_ld, from = bytes * panel / panels;
  return {(const char*)(x + begin * d.x_ld) + from, bytes * (panel + 1) / panels - from};
}

}  // namespace

void conv2d(const Conv2d& d, const Buffers& b, int64_t begin, int64_t end) {
  if (d.algorithm == ConvAlgorithm::images) return conv2d_images(d, b, begin, end);
  const int64_t Cg = d.C / d.groups;
  const Panels panels(d.K / d.groups, MAX_NV);
  // scratch: zeros, sums, pointers, taps; sized by scratch_bytes(Conv2d&)
  Scratch s;
  s.zeros = b.scratch;
  const int64_t zeros = row_of_zeros(d);
  for (int64_t c = 0; c < zeros; c++) s.zeros[c] = 0;
  s.sums = s.zeros + zeros;
  s.pointers = (const float**)(s.sums + rows_of_sums(d) * MAX_NV * Vec::N);
  s.taps = (int32_t*)(s.pointers + row_pointers(d));

  if (const int64_t group = staggered_rows(d, b)) {
    const int64_t row_begin = range_begin(d, begin), row_end = range_begin(d, end);
    const Range rows = staggered_range(d, group, row_begin, row_end);
    for (int64_t p = 0; p < panels.count; p++) {
      if (row_begin < rows.begin) run_panel(d, b, s, 0, panels, p, row_begin, rows.begin, {nullptr, 0});
      if (rows.end < row_end) run_panel(d, b, s, 0, panels, p, rows.end, row_end, {nullptr, 0});
    }
    return run_staggered(d, b, rows, next_operation(b, begin, end, true));
  }

  // Neighbouring chunks are the panels of one range of rows; who has several ranges reads each panel once for all.
  // Ranges that lie behind one another are computed as one: between two calls of a tile the FMA units stand still.
  // Where L2 holds the weights, as many rows as it holds beside them go through all panels before the next.
  const int64_t parts = d.groups * d.panel_chunks, ranges = (end - 1) / parts + 1;
  int64_t round = ranges;
  if (4 * Cg * d.R * d.S * d.K <= WEIGHTS_IN_L2) {
    const int64_t row_bytes = 4 * d.C * min_i(d.R, d.stride_h) * min_i(d.S, d.stride_w);
    round = max_i(1, ROWS_IN_L2 / (row_bytes * d.rows_per_chunk));
  }
  const bool near = 4 * Cg * d.K <= WEIGHTS_IN_L2 / 2;  // the weights stay in L2 beside two rounds of rows
  const bool far = near && far_rows(d);
  const int64_t together = cuts_depth(d) ? rows_of_sums(d) / d.rows_per_chunk : round;
  for (int64_t at = begin / parts; at < ranges; at += round) {
    const int64_t round_begin = max_i(begin, at * parts), round_end = min_i(end, (at + round) * parts);
    // The next rows are fetched as soon as all weights have been.
    const bool rows_next = far && (at * parts >= begin + parts || panels.count == 1);
    const int64_t next_begin = range_begin(d, min_i(ranges, at + round));
    const int64_t next_end = rows_next ? range_begin(d, min_i(ranges, at + 2 * round)) : 0;
    for (int64_t part = 0; part < parts; part++) {
      const int64_t group = part / d.panel_chunks, pc = part % d.panel_chunks;
      const int64_t panels_end = min_i(panels.count, (pc + 1) * d.panels_per_chunk);
      int64_t chunk = round_begin + (part - round_begin % parts + parts) % parts;
      while (chunk < round_end) {
        const int64_t last = last_of_run(d, b, chunk, round_end, parts, together);
        const int64_t row_begin = range_begin(d, chunk / parts), row_end = range_begin(d, last / parts + 1);
        const Fetch after = next_operation(b, parts == 1 ? chunk : last, last + 1, parts == 1);
        for (int64_t p = pc * d.panels_per_chunk; p < panels_end; p++) {
          const bool goes_on = p < panels_end - 1 || after.bytes == 0;
          const Fetch fetch = goes_on ? image_part(d, b.in[0], next_begin, next_end, p, panels.count) : after;
          run_panel(d, b, s, group, panels, p, row_begin, row_end, fetch);
        }
        chunk = last + parts;
      }
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
