// Batch normalisation with the statistics of the batch over rows [rows, C], and its gradient; each in three steps, the
// formulas are those of cpu/batch_norm.cpp. Statistics run over `parts` ranges of rows: a block has 32 channels of one
// part and takes its mean first, then the squared differences from it (x comes from L2 then), so that nothing cancels.
// The finishing steps join the parts in double, in order. Float storage only.
#include "rows.cuh"
#include "training.cuh"

namespace fastconv {
namespace cuda {
namespace {

struct Range {
  int64_t first, last;
};
__device__ inline Range rows_of(const BatchNorm& d, int64_t part) {
  return {part_begin(d.rows, d.parts, part), part_begin(d.rows, d.parts, part + 1)};
}

__global__ void stats_kernel(const __grid_constant__ BatchNorm d, const float* x, float* sums) {
  const Place p = place_of(d.C);
  const Range r = rows_of(d, p.o);
  float total = 0.0f, squares = 0.0f;
  if (p.live)
    for (int64_t i = r.first + threadIdx.y; i < r.last; i += blockDim.y) total += x[i * d.x_ld + p.i];
  const float mean = r.last > r.first ? join_rows<Sum>(total) / (float)(r.last - r.first) : 0.0f;
  if (p.live)
    for (int64_t i = r.first + threadIdx.y; i < r.last; i += blockDim.y) {
      const float e = x[i * d.x_ld + p.i] - mean;
      squares = fmaf(e, e, squares);
    }
  squares = join_rows<Sum>(squares);
  if (!p.live || threadIdx.y != 0) return;
  sums[p.o * 2 * d.C + p.i] = mean;
  sums[p.o * 2 * d.C + d.C + p.i] = squares;
}

// A thread for each channel.
__global__ void finish_kernel(const __grid_constant__ BatchNorm d, const float* sums, const float* scale, float* mean,
                              float* variance, float* factor) {
  const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= d.C) return;
  double n = 0, m = 0, m2 = 0;
  for (int64_t part = 0; part < d.parts; part++) {
    const Range r = rows_of(d, part);
    const double rows = (double)(r.last - r.first);
    if (rows == 0) continue;
    const float* p = sums + part * 2 * d.C + c;
    const double delta = (double)p[0] - m, all = n + rows;
    m += delta * rows / all;
    m2 += (double)p[d.C] + delta * delta * n * rows / all;
    n = all;
  }
  const double v = n > 0 ? m2 / n : 0;
  mean[c] = (float)m;
  variance[c] = (float)v;
  factor[c] = (float)((double)scale[c] / sqrt(v + (double)d.epsilon));
}

__global__ void apply_kernel(const __grid_constant__ BatchNorm d, uint32_t total, const float* x, const float* mean,
                             const float* factor, const float* shift, float* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t r = i / (uint32_t)d.C, c = i - r * (uint32_t)d.C;
  y[r * d.y_ld + c] = fmaf(x[r * d.x_ld + c] - mean[c], factor[c], shift[c]);
}

__global__ void backward_stats_kernel(const __grid_constant__ BatchNorm d, const float* g, const float* x,
                                      const float* mean, float* sums) {
  const Place p = place_of(d.C);
  const Range r = rows_of(d, p.o);
  float s = 0.0f, sx = 0.0f;
  if (p.live) {
    const float m = mean[p.i];
    for (int64_t i = r.first + threadIdx.y; i < r.last; i += blockDim.y) {
      const float v = g[i * d.g_ld + p.i];
      s += v;
      sx = fmaf(v, x[i * d.x_ld + p.i] - m, sx);
    }
  }
  s = join_rows<Sum>(s);
  sx = join_rows<Sum>(sx);
  if (!p.live || threadIdx.y != 0) return;
  sums[p.o * 2 * d.C + p.i] = s;
  sums[p.o * 2 * d.C + d.C + p.i] = sx;
}

__global__ void backward_finish_kernel(const __grid_constant__ BatchNorm d, const float* sums, const float* variance,
                                       const float* scale, float* dscale, float* dshift, float* coefficients) {
  const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= d.C) return;
  double s = 0, sx = 0;
  for (int64_t part = 0; part < d.parts; part++) {
    s += (double)sums[part * 2 * d.C + c];
    sx += (double)sums[part * 2 * d.C + d.C + c];
  }
  const double inverse = 1.0 / sqrt((double)variance[c] + (double)d.epsilon);
  const double a = (double)scale[c] * inverse, n = d.rows > 0 ? (double)d.rows : 1.0;
  dscale[c] = (float)(sx * inverse);
  dshift[c] = (float)s;
  coefficients[c] = (float)a;
  coefficients[d.C + c] = (float)(-a * inverse * inverse * sx / n);
  coefficients[2 * d.C + c] = (float)(-a * s / n);
}

__global__ void backward_apply_kernel(const __grid_constant__ BatchNorm d, uint32_t total, const float* g,
                                      const float* x, const float* mean, const float* coefficients, float* dx) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t r = i / (uint32_t)d.C, c = i - r * (uint32_t)d.C;
  const float *a = coefficients, *slope = a + d.C, *shift = slope + d.C;
  const float e = fmaf(x[r * d.x_ld + c] - mean[c], slope[c], shift[c]);
  dx[r * d.y_ld + c] = fmaf(g[r * d.g_ld + c], a[c], e);
}

const float* input(const Call& c, int i) { return (const float*)c.in[i]; }
constexpr Shape COLUMNS = {32, 8};

}  // namespace

void batch_norm_stats(const BatchNorm& d, const Call& c) {
  require_float(c);
  launch(stats_kernel, blocks_of(d.parts, d.C, COLUMNS), dim3(COLUMNS.tx, COLUMNS.ty), BLOCK * sizeof(float), c.stream,
         d, input(c, 0), (float*)c.out);
}

void batch_norm_finish(const BatchNorm& d, const Call& c) {
  require_float(c);
  launch(finish_kernel, grid_of(count_of(d.C)), dim3(BLOCK), 0, c.stream, d, input(c, 0), input(c, 1), (float*)c.out,
         (float*)c.more[0], (float*)c.more[1]);
}

void batch_norm_apply(const BatchNorm& d, const Call& c) {
  require_float(c);
  const uint32_t total = count_of(d.rows * d.C);
  launch(apply_kernel, grid_of(total), dim3(BLOCK), 0, c.stream, d, total, input(c, 0), input(c, 1), input(c, 2),
         input(c, 3), (float*)c.out);
}

void batch_norm_backward_stats(const BatchNorm& d, const Call& c) {
  require_float(c);
  launch(backward_stats_kernel, blocks_of(d.parts, d.C, COLUMNS), dim3(COLUMNS.tx, COLUMNS.ty), BLOCK * sizeof(float),
         c.stream, d, input(c, 0), input(c, 1), input(c, 2), (float*)c.out);
}

void batch_norm_backward_finish(const BatchNorm& d, const Call& c) {
  require_float(c);
  launch(backward_finish_kernel, grid_of(count_of(d.C)), dim3(BLOCK), 0, c.stream, d, input(c, 0), input(c, 1),
         input(c, 2), (float*)c.out, (float*)c.more[0], (float*)c.more[1]);
}

void batch_norm_backward_apply(const BatchNorm& d, const Call& c) {
  require_float(c);
  const uint32_t total = count_of(d.rows * d.C);
  launch(backward_apply_kernel, grid_of(total), dim3(BLOCK), 0, c.stream, d, total, input(c, 0), input(c, 1),
         input(c, 2), input(c, 3), (float*)c.out);
}

}  // namespace cuda
}  // namespace fastconv
