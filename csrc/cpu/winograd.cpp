// Convolution with stride 1 by Winograd's F(m x m, r x r): (m + r - 1)^2 multiplications for m^2 outputs of r^2 taps.
//
//   Y = A^T [ (G g G^T) . (B^T d B) ] A      (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016)
//
// F(2x2,3x3) with the points 0, +-1 saves 2.25 times, F(3x3,3x3) with 0, +-3/4, 7/4 saves 3.24 times, F(4x4,3x3) saves
// 4 times and F(2x2,5x5), which reads the same tiles, 2.8 times, with the points 0, +-5/8, +-3/2; the rms error is up
// to twice that of direct summation. F(6x6,3x3) saves 5.06 times and has 8 to 10 times the error. A block of tiles is
// transformed into T^2 planes of [tiles][C] (T = m + r - 1), multiplied panel by panel into T^2 planes of
// [tiles][columns] and transformed back, all within L2. Weights are [panel][T^2][C][columns], transformed in double
// precision while they are packed (cpu/pack.cpp). Planes are padded by PLANE_PAD floats: strides of 4096 bytes would
// put all of them into one cache set.
//
// Filters of one axis, 1 x r and r x 1, are the same with T planes; seven taps are two filters of four, the planes then
// hold [tiles][2][C] (cpu/winograd.h): 12 multiplications for 21.
#include "cpu/winograd.h"

#include "cpu/gemm.h"
#include "cpu/math.h"
#include "cpu/winograd_tile.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int64_t RESIDENT = 160 << 10;  // floats of weights that stay in L2 beside a block of tiles

// Fetching the next tile's pixels: 3% of 112x112x128 on AVX2 (Zen 3); on AVX-512 (Zen 5) nothing at 28x28 and 14x14.
constexpr bool FETCHES_PIXELS = REGISTERS == 16;
constexpr int64_t LINE_FLOATS = 16;  // of a cache line

struct Position {  // of a tile
  int64_t n, h, w;
};

WinogradForm form_of(const Winograd& d) { return winograd_form(d.m, d.r, d.axes); }

Position position(const Winograd& d, int64_t tile) {
  return {tile / (d.tiles_h * d.tiles_w), tile / d.tiles_w % d.tiles_h, tile % d.tiles_w};
}

// Fetches `channels` of rows x columns pixels from p on; row, column: floats from one to the next.
inline void fetch_pixels(const float* p, int64_t rows, int64_t row, int64_t columns, int64_t column, int64_t channels) {
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t j = 0; j < columns; j++) {
      for (int64_t c = 0; c < channels; c += LINE_FLOATS) __builtin_prefetch(p + i * row + j * column + c);
    }
  }
}

// Tiles [first, last) into planes, whose row 0 is tile `first`. T: edge; PARTS: 0 for tiles of both axes, else the
// parts of a filter of one axis; ahead: the pixels of the next tile of its row are fetched meanwhile.
template <int T, int PARTS>
void transform_tiles(const Winograd& d, const float* x, bool ahead, int64_t first, int64_t last, float* planes,
                     int64_t plane) {
  const WinogradForm f = form_of(d);
  for (int64_t tile = first; tile < last; tile++) {
    const Position at = position(d, tile);
    const int64_t ih = at.h * f.step_h - d.pad_t, iw = at.w * f.step_w - d.pad_l;
    const float* p = x + at.n * d.x_image + ih * d.x_row + iw * d.x_ld;
    float* row = planes + (tile - first) * f.parts * d.C;
    const bool inside = ih >= 0 && iw >= 0 && ih + f.side_h <= d.H && iw + f.side_w <= d.W;
    for (int64_t c = 0; c < d.C; c += Vec::N) {
      const int n = (int)min_i(Vec::N, d.C - c);
      const bool whole = inside && n == Vec::N;
      if (ahead && at.w + 1 < d.tiles_w && c % LINE_FLOATS == 0) {
        fetch_pixels(p + c + f.side_w * d.x_ld, f.side_h, d.x_row, f.step_w, d.x_ld, LINE_FLOATS);
      }
      if constexpr (PARTS == 0) {
        (whole ? tile_in<T, true> : tile_in<T, false>)(d, p + c, ih, iw, n, row + c, plane);
      } else {
        (whole ? line_in<T, PARTS, true> : line_in<T, PARTS, false>)(d, p + c, ih, iw, n, row + c, plane);
      }
    }
  }
}

