// y[i...] = x[i...] with any strides. The dimensions are sorted by the stride of y and merged where both sides allow;
// the innermost (B) and one more (A) then form planes (cpu/plane.h), copied in tiles of about 4096 elements; chunks are
// ranges of tiles.
#include "cpu/plane.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

struct Dim {
  int64_t n, x, y;  // size, strides
};

struct Nest {
  int rank;
  Dim dim[MAX_RANK + 2];
};

// At least two dimensions, the stride of y falling, neighbours merged.
Nest normalise(const Copy& d) {
  Dim sorted[MAX_RANK];
  int count = 0;
  for (int64_t i = 0; i < d.rank; i++) {
    if (d.dims[i] == 1) continue;
    int at = count++;
    for (; at > 0 && sorted[at - 1].y < d.y_stride[i]; at--) sorted[at] = sorted[at - 1];
    sorted[at] = {d.dims[i], d.x_stride[i], d.y_stride[i]};
  }
  Nest t;
  t.rank = 0;
  for (int i = 0; i < count; i++) {
    Dim* outer = t.rank ? &t.dim[t.rank - 1] : nullptr;
    const Dim& s = sorted[i];
    if (outer && outer->x == s.n * s.x && outer->y == s.n * s.y)
      *outer = {outer->n * s.n, s.x, s.y};
    else
      t.dim[t.rank++] = s;
  }
  const Dim one = {1, 1, 1};
  if (t.rank == 0) t.dim[t.rank++] = one;
  if (t.rank == 1) {
    t.dim[t.rank++] = t.dim[0];
    t.dim[0] = one;
  }
  return t;
}

}  // namespace

void copy(const Copy& d, const Buffers& buffers, int64_t begin, int64_t end) {
  for (int64_t i = 0; i < d.rank; i++)
    if (d.dims[i] == 0) return;
  Nest s = normalise(d);
  const int outer = s.rank - 2;
  Dim &a = s.dim[outer], &b = s.dim[outer + 1];
  bool transposing = false;
  for (int i = outer; i >= 0 && b.y == 1 && b.x != 1 && !transposing; i--)
    if (s.dim[i].x == 1) {
      transposing = true;
      const Dim t = s.dim[i];
      s.dim[i] = a;
      a = t;
    }

  // Tiles of ta x tb; a plane of few rows or columns is not cut across them.
  int64_t ta = 64, tb = 64;
  if (transposing && b.n <= 4) {
    ta = 2048;
    tb = b.n;
  } else if (transposing && a.n <= 4) {
    ta = a.n;
    tb = 2048;
  } else if (!transposing) {
    tb = min_i(b.n, 4096);
    ta = max_i(1, 4096 / tb);
  }
  const int64_t tiles_a = (a.n + ta - 1) / ta, tiles_b = (b.n + tb - 1) / tb;
  int64_t items = tiles_a * tiles_b;
  for (int i = 0; i < outer; i++) items *= s.dim[i].n;

  const int64_t last = chunk_begin(items, d.chunks, end);
  for (int64_t item = chunk_begin(items, d.chunks, begin); item < last; item++) {
    const int64_t j = item % tiles_b * tb, i = item / tiles_b % tiles_a * ta;
    Plane p = {buffers.in[0] + i * a.x + j * b.x,
               buffers.out + i * a.y + j * b.y,
               min_i(ta, a.n - i),
               min_i(tb, b.n - j),
               a.x,
               b.x,
               a.y,
               b.y};
    int64_t rest = item / (tiles_a * tiles_b);
    for (int k = outer - 1; k >= 0; k--) {
      const int64_t index = rest % s.dim[k].n;
      rest /= s.dim[k].n;
      p.x += index * s.dim[k].x;
      p.y += index * s.dim[k].y;
    }
    copy_plane(p);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
