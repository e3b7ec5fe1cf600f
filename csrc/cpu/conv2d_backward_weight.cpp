// dw[k,c,r,s] = sum over pixels of g[pixel,k] x[pixel + tap,c]: a product with the pixels as its depth, straight from
// N H W C. A tile keeps MR channels of x by NV vectors of output channels in registers while up to BLOCK pixels run by;
// a list of pointers names the pixels of a tap that lie in the image, so that strides, dilations and padding cost
// nothing in the loop and padding no products. Blocks are summed apart and then added: rounding errors stay small.
//
// A chunk is a part of the pixels and a slice of 64 output channels; its sums, [tap][c][columns], are its own. Where
// x has few channels and is dense, a filter row is one run of S * C elements ("runs"), copied with zeros where it
// leaves the image; so an infinite g gives NaN there, as the definition does, where the list leaves padding out.
// conv2d_backward_weight_sum adds the parts in order and transposes them into dw.
#include "cpu/gemm.h"
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { BLOCK = 128, SLICE = 64, CHANNELS = 256, LONGEST_RUN = 128 };  // training_checks.cpp: SLICE, LONGEST_RUN

struct Pair {
  const float *x, *g;
};

struct Product {
  const Pair* pairs;
  int64_t count, x_at;  // x_at: first channel
  int64_t g_at;         // first column
  float* y;             // sums, rows of y_ld
  int64_t y_ld;
  bool first;  // y holds nothing yet
  int tail;    // lanes in use in the last vector
};