void transform_tiles(const Winograd& d, const float* x, bool ahead, int64_t first, int64_t last, float* planes,
                     int64_t plane) {
  const int64_t T = form_of(d).edge;
  auto form = T == 4 ? transform_tiles<4, 0> : T == 5 ? transform_tiles<5, 0> : transform_tiles<6, 0>;
  if (T == 8) form = transform_tiles<8, 0>;
  if (d.axes) form = T == 4 ? transform_tiles<4, 1> : T == 5 ? transform_tiles<5, 1> : transform_tiles<6, 1>;
  if (d.r == 7) form = transform_tiles<6, 2>;
  form(d, x, ahead, first, last, planes, plane);
}

// To y: the first n lanes of rows x columns pixels of `part`, whose rows lie part_row apart, after residual and clip.
void put_part(const float* part, int64_t part_row, int64_t rows, int64_t columns, int n, const float* residual,
              int64_t res_ld, int64_t res_row, const Output& o) {
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t j = 0; j < columns; j++) {
      Vec v = load(part + i * part_row + j * Vec::N);
      if (residual) {
        const float* r = residual + i * res_row + j * res_ld;
        v = add(v, n == Vec::N ? load(r) : load_n(r, n));
      }
      v = clip(v, o);
      float* y = o.y + i * o.y_row + j * o.y_ld;
      if (n == Vec::N) {
        store(y, v);
      } else {
        store_n(y, v, n);
      }
    }
  }
}

// A panel's sums of tiles [first, last) to y. Tiles that are cut off, partial vectors and what gets a residual go
// through a tile of their own.
template <int T, int M, bool POOL, bool LINE>
void output_tiles(const Winograd& d, const Buffers& b, const float* sums, int64_t plane, int64_t first, int64_t last,
                  int64_t k, int nv) {
  constexpr int V = Vec::N, SIDE = POOL ? M / 2 : M, PART_ROW = LINE ? V : SIDE * V;
  const WinogradForm f = form_of(d);
  const int64_t P = POOL ? d.P / 2 : d.P, Q = POOL ? d.Q / 2 : d.Q;
  const int64_t height = POOL ? SIDE : f.step_h, width = POOL ? SIDE : f.step_w;
  const bool clip = d.act.func == Func::clip;
  const float* added = POOL ? nullptr : b.in[3];  // a pooled operation's is not checked
  const Vec infinity = set1(__builtin_inff()), lowest = set1(-__builtin_inff());
  const Vec lo = clip ? set1(d.act.alpha) : lowest, hi = clip ? set1(d.act.beta) : infinity;
  for (int64_t tile = first; tile < last; tile++) {
    const Position at = position(d, tile);
    const int64_t row = at.h * height, column = at.w * width, pixel = (at.n * P + row) * Q + column;
    const int64_t rows = min_i(height, P - row), columns = min_i(width, Q - column);
    if (tile + 1 < last && at.w + 1 < d.tiles_w) {  // the next tile's
      const float* y = b.out + (pixel + width) * d.y_ld + k;
      fetch_pixels(y, rows, Q * d.y_ld, min_i(width, Q - column - width), d.y_ld, nv * V);
    }
    for (int v = 0; v < nv; v++) {
      const int64_t channel = k + v * V;
      const int n = (int)min_i(V, d.K - channel);
      if (n <= 0) break;
      const Vec bias = !b.in[2] ? zero() : n == V ? load(b.in[2] + channel) : load_n(b.in[2] + channel, n);
      const float* own = sums + (tile - first) * nv * V + v * V;
      alignas(64) float part[SIDE * (LINE ? 1 : SIDE) * V];
      const Output o = {bias, lo, hi, b.out + pixel * d.y_ld + channel, d.y_ld, Q * d.y_ld};
      const bool whole = n == V && rows == height && columns == width && !added;
      const Output to = whole ? o : Output{bias, lowest, infinity, part, V, PART_ROW};
      if constexpr (LINE) {
        line_out<T, M>(own, plane, d.axes == WINOGRAD_DOWN ? to.y_row : to.y_ld, to);
      } else {
        tile_out<T, M, POOL>(own, plane, to);
      }
      if (whole) continue;
      const float* residual = added ? added + pixel * d.res_ld + channel : nullptr;
      put_part(part, PART_ROW, rows, columns, n, residual, d.res_ld, Q * d.res_ld, o);
    }
    if (!POOL && !clips(d.act)) {
      const int64_t channels = min_i(nv * V, d.K - k);
      for (int64_t i = 0; i < rows; i++) {
        activate_rows(d.act, b.out + (pixel + i * Q) * d.y_ld + k, d.y_ld, columns, channels);
      }
    }
  }
}

