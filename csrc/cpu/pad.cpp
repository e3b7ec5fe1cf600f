// y holds the box x at `before`, the rest is a value, the nearest edge or a reflection.
// Chunks are rows of y (all but the innermost dimension). A trailing dimension that is not padded joins the one before
// it, so that padding H and W of an N H W C image copies rows of W * C. Where x is not contiguous along the innermost
// dimension and the padding is constant (an N C H W image turned into a padded N H W C one), chunks are planes of the
// two innermost dimensions, which copy as transposes.
#include "cpu/plane.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

void fill(float* y, int64_t step, int64_t n, float value) {
  int64_t i = 0;
  if (step == 1)
    for (; i + Vec::N <= n; i += Vec::N) store(y + i, set1(value));
  for (; i < n; i++) y[i * step] = value;
}

void fill_plane(float* y, int64_t row, int64_t step, int64_t rows, int64_t n, float value) {
  if (row == n && step == 1) return fill(y, 1, rows * n, value);
  for (int64_t i = 0; i < rows && n > 0; i++) fill(y + i * row, step, n, value);
}

void copy_run(const float* x, int64_t x_step, float* y, int64_t y_step, int64_t n) {
  int64_t i = 0;
  if (x_step == 1 && y_step == 1 && n >= Vec::N) {
    for (; i + Vec::N <= n; i += Vec::N) store(y + i, load(x + i));
    if (i < n) store(y + n - Vec::N, load(x + n - Vec::N));  // what is left, and some again
    return;
  }
  for (; i < n; i++) y[i * y_step] = x[i * x_step];
}

// The coordinate of x (0 <= result < n) that stands for coordinate i outside or inside; -1 for the constant.
int64_t source(int64_t i, int64_t n, PadMode mode) {
  if (i >= 0 && i < n) return i;
  if (mode == PadMode::constant) return -1;
  if (mode == PadMode::edge || n == 1) return i < 0 ? 0 : n - 1;
  const int64_t period = 2 * (n - 1), k = (i % period + period) % period;
  return k < n ? k : period - k;
}

Pad merged(Pad d) {
  while (d.rank >= 2 && d.mode == PadMode::constant) {
    const int64_t i = d.rank - 1, k = d.rank - 2, n = d.dims[i];
    if (d.before[i] != 0 || n != d.x_dims[i] || d.x_stride[k] != n * d.x_stride[i] ||
        d.y_stride[k] != n * d.y_stride[i])
      break;
    d.dims[k] *= n;
    d.x_dims[k] *= n;
    d.before[k] *= n;
    d.x_stride[k] = d.x_stride[i];
    d.y_stride[k] = d.y_stride[i];
    d.rank--;
  }
  if (d.rank == 0) {
    d.rank = d.dims[0] = d.x_dims[0] = d.x_stride[0] = d.y_stride[0] = 1;
    d.before[0] = 0;
  }
  return d;
}

// Where row r of the dimensions before `in` lies: adds to x and y; false if it is all padding.
bool locate(const Pad& d, int64_t in, int64_t r, const float** x, float** y) {
  bool inside = true;
  for (int64_t i = in - 1; i >= 0; i--) {
    const int64_t index = r % d.dims[i], from = source(index - d.before[i], d.x_dims[i], d.mode);
    r /= d.dims[i];
    *y += index * d.y_stride[i];
    inside = inside && from >= 0;
    *x += (from < 0 ? 0 : from) * d.x_stride[i];
  }
  return inside;
}

struct Span {
  int64_t low, high;  // [low, high) of y's dimension lies in the box
};

Span span(const Pad& d, int64_t i) {
  const int64_t low = max_i(0, min_i(d.dims[i], d.before[i]));
  return {low, max_i(low, min_i(d.dims[i], d.before[i] + d.x_dims[i]))};
}