template <int MR, int NV, bool full>
static void product(const Product& t) {
  constexpr int V = Vec::N;
  Vec acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
    for (int j = 0; j < NV; j++) acc[i][j] = zero();
  const int64_t x_at = t.x_at, g_at = t.g_at;
  for (const Pair *p = t.pairs, *end = p + t.count; p < end; p++) {
    const float *x = p->x + x_at, *g = p->g + g_at;
    Vec held[NV];
#pragma GCC unroll 16
    for (int j = 0; j < NV; j++) held[j] = full || j < NV - 1 ? load(g + j * V) : load_n(g + j * V, t.tail);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      const Vec a = set1(x[i]);
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++) acc[i][j] = fma(a, held[j], acc[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
    for (int j = 0; j < NV; j++) {
      float* y = t.y + i * t.y_ld + j * V;
      store(y, t.first ? acc[i][j] : add(load(y), acc[i][j]));
    }
}

using ProductFunction = void (*)(const Product&);

constexpr int rows_of(int nv) { return nv == 4 ? 6 : ROWS[nv]; }

template <int NV, bool full, int MR = rows_of(NV)>
ProductFunction product_of_rows(int64_t rows) {
  if constexpr (MR == 0) {
    return nullptr;
  } else {
    return rows == MR ? product<MR, NV, full> : product_of_rows<NV, full, MR - 1>(rows);
  }
}

template <bool full>
ProductFunction find_product(int nv, int64_t rows) {
  if (nv == 1) return product_of_rows<1, full>(rows);
  if (nv == 2) return product_of_rows<2, full>(rows);
  if constexpr (MAX_NV == 4) {
    if (nv == 3) return product_of_rows<3, full>(rows);
    if (nv == 4) return product_of_rows<4, full>(rows);
  }
  return nullptr;
}

// What the loops walk over: taps of single pixels, or filter rows.
struct Shape {
  bool runs;
  int64_t taps, depth;  // depth: elements of x for each tap
};

Shape shape_of(const Conv2dBackwardWeight& d) {
  const bool runs =
      d.groups == 1 && d.x_ld == d.C && d.dilation_w == 1 && d.S > 1 && d.C <= 16 && d.S * d.C <= LONGEST_RUN;
  if (runs) return {true, d.R, d.S * d.C};
  return {false, d.R * d.S, d.C / d.groups};
}

struct Source {
  const float *x, *g;  // of this group
  float* copies;       // of runs that leave the image
};

// The pixels [first, last) for which this tap lies in the image.
int64_t list_pixels(const Conv2dBackwardWeight& d, const Source& s, int64_t tap, int64_t first, int64_t last,
                    Pair* pairs) {
  const int64_t dh = tap / d.S * d.dilation_h - d.pad_t, dw = tap % d.S * d.dilation_w - d.pad_l;
  int64_t count = 0;
  for (int64_t at = first; at < last;) {
    const int64_t q0 = at % d.Q, p = at / d.Q % d.P, n = at / d.Q / d.P, stop = min_i(d.Q, q0 + last - at);
    const int64_t h = p * d.stride_h + dh;
    if ((uint64_t)h < (uint64_t)d.H) {
      const float *x = s.x + n * d.x_image + h * d.x_row, *g = s.g + (at - q0) * d.g_ld;
      for (int64_t q = q0; q < stop; q++) {
        const int64_t w = q * d.stride_w + dw;
        pairs[count] = {x + w * d.x_ld, g + q * d.g_ld};
        count += (uint64_t)w < (uint64_t)d.W;
      }
    }
    at += stop - q0;
  }
  return count;
}

int64_t list_runs(const Conv2dBackwardWeight& d, const Source& s, int64_t r, int64_t first, int64_t last, Pair* pairs) {
  const int64_t dh = r * d.dilation_h - d.pad_t, length = d.S * d.C;
  float* copy = s.copies;
  int64_t count = 0;
  for (int64_t at = first; at < last;) {
    const int64_t q0 = at % d.Q, p = at / d.Q % d.P, n = at / d.Q / d.P, stop = min_i(d.Q, q0 + last - at);
    const int64_t h = p * d.stride_h + dh;
    if ((uint64_t)h < (uint64_t)d.H) {
      const float *x = s.x + n * d.x_image + h * d.x_row, *g = s.g + (at - q0) * d.g_ld;
      for (int64_t q = q0; q < stop; q++) {
        const int64_t w = q * d.stride_w - d.pad_l;
        const float* run = x + w * d.C;
        if (w < 0 || w + d.S > d.W) {
          for (int64_t i = 0; i < length; i++) {
            const int64_t column = w * d.C + i;
            copy[i] = column >= 0 && column < d.W * d.C ? x[column] : 0.0f;
          }
          run = copy;
          copy += length;
        }
        pairs[count++] = {run, g + q * d.g_ld};
      }
    }
    at += stop - q0;
  }
  return count;
}

// Rows [c0, c1) of one tap by all columns of a slice.
void run_products(const Pair* pairs, int64_t count, int64_t c0, int64_t c1, int64_t k0, int64_t columns, float* y,
                  int64_t width, bool first) {
  Product t;
  t.first = first;
  t.pairs = pairs;
  t.count = count;
  t.y_ld = width;
  const Panels panels(columns, MAX_NV);
  for (int64_t p = 0; p < panels.count; p++) {
    const int nv = panels.width(p);
    const int64_t at = panels.start(p) * Vec::N, used = min_i(columns - at, nv * Vec::N);
    t.tail = (int)(used - (nv - 1) * Vec::N);
    t.g_at = k0 + at;
    const int64_t rows = c1 - c0, blocks = (rows + rows_of(nv) - 1) / rows_of(nv);
    for (int64_t i = 0; i < blocks; i++) {
      const int64_t begin = rows * i / blocks, n = rows * (i + 1) / blocks - begin;
      t.x_at = c0 + begin;
      t.y = y + (c0 + begin) * width + at;
      (t.tail == Vec::N ? find_product<true>(nv, n) : find_product<false>(nv, n))(t);
    }
  }
}

inline int64_t padded(int64_t columns) { return (columns + Vec::N - 1) / Vec::N * Vec::N; }

// A dense layer, into dw: a chunk is a range of its rows. g stays in L2; each row of dw is written whole.
void dense_direct(const Conv2dBackwardWeight& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t M = d.N * d.P * d.Q, blocks = (M + BLOCK - 1) / BLOCK;
  const int64_t c0 = chunk_begin(d.C, d.chunks, begin), c1 = chunk_begin(d.C, d.chunks, end);
  const Source source = {b.in[0], b.in[1], nullptr};
  Pair pairs[BLOCK];
  for (int64_t c = c0; c < c1; c += 48) {
    for (int64_t i = 0; i < blocks; i++) {
      const int64_t m0 = chunk_begin(M, blocks, i), m1 = chunk_begin(M, blocks, i + 1);
      const int64_t count = list_pixels(d, source, 0, m0, m1, pairs);
      for (int64_t k0 = 0; k0 < d.K; k0 += SLICE)
        run_products(pairs, count, c, min_i(c1, c + 48), k0, min_i(SLICE, d.K - k0), b.out + k0, d.dw_c, i == 0);
    }
  }
}

}  // namespace

void conv2d_backward_weight(const Conv2dBackwardWeight& d, const Buffers& b, int64_t begin, int64_t end) {
  if (d.direct) return dense_direct(d, b, begin, end);
  if (d.images) return conv2d_backward_weight_images(d, b, begin, end);
  const int64_t Cg = d.C / d.groups, Kg = d.K / d.groups, M = d.N * d.P * d.Q, taps = d.R * d.S;
  const int64_t slices = (Kg + SLICE - 1) / SLICE, part_size = d.groups * taps * Cg * padded(Kg);
  const Shape shape = shape_of(d);
  Pair pairs[BLOCK];
  for (int64_t chunk = begin; chunk < end; chunk++) {
    const int64_t slice = chunk % slices, group = chunk / slices % d.groups, part = chunk / slices / d.groups;
    const int64_t k0 = slice * SLICE, columns = min_i(SLICE, Kg - k0), width = padded(columns);
    float* sums = b.out + part * part_size + group * taps * Cg * padded(Kg) + k0 * taps * Cg;
    const Source source = {b.in[0] + group * Cg, b.in[1] + group * Kg, b.scratch};
    for (int64_t i = 0; i < taps * Cg * width; i++) sums[i] = 0;
    const int64_t first = chunk_begin(M, d.parts, part), last = chunk_begin(M, d.parts, part + 1);
    const int64_t blocks = (last - first + BLOCK - 1) / BLOCK;
    for (int64_t c0 = 0; c0 < shape.depth; c0 += CHANNELS) {
      const int64_t c1 = min_i(shape.depth, c0 + CHANNELS);
      for (int64_t i = 0; i < blocks; i++) {
        const int64_t m0 = first + chunk_begin(last - first, blocks, i);
        const int64_t m1 = first + chunk_begin(last - first, blocks, i + 1);
        for (int64_t tap = 0; tap < shape.taps; tap++) {
          const int64_t count =
              shape.runs ? list_runs(d, source, tap, m0, m1, pairs) : list_pixels(d, source, tap, m0, m1, pairs);
          if (count) run_products(pairs, count, c0, c1, k0, columns, sums + tap * shape.depth * width, width, false);
        }
      }
    }
  }
}

// N elements (c, tap) from e on by the columns of one vector, summed over the parts: into dw.
static void sum_square(const Conv2dBackwardWeight& d, const float* sums, int64_t part_size, int64_t Cg, int64_t width,
                       float* dw, int64_t e, int n, int lanes) {
  const int64_t taps = d.R * d.S;
  Vec r[Vec::N];
  int64_t c = e / taps, tap = e % taps;
  for (int i = 0; i < Vec::N; i++) {
    r[i] = zero();
    if (i >= n) continue;
    const float* p = sums + (tap * Cg + c) * width;
    for (int64_t part = 0; part < d.parts; part++) r[i] = add(r[i], load(p + part * part_size));
    if (d.dw_k == 1) store_n(dw + c * d.dw_c + tap * d.dw_tap, r[i], lanes);
    if (++tap == taps) tap = 0, c++;
  }
  if (d.dw_k == 1) return;
  transpose(r);
  const bool joined = d.dw_tap == 1 && (d.dw_c == taps || Cg == 1);
  for (int j = 0; j < lanes; j++) {
    float* row = dw + j * d.dw_k;
    if (joined && n == Vec::N) {
      store(row + e, r[j]);
    } else if (joined) {
      store_n(row + e, r[j], n);
    } else {
      float t[Vec::N];
      store(t, r[j]);
      for (int i = 0; i < n; i++) row[(e + i) / taps * d.dw_c + (e + i) % taps * d.dw_tap] = t[i];
    }
  }
}

// An item is a slice of columns by 64 elements (c, tap): rows of the sums are read whole, rows of dw four lines long.
void conv2d_backward_weight_sum(const Conv2dBackwardWeight& d, const Buffers& b, int64_t begin, int64_t end) {
  const bool depthwise = d.groups > 1 && d.groups == d.C;
  const int64_t groups = depthwise ? 1 : d.groups, Cg = depthwise ? 1 : d.C / groups, Kg = d.K / groups;
  const int64_t taps = d.R * d.S, part_size = groups * taps * Cg * padded(Kg), slices = (Kg + SLICE - 1) / SLICE;
  const int64_t blocks = (Cg * taps + 63) / 64, items = groups * slices * blocks;
  const int64_t last = chunk_begin(items, d.chunks, end);
  for (int64_t item = chunk_begin(items, d.chunks, begin); item < last; item++) {
    const int64_t block = item % blocks, slice = item / blocks % slices, group = item / blocks / slices;
    const int64_t k0 = slice * SLICE, columns = min_i(SLICE, Kg - k0), width = padded(columns);
    const float* sums = b.in[0] + group * taps * Cg * padded(Kg) + k0 * taps * Cg;
    float* dw = b.out + (group * Kg + k0) * d.dw_k;
    const int64_t stop = min_i(Cg * taps, block * 64 + 64);
    for (int64_t e = block * 64; e < stop; e += Vec::N)
      for (int64_t k = 0; k < columns; k += Vec::N)
        sum_square(d, sums + k, part_size, Cg, width, dw + k * d.dw_k, e, (int)min_i(Vec::N, stop - e),
                   (int)min_i(Vec::N, columns - k));
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