void output_tiles(const Winograd& d, const Buffers& b, const float* sums, int64_t plane, int64_t first, int64_t last,
                  int64_t k, int nv) {
  auto form = d.pool ? output_tiles<4, 2, true, false> : output_tiles<4, 2, false, false>;
  if (d.m == 3) form = output_tiles<5, 3, false, false>;
  if (d.m == 4) form = d.pool ? output_tiles<6, 4, true, false> : output_tiles<6, 4, false, false>;
  if (d.m == 6) form = d.pool ? output_tiles<8, 6, true, false> : output_tiles<8, 6, false, false>;
  if (d.r == 5) form = d.pool ? output_tiles<6, 2, true, false> : output_tiles<6, 2, false, false>;
  if (d.axes && d.m == 2) form = output_tiles<4, 2, false, true>;
  if (d.axes && d.m == 3) form = d.r == 7 ? output_tiles<6, 3, false, true> : output_tiles<5, 3, false, true>;
  if (d.axes && d.m == 4) form = output_tiles<6, 4, false, true>;
  form(d, b, sums, plane, first, last, k, nv);
}

// What to fetch of the image for the block from tile `first` on while plane e is multiplied: each row by and by, as far
// as the block goes on in it.
Fetch block_part(const Winograd& d, const float* x, int64_t first, int64_t e) {
  const int64_t T = form_of(d).edge, tiles = min_i(d.block, d.tiles_w - first % d.tiles_w);
  if (d.axes || first >= d.N * d.tiles_h * d.tiles_w) return {nullptr, 0};
  const Position at = position(d, first);
  const int64_t row = at.h * d.m - d.pad_t + e / T, part = tiles * d.m * d.x_ld * 4 / T;
  if ((uint64_t)row >= (uint64_t)d.H) return {nullptr, 0};
  return {(const char*)(x + at.n * d.x_image + row * d.x_row + at.w * d.m * d.x_ld) + e % T * part, part};
}

