// Convolution with stride 1 by Winograd's F(m x m, r x r): (m + r - 1)^2 multiplications for m^2 outputs of r^2 taps.
//
//   Y = A^T [ (G g G^T) . (B^T d B) ] A      (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016)
//
// F(2x2,3x3) with the points 0, +-1 saves 2.25 times, F(3x3,3x3) with 0, +-3/4, 7/4 saves 3.24 times, F(4x4,3x3) saves
// 4 times and F(2x2,5x5), which reads the same tiles, 2.8 times, with the points 0, +-5/8, +-3/2; the rms error is up
// to twice that of direct summation. A block of tiles is transformed into T^2 planes of [tiles][C] (T = m + r - 1),
// multiplied panel by panel into T^2 planes of [tiles][columns] and transformed back, all within L2. Weights are
// [panel][T^2][C][columns], transformed in double precision while they are packed (cpu/pack.cpp). Planes are padded by
// PLANE_PAD floats: strides of 4096 bytes would put all of them into one cache set.
#include "cpu/winograd.h"

#include "cpu/gemm.h"

namespace fastconv {
namespace FASTCONV_ISA {

namespace {

constexpr int64_t RESIDENT = 160 << 10;  // floats of weights that stay in L2 beside a block of tiles

constexpr float A = 0.625f, B = 1.5f, A2 = A * A, B2 = B * B;
constexpr float A3 = A * A2, B3 = B * B2;
constexpr float A_5 = 0.75f, B_5 = 1.75f;

struct Position {  // of a tile
  int64_t n, h, w;
};

int64_t edge(const Winograd& d) { return d.m + d.r - 1; }

Position position(const Winograd& d, int64_t tile) {
  return {tile / (d.tiles_h * d.tiles_w), tile / d.tiles_w % d.tiles_h, tile % d.tiles_w};
}

// B^T d, points 0, 1, -1
static inline void transform_in(const Vec (&d)[4], Vec (&t)[4]) {
  t[0] = sub(d[2], d[0]);
  t[1] = add(d[1], d[2]);
  t[2] = sub(d[2], d[1]);
  t[3] = sub(d[3], d[1]);
}

// B^T d, points 0, a, -a, b
static inline void transform_in(const Vec (&d)[5], Vec (&t)[5]) {
  const Vec a = set1(A_5), a2 = set1(-A_5 * A_5), b = set1(-B_5);
  const Vec u = fma(b, d[2], d[3]), v = fma(b, d[1], d[2]), av = mul(a, v);
  t[0] = fma(a2, fma(b, d[0], d[1]), u);
  t[1] = add(u, av);
  t[2] = sub(u, av);
  t[3] = fma(a2, d[1], d[3]);
  t[4] = fma(a2, v, fma(b, d[3], d[4]));
}

// B^T d, points 0, a, -a, b, -b
static inline void transform_in(const Vec (&d)[6], Vec (&t)[6]) {
  const Vec a = set1(A), b = set1(B), a2 = set1(-A2), b2 = set1(-B2), sum = set1(-(A2 + B2)), product = set1(A2 * B2);
  Vec u = fma(b2, d[2], d[4]), v = mul(a, fma(b2, d[1], d[3]));
  t[1] = add(u, v);
  t[2] = sub(u, v);
  u = fma(a2, d[2], d[4]), v = mul(b, fma(a2, d[1], d[3]));
  t[3] = add(u, v);
  t[4] = sub(u, v);
  t[0] = fma(product, d[0], fma(sum, d[2], d[4]));
  t[5] = fma(product, d[1], fma(sum, d[3], d[5]));
}

// A^T m of four numbers, two out
static inline void transform_out(const Vec (&m)[4], Vec (&y)[2]) {
  y[0] = add(m[0], add(m[1], m[2]));
  y[1] = add(m[3], sub(m[1], m[2]));
}

// A^T m of five numbers, three out
static inline void transform_out(const Vec (&m)[5], Vec (&y)[3]) {
  const Vec s = add(m[1], m[2]), d = sub(m[1], m[2]);
  y[0] = add(add(m[0], m[3]), s);
  y[1] = fma(set1(B_5), m[3], mul(set1(A_5), d));
  y[2] = fma(set1(B_5 * B_5), m[3], fma(set1(A_5 * A_5), s, m[4]));
}

// A^T m of six numbers, four out
static inline void transform_out(const Vec (&m)[6], Vec (&y)[4]) {
  const Vec sa = add(m[1], m[2]), da = sub(m[1], m[2]), sb = add(m[3], m[4]), db = sub(m[3], m[4]);
  y[0] = add(m[0], add(sa, sb));
  y[1] = fma(set1(B), db, mul(set1(A), da));
  y[2] = fma(set1(B2), sb, mul(set1(A2), sa));
  y[3] = add(fma(set1(B3), db, mul(set1(A3), da)), m[5]);
}

// A^T m of six numbers, two out
static inline void transform_out(const Vec (&m)[6], Vec (&y)[2]) {
  const Vec sa = add(m[1], m[2]), da = sub(m[1], m[2]), sb = add(m[3], m[4]), db = sub(m[3], m[4]);
  y[0] = add(m[0], add(sa, sb));
  y[1] = add(fma(set1(B), db, mul(set1(A), da)), m[5]);
}

// One vector of channels of one tile, from x (its top left pixel, maybe outside the image) to T * T planes.
template <int T, bool INSIDE>
static inline void tile_in(const Winograd& d, const float* x, int64_t ih, int64_t iw, int n, float* planes,
                           int64_t plane) {
  Vec t[T][T];
#pragma GCC unroll 6
  for (int j = 0; j < T; j++) {
    Vec column[T], out[T];
#pragma GCC unroll 6
    for (int i = 0; i < T; i++) {
      const float* p = x + i * d.x_row + j * d.x_ld;
      if (INSIDE) {
        column[i] = load(p);
      } else {
        const bool ok = (uint64_t)(ih + i) < (uint64_t)d.H && (uint64_t)(iw + j) < (uint64_t)d.W;
        column[i] = ok ? (n == Vec::N ? load(p) : load_n(p, n)) : zero();
      }
    }
    transform_in(column, out);
#pragma GCC unroll 6
    for (int i = 0; i < T; i++) t[i][j] = out[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < T; i++) {
    Vec out[T];
    transform_in(t[i], out);
#pragma GCC unroll 6
    for (int j = 0; j < T; j++) {
      float* p = planes + (i * T + j) * plane;
      if (INSIDE || n == Vec::N) {
        store(p, out[j]);
      } else {
        store_n(p, out[j], n);
      }
    }
  }
}

// Tiles [first, last) into planes, whose row 0 is tile `first`.
template <int T>
void transform_tiles(const Winograd& d, const float* x, int64_t first, int64_t last, float* planes, int64_t plane) {
  for (int64_t tile = first; tile < last; tile++) {
    const Position at = position(d, tile);
    const int64_t ih = at.h * d.m - d.pad_t, iw = at.w * d.m - d.pad_l;
    const float* p = x + at.n * d.x_image + ih * d.x_row + iw * d.x_ld;
    float* row = planes + (tile - first) * d.C;
    const bool inside = ih >= 0 && iw >= 0 && ih + T <= d.H && iw + T <= d.W;
    for (int64_t c = 0; c < d.C; c += Vec::N) {
      const int n = (int)min_i(Vec::N, d.C - c);
      if (inside && n == Vec::N) {
        tile_in<T, true>(d, p + c, ih, iw, n, row + c, plane);
      } else {
        tile_in<T, false>(d, p + c, ih, iw, n, row + c, plane);
      }
    }
  }
}

void transform_tiles(const Winograd& d, const float* x, int64_t first, int64_t last, float* planes, int64_t plane) {
  (edge(d) == 4   ? transform_tiles<4>
   : edge(d) == 5 ? transform_tiles<5>
                  : transform_tiles<6>)(d, x, first, last, planes, plane);
}

struct Epilogue {
  Vec bias, lo, hi;
  bool clip;
  int n;  // lanes in use
  const float* residual;
  int64_t res_ld;
  float* y;
  int64_t y_ld, row;  // row: pixels
};

static inline void put(const Epilogue& e, int64_t pixel, Vec v) {
  if (e.n == Vec::N) {
    store(e.y + pixel * e.y_ld, v);
  } else {
    store_n(e.y + pixel * e.y_ld, v, e.n);
  }
}

// One vector of columns of one tile: T * T planes to up to M x M pixels of y, or their maxima by twos.
template <int T, int M, bool POOL>
static inline void tile_out(const float* planes, int64_t plane, int64_t rows, int64_t columns, const Epilogue& e) {
  Vec t[T][M];
#pragma GCC unroll 6
  for (int i = 0; i < T; i++) {
    Vec m[T];
#pragma GCC unroll 6
    for (int j = 0; j < T; j++) m[j] = load(planes + (i * T + j) * plane);
    transform_out(m, t[i]);
  }
  Vec left[M / 2];
#pragma GCC unroll 4
  for (int j = 0; j < M; j++) {
    Vec m[T], out[M];
#pragma GCC unroll 6
    for (int i = 0; i < T; i++) m[i] = t[i][j];
    transform_out(m, out);
    if (j >= columns) continue;
#pragma GCC unroll 4
    for (int i = 0; i < M; i++) {
      out[i] = add(out[i], e.bias);
      if (POOL || i >= rows) continue;
      const int64_t pixel = i * e.row + j;
      if (e.residual) {
        const float* r = e.residual + pixel * e.res_ld;
        out[i] = add(out[i], e.n == Vec::N ? load(r) : load_n(r, e.n));
      }
      if (e.clip) out[i] = min(e.hi, max(e.lo, out[i]));
      put(e, pixel, out[i]);
    }
#pragma GCC unroll 2
    for (int i = 0; POOL && i < M / 2; i++) {
      const Vec pair = max(out[2 * i], out[2 * i + 1]);
      if (j % 2 == 0) {
        left[i] = pair;
      } else if (2 * i + 1 < rows) {
        const Vec v = max(left[i], pair);
        put(e, i * e.row + j / 2, e.clip ? min(e.hi, max(e.lo, v)) : v);
      }
    }
  }
}

// A panel's sums of tiles [first, last) to y.
template <int T, int M, bool POOL>
void output_tiles(const Winograd& d, const Buffers& b, const float* sums, int64_t plane, int64_t first, int64_t last,
                  int64_t k, int nv) {
  constexpr int V = Vec::N, STEP = POOL ? M / 2 : M;
  const int64_t P = POOL ? d.P / 2 : d.P, Q = POOL ? d.Q / 2 : d.Q;
  Epilogue e;
  e.clip = d.act.func == Func::clip;
  e.lo = set1(d.act.alpha), e.hi = set1(d.act.beta);
  e.res_ld = d.res_ld, e.y_ld = d.y_ld, e.row = Q;
  for (int64_t tile = first; tile < last; tile++) {
    const Position at = position(d, tile);
    const int64_t pixel = (at.n * P + at.h * STEP) * Q + at.w * STEP;
    const int64_t rows = min_i(M, d.P - at.h * M), columns = min_i(M, d.Q - at.w * M);
    for (int v = 0; v < nv; v++) {
      const int64_t channel = k + v * V;
      e.n = (int)min_i(V, d.K - channel);
      if (e.n <= 0) break;
      e.bias = !b.in[2] ? zero() : e.n == V ? load(b.in[2] + channel) : load_n(b.in[2] + channel, e.n);
      e.residual = b.in[3] ? b.in[3] + pixel * d.res_ld + channel : nullptr;
      e.y = b.out + pixel * d.y_ld + channel;
      tile_out<T, M, POOL>(sums + (tile - first) * nv * V + v * V, plane, rows, columns, e);
    }
    if (!POOL && d.act.func != Func::clip && d.act.func != Func::identity) {
      const int64_t width = min_i(nv * V, d.K - k);
      for (int64_t i = 0; i < rows; i++) {
        activate_rows(d.act, b.out + (pixel + i * Q) * d.y_ld + k, d.y_ld, columns, width);
      }
    }
  }
}

void output_tiles(const Winograd& d, const Buffers& b, const float* sums, int64_t plane, int64_t first, int64_t last,
                  int64_t k, int nv) {
  auto form = output_tiles<4, 2, false>;
  if (d.m == 2 && d.r == 3 && d.pool) form = output_tiles<4, 2, true>;
  if (d.m == 3) form = output_tiles<5, 3, false>;
  if (d.m == 4) form = d.pool ? output_tiles<6, 4, true> : output_tiles<6, 4, false>;
  if (d.r == 5) form = d.pool ? output_tiles<6, 2, true> : output_tiles<6, 2, false>;
  form(d, b, sums, plane, first, last, k, nv);
}

// What to fetch of the image for the block from tile `first` on while plane e is multiplied: each row by and by, as far
// as the block goes on in it.
Fetch block_part(const Winograd& d, const float* x, int64_t first, int64_t e) {
  const int64_t T = edge(d), tiles = min_i(d.block, d.tiles_w - first % d.tiles_w);
  if (first >= d.N * d.tiles_h * d.tiles_w) return {nullptr, 0};
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
  const int64_t sums_plane = tiles * nv * V + PLANE_PAD, size = d.C * nv * V;
  const int64_t count = edge(d) * edge(d);  // of planes
  const float* w = b.in[1] + panels.start(panel) * V * d.C * count;
  const Activation none = {Func::identity, 0, 0};
  const float* pointers[16];
  const int32_t tap = 0;
  Tile t;
  t.a = pointers;
  t.taps = &tap;
  t.n_taps = 1;
  t.len = d.C;
  t.w_ld = nv * V;
  t.start = t.bias = t.residual = nullptr;
  t.res_ld = 0;
  t.y_ld = nv * V;
  t.cold = false;
  t.tail = V;
  t.act = &none;
  const RowBlocks blocks(tiles, nv);
  const int64_t fewest = tiles / blocks.count;
  const TileFunction small = find_tile(nv, fewest), large = tiles % blocks.count ? find_tile(nv, fewest + 1) : small;
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
    const int64_t steps = blocks.count * d.C;
    t.next_step = fetch_step(nv, bytes, steps);
    for (int64_t i = 0; i < blocks.count; i++) {
      const int64_t at = blocks.start(i), rows = blocks.start(i + 1) - at;
      for (int64_t r = 0; r < rows; r++) pointers[r] = planes + e * plane + (at + r) * d.C;
      t.y = sums + e * sums_plane + at * nv * V;
      t.next = next;
      next += t.next_step * d.C;
      (rows == fewest ? small : large)(t);
    }
  }
  output_tiles(d, b, sums, sums_plane, first, last, k, nv);
}

}  // namespace

// A chunk is a block of tiles with all panels.
void winograd_conv2d(const Winograd& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t tiles = d.N * d.tiles_h * d.tiles_w, plane = d.block * d.C + PLANE_PAD;
  const Panels panels(d.K, MAX_NV);
  float* planes = b.scratch;
  float* sums = planes + (edge(d) * edge(d) * plane + 15) / 16 * 16;
  for (int64_t chunk = begin; chunk < end; chunk++) {
    const int64_t first = tiles * chunk / d.chunks, last = tiles * (chunk + 1) / d.chunks;
    transform_tiles(d, b.in[0], first, last, planes, plane);
    const bool resident = edge(d) * edge(d) * d.C * d.K <= RESIDENT;
    const Fetch after = next_operation(b, chunk, resident);
    for (int64_t p = 0; p < panels.count; p++) {
      run_panel(d, b, planes, plane, first, last, panels, p, resident,
                p == panels.count - 1 ? after : Fetch{nullptr, 0}, sums);
    }
  }
}

// A chunk is a part of the tiles; b.out holds the planes of all of them.
void winograd_input(const Winograd& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t tiles = d.N * d.tiles_h * d.tiles_w, plane = tiles * d.C + PLANE_PAD;
  const int64_t first = tiles * begin / d.chunks, last = tiles * end / d.chunks;
  transform_tiles(d, b.in[0], first, last, b.out + first * d.C, plane);
}

// A chunk is one panel and one block of tiles.
void winograd_product(const Winograd& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t tiles = d.N * d.tiles_h * d.tiles_w, plane = tiles * d.C + PLANE_PAD;
  const Panels panels(d.K, MAX_NV);
  // Neighbouring chunks are the panels of one block, so that threads share few tiles; one thread that has several
  // blocks reads each panel once for all of them.
  for (int64_t p = 0; p < panels.count; p++) {
    for (int64_t chunk = begin + (p - begin % panels.count + panels.count) % panels.count; chunk < end;
         chunk += panels.count) {
      const int64_t block = chunk / panels.count, blocks = d.chunks / panels.count;
      const int64_t first = tiles * block / blocks, last = tiles * (block + 1) / blocks;
      run_panel(d, b, b.in[0] + first * d.C, plane, first, last, panels, p, false, next_operation(b, chunk, false),
                b.scratch);
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
