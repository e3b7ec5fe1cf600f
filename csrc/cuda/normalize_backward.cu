// Backward passes of normalisations within a sample, by the formulas of cpu/norm_backward.cpp. Float storage only.
//   layers, groups  a block for each group of each sample leaves the group's mean and 1 / sqrt(variance + epsilon) in
//   the
//                   workspace; a second launch sums dscale and dshift over parts of the samples, a third writes dx.
//   lrn             a thread for each element: the squares around it come from L1.
#include "rows.cuh"
#include "training.cuh"

namespace fastconv {
namespace cuda {
namespace {

struct Group {
  int64_t o, g, c0;
  uint32_t count, width;
};
__device__ inline Group group_of(const NormalizeBackward& d) {
  Group p;
  p.o = blockIdx.x / (unsigned)d.groups, p.g = blockIdx.x % (unsigned)d.groups, p.c0 = p.g * d.width;
  p.count = (uint32_t)(d.rows * d.width), p.width = (uint32_t)d.width;
  return p;
}

// statistics: [outer * groups][2], mean and 1 / sqrt(variance + epsilon)
__global__ void group_stats_kernel(const __grid_constant__ NormalizeBackward d, const float* x, float* statistics) {
  const Group p = group_of(d);
  const float* from = x + p.o * d.x_outer + p.c0;
  float sum = 0.0f, squares = 0.0f;
  for (uint32_t i = threadIdx.y; i < p.count; i += blockDim.y) sum += from[i / p.width * d.x_row + i % p.width];
  const float mean = join_rows<Sum>(sum) / (float)p.count;
  for (uint32_t i = threadIdx.y; i < p.count; i += blockDim.y) {
    const float e = from[i / p.width * d.x_row + i % p.width] - mean;
    squares = fmaf(e, e, squares);
  }
  squares = join_rows<Sum>(squares);
  if (threadIdx.y != 0) return;
  statistics[2 * blockIdx.x] = mean;
  statistics[2 * blockIdx.x + 1] = 1.0f / sqrtf(squares / (float)p.count + d.epsilon);
}

// sums: [parts][2][channels]
__global__ void group_sums_kernel(const __grid_constant__ NormalizeBackward d, const float* g, const float* x,
                                  const float* statistics, float* sums) {
  const int64_t channels = d.groups * d.width;
  const Place p = place_of(channels);
  float scale = 0.0f, shift = 0.0f;
  if (p.live) {
    const int64_t first = part_begin(d.outer, d.chunks, p.o) * d.rows;
    const int64_t last = part_begin(d.outer, d.chunks, p.o + 1) * d.rows;
    for (int64_t i = first + threadIdx.y; i < last; i += blockDim.y) {
      const int64_t o = i / d.rows, r = i - o * d.rows;
      const float* s = statistics + 2 * (o * d.groups + p.i / d.width);
      const float v = g[o * d.g_outer + r * d.g_row + p.i];
      scale = fmaf(v, (x[o * d.x_outer + r * d.x_row + p.i] - s[0]) * s[1], scale);
      shift += v;
    }
  }
  scale = join_rows<Sum>(scale);
  shift = join_rows<Sum>(shift);
  if (!p.live || threadIdx.y != 0) return;
  sums[p.o * 2 * channels + p.i] = scale;
  sums[p.o * 2 * channels + channels + p.i] = shift;
}

__global__ void group_dx_kernel(const __grid_constant__ NormalizeBackward d, const float* g, const float* x,
                                const float* scale, const float* statistics, float* dx) {
  const Group p = group_of(d);
  const float *pg = g + p.o * d.g_outer + p.c0, *px = x + p.o * d.x_outer + p.c0;
  float* to = dx + p.o * d.dx_outer + p.c0;
  const float mean = statistics[2 * blockIdx.x], inverse = statistics[2 * blockIdx.x + 1];
  float h_sum = 0.0f, hx_sum = 0.0f;
  for (uint32_t i = threadIdx.y; i < p.count; i += blockDim.y) {
    const uint32_t r = i / p.width, c = i % p.width;
    const float h = pg[r * d.g_row + c] * (scale ? scale[p.c0 + c] : 1.0f);
    h_sum += h;
    hx_sum = fmaf(h, px[r * d.x_row + c] - mean, hx_sum);
  }
  const float h_mean = join_rows<Sum>(h_sum) / (float)p.count;
  const float slope = join_rows<Sum>(hx_sum) / (float)p.count * inverse * inverse;
  for (uint32_t i = threadIdx.y; i < p.count; i += blockDim.y) {
    const uint32_t r = i / p.width, c = i % p.width;
    const float h = pg[r * d.g_row + c] * (scale ? scale[p.c0 + c] : 1.0f);
    to[r * d.dx_row + c] = inverse * (h - h_mean - (px[r * d.x_row + c] - mean) * slope);
  }
}

__device__ inline float power_of(float base, float beta) {
  if (beta == 0.75f) return sqrtf(base) * sqrtf(sqrtf(base));
  return beta == 0.5f ? sqrtf(base) : beta == 1.0f ? base : powf(base, beta);
}

__device__ inline float lrn_divisor(const LrnBackward& d, const float* x, int64_t c) {
  const int64_t end = min_i(d.C, c + d.size / 2 + 1);
  float sum = 0.0f;
  for (int64_t k = max_i(0, c - (d.size - 1) / 2); k < end; k++) sum = fmaf(x[k], x[k], sum);
  return fmaf(d.alpha / (float)d.size, sum, d.bias);
}

__global__ void lrn_backward_kernel(const __grid_constant__ LrnBackward d, uint32_t total, const float* g,
                                    const float* x, const float* y, float* dx) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t row = i / (uint32_t)d.C;
  const int64_t c = i - row * (uint32_t)d.C;
  const float *pg = g + row * d.g_ld, *px = x + row * d.x_ld, *py = y + row * d.y_ld;
  // the channels whose neighbourhood has this one
  const int64_t end = min_i(d.C, c + (d.size - 1) / 2 + 1);
  float sum = 0.0f;
  for (int64_t k = max_i(0, c - d.size / 2); k < end; k++) sum += pg[k] * py[k] / lrn_divisor(d, px, k);
  const float slope = 2.0f * d.alpha * d.beta / (float)d.size;
  dx[row * d.dx_ld + c] = pg[c] / power_of(lrn_divisor(d, px, c), d.beta) - slope * px[c] * sum;
}

}  // namespace

int64_t workspace_floats(const NormalizeBackward& d, const Machine&) { return 2 * d.outer * d.groups; }

void normalize_backward(const NormalizeBackward& d, const Call& c) {
  require_float(c);
  const int64_t channels = d.groups * d.width;
  if (channels == 0) return;
  count_of(d.rows * d.width);
  const float *g = (const float*)c.in[0], *x = (const float*)c.in[1];
  const dim3 groups(count_of(d.rows == 0 ? 0 : d.outer * d.groups)), block(1, BLOCK);
  const size_t shared = BLOCK * sizeof(float);
  launch(group_stats_kernel, groups, block, shared, c.stream, d, x, c.workspace);
  const Shape s{32, 8};
  launch(group_sums_kernel, blocks_of(d.chunks, channels, s), dim3(s.tx, s.ty), shared, c.stream, d, g, x, c.workspace,
         (float*)c.more[0]);
  launch(group_dx_kernel, groups, block, shared, c.stream, d, g, x, (const float*)c.in[2], c.workspace, (float*)c.out);
}

void lrn_backward(const LrnBackward& d, const Call& c) {
  require_float(c);
  const uint32_t total = count_of(d.rows * d.C);
  launch(lrn_backward_kernel, grid_of(total), dim3(BLOCK), 0, c.stream, d, total, (const float*)c.in[0],
         (const float*)c.in[1], (const float*)c.in[2], (float*)c.out);
}

}  // namespace cuda
}  // namespace fastconv