void pad_planes(const Pad& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t in = d.rank - 1, out = d.rank - 2, n = d.dims[in], rows = d.dims[out];
  const int64_t y_row = d.y_stride[out], y_step = d.y_stride[in];
  const Span a = span(d, out), c = span(d, in);
  int64_t planes = 1;
  for (int64_t i = 0; i < out; i++) planes *= d.dims[i];
  const int64_t last = chunk_begin(planes, d.chunks, end);
  for (int64_t r = chunk_begin(planes, d.chunks, begin); r < last; r++) {
    const float* x = b.in[0];
    float* y = b.out;
    const bool inside = locate(d, out, r, &x, &y);
    if (!inside || a.low == a.high || c.low == c.high) {
      fill_plane(y, y_row, y_step, rows, n, d.value);
      continue;
    }
    fill_plane(y, y_row, y_step, a.low, n, d.value);
    fill_plane(y + a.high * y_row, y_row, y_step, rows - a.high, n, d.value);
    float* middle = y + a.low * y_row;
    fill_plane(middle, y_row, y_step, a.high - a.low, c.low, d.value);
    fill_plane(middle + c.high * y_step, y_row, y_step, a.high - a.low, n - c.high, d.value);
    const Plane p = {x + (a.low - d.before[out]) * d.x_stride[out] + (c.low - d.before[in]) * d.x_stride[in],
                     y + a.low * y_row + c.low * y_step,
                     a.high - a.low,
                     c.high - c.low,
                     d.x_stride[out],
                     d.x_stride[in],
                     y_row,
                     y_step};
    copy_plane(p);
  }
}

// A row of y: all padding where x is null, else what lies around the columns c, and x there.
void pad_row(const Pad& d, Span c, const float* x, float* y) {
  const int64_t in = d.rank - 1, n = d.dims[in], x_n = d.x_dims[in], before = d.before[in];
  const int64_t x_step = d.x_stride[in], y_step = d.y_stride[in];
  if (!x) return fill(y, y_step, n, d.value);
  if (d.mode == PadMode::constant) {
    fill(y, y_step, c.low, d.value);
    fill(y + c.high * y_step, y_step, n - c.high, d.value);
  } else {
    for (int64_t k = 0; k < c.low; k++) y[k * y_step] = x[source(k - before, x_n, d.mode) * x_step];
    for (int64_t k = c.high; k < n; k++) y[k * y_step] = x[source(k - before, x_n, d.mode) * x_step];
  }
  if (c.low < c.high) copy_run(x + (c.low - before) * x_step, x_step, y + c.low * y_step, y_step, c.high - c.low);
}

void pad_rows(const Pad& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t in = d.rank - 1;
  const Span columns = span(d, in);
  // The rows of one dimension are found by steps: two divisions for each take longer than a short row.
  const int64_t line = in > 0 ? in - 1 : 0, lines = in > 0 ? d.dims[line] : 1, x_lines = in > 0 ? d.x_dims[line] : 1;
  const int64_t above = in > 0 ? d.before[line] : 0;
  int64_t rows = lines;
  for (int64_t i = 0; i < line; i++) rows *= d.dims[i];
  const int64_t last = chunk_begin(rows, d.chunks, end);
  for (int64_t r = chunk_begin(rows, d.chunks, begin); r < last;) {
    const float* x = b.in[0];
    float* y = b.out;
    const bool inside = locate(d, line, r / lines, &x, &y);
    const int64_t first = r % lines, stop = min_i(lines, first + last - r);
    for (int64_t i = first; i < stop; i++) {
      const int64_t from = inside ? source(i - above, x_lines, d.mode) : -1;
      pad_row(d, columns, from < 0 ? nullptr : x + from * d.x_stride[line], y + i * d.y_stride[line]);
    }
    r += stop - first;
  }
}

}  // namespace

void pad(const Pad& original, const Buffers& b, int64_t begin, int64_t end) {
  const Pad d = merged(original);
  for (int64_t i = 0; i < d.rank; i++)
    if (d.dims[i] == 0) return;
  if (d.rank >= 2 && d.mode == PadMode::constant && d.x_stride[d.rank - 1] != 1)
    pad_planes(d, b, begin, end);
  else
    pad_rows(d, b, begin, end);
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