// Products and output of tiles [first, last) for one panel. `planes` starts at tile `first`; `sums` is scratch.
void run_panel(const Winograd& d, const Buffers& b, const float* planes, int64_t plane, int64_t first, int64_t last,
               const Panels& panels, int64_t panel, bool resident, Fetch after, float* sums) {
  constexpr int V = Vec::N;
  const int64_t tiles = last - first, k = panels.start(panel) * V;
  const int nv = panels.width(panel);
  const WinogradForm f = form_of(d);
  const int64_t depth = f.parts * d.C, count = f.planes;
  const int64_t sums_plane = tiles * nv * V + PLANE_PAD, size = depth * nv * V;
  const float* w = b.in[1] + panels.start(panel) * V * depth * count;
  const Activation none = {Func::identity, 0, 0};
  const float* pointers[16];
  const int32_t tap = 0;
  Tile t;
  t.a = pointers;
  t.taps = &tap;
  t.n_taps = 1;
  t.len = depth;
  t.start = t.bias = t.residual = nullptr;
  t.res_ld = 0;
  t.y_ld = nv * V;
  t.cold = false;
  t.tail = V;
  t.act = &none;
  const RowBlocks blocks(tiles, nv);
  const TileFunction small = find_tile(nv, blocks.fewest),
                     large = blocks.more ? find_tile(nv, blocks.fewest + 1) : small;
  for (int64_t e = 0; e < count; e++, w += size) {
    t.w = w;
    // Fetched meanwhile: the next plane's weights; of the last plane the next panel's. At the end of the work what
    // comes after it, and all the time where this operation's weights are in L2 already.
    const bool last_plane = e == count - 1;
    const char* next = (const char*)(w + size);
    int64_t bytes = last_plane && panel + 1 == panels.count ? 0 : size * 4;
    if (resident && !after.bytes) {
      const Fetch part = block_part(d, b.in[0], last, e);
      next = part.from;
      bytes = part.bytes;
    } else if (after.bytes && (last_plane || resident)) {
      const int64_t from = resident ? after.bytes * e / count : 0;
      next = after.from + from;
      bytes = (resident ? after.bytes * (e + 1) / count : after.bytes) - from;
    } else if (blocks.count < 2) {
      bytes = 0;
    }
    t.next_step = fetch_step(nv, bytes, blocks.count * iterations(depth));
    for (int64_t i = 0; i < blocks.count; i += t.count) {
      const int64_t at = blocks.start(i), rows = blocks.size(i);
      t.count = blocks.same(i);
      t.a_step = rows * depth;
      for (int64_t r = 0; r < rows; r++) pointers[r] = planes + e * plane + (at + r) * depth;
      t.y = sums + e * sums_plane + at * nv * V;
      t.next = next;
      next += t.next_step * iterations(depth) * t.count;
      (i < blocks.more ? large : small)(t);
    }
  }
  output_tiles(d, b, sums, sums_plane, first, last, k, nv);
}

}  // namespace

// A chunk is a block of tiles with all panels.
void winograd_conv2d(const Winograd& d, const Buffers& b, int64_t begin, int64_t end) {
  const WinogradForm f = form_of(d);
  const int64_t tiles = d.N * d.tiles_h * d.tiles_w, depth = f.parts * d.C, plane = d.block * depth + PLANE_PAD;
  const Panels panels(d.K, MAX_NV);
  float* planes = b.scratch;
  float* sums = planes + (f.planes * plane + 15) / 16 * 16;
  const bool resident = f.planes * depth * d.K <= RESIDENT;
  for (int64_t chunk = begin; chunk < end; chunk++) {
    const int64_t first = chunk_begin(tiles, d.chunks, chunk), last = chunk_begin(tiles, d.chunks, chunk + 1);
    transform_tiles(d, b.in[0], FETCHES_PIXELS && !resident, first, last, planes, plane);
    const Fetch after = next_operation(b, chunk, chunk + 1, resident);
    for (int64_t p = 0; p < panels.count; p++) {
      run_panel(d, b, planes, plane, first, last, panels, p, resident,
                p == panels.count - 1 ? after : Fetch{nullptr, 0}, sums);
    }
  }
}

// A chunk is a part of the tiles; b.out holds the planes of all of them.
void winograd_input(const Winograd& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t tiles = d.N * d.tiles_h * d.tiles_w, depth = form_of(d).parts * d.C, plane = tiles * depth + PLANE_PAD;
  const int64_t first = chunk_begin(tiles, d.chunks, begin), last = chunk_begin(tiles, d.chunks, end);
  transform_tiles(d, b.in[0], false, first, last, b.out + first * depth, plane);
}

// A chunk is one panel and one block of tiles.
void winograd_product(const Winograd& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t tiles = d.N * d.tiles_h * d.tiles_w, depth = form_of(d).parts * d.C, plane = tiles * depth + PLANE_PAD;
  const Panels panels(d.K, MAX_NV);
  // Neighbouring chunks are the panels of one block, so that threads share few tiles; one thread that has several
  // blocks reads each panel once for all of them.
  for (int64_t p = 0; p < panels.count; p++) {
    for (int64_t chunk = begin + (p - begin % panels.count + panels.count) % panels.count; chunk < end;
         chunk += panels.count) {
      const int64_t block = chunk / panels.count, blocks = d.chunks / panels.count;
      const int64_t first = chunk_begin(tiles, blocks, block), last = chunk_begin(tiles, blocks, block + 1);
      run_panel(d, b, b.in[0] + first * depth, plane, first, last, panels, p, false,
                next_operation(b, chunk, chunk + 1, false), b.scratch);
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
