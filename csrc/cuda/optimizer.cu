// Steps of optimizers, moving averages, squared norms and dropout: element by element, in place where the plan says so,
// each by the formula of cpu/optimizer.cpp. Float storage only.
#include "rows.cuh"
#include "training.cuh"

namespace fastconv {
namespace cuda {
namespace {

// One step of a rule on element i: the decay first, then the rule with the clipped gradient and its slots, n apart.
template <class Rule>
__global__ void update_kernel(Rule rule, int64_t n, const float* g, const float* hyper, const float* factor, float* w,
                              float* slots) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float s[3] = {}, v = w[i];
  FASTCONV_UNROLL
  for (int k = 0; k < 3; k++)
    if (k < rule.slots) s[k] = slots[k * n + i];
  if (rule.decays) v -= v * hyper[Rule::DECAY];
  v = rule.step(v, factor ? g[i] * factor[0] : g[i], hyper, s);
  FASTCONV_UNROLL
  for (int k = 0; k < 3; k++)
    if (k < rule.slots) slots[k * n + i] = s[k];
  w[i] = v;
}

struct Sgd {  // hyper: rate, momentum, nesterov, decay
  static constexpr int DECAY = 3;
  int slots;
  bool decays;
  __device__ float step(float w, float g, const float* h, float (&s)[3]) const {
    const float move = h[0] * g;
    if (slots == 0) return w - move;
    s[0] = h[1] * s[0] - move;
    return w + (h[2] != 0 ? h[1] * s[0] - move : s[0]);
  }
};

struct Adam {  // hyper: rate, 1 - beta1, 1 - beta2, epsilon, decay
  static constexpr int DECAY = 4;
  int slots;
  bool decays;
  __device__ float step(float w, float g, const float* h, float (&s)[3]) const {
    s[0] = fmaf(g - s[0], h[1], s[0]);
    s[1] = fmaf(g * g - s[1], h[2], s[1]);
    return w - h[0] * s[0] / (sqrtf(s[1]) + h[3]);
  }
};

struct RmsProp {  // hyper: rate, 1 - rho, epsilon, momentum, decay
  static constexpr int DECAY = 4;
  int slots;
  bool decays, momentum, centered;
  __device__ float step(float w, float g, const float* h, float (&s)[3]) const {
    s[0] = fmaf(g * g - s[0], h[1], s[0]);
    float spread = s[0];
    if (centered) {
      float mean = momentum ? s[2] : s[1];
      mean = fmaf(g - mean, h[1], mean);
      spread -= mean * mean;
      momentum ? s[2] = mean : s[1] = mean;
    }
    float move = h[0] * g / sqrtf(spread + h[2]);
    if (momentum) move = s[1] = fmaf(h[3], s[1], move);
    return w - move;
  }
};

dim3 blocks(int64_t n) { return dim3((unsigned)ceil_div(n, BLOCK)); }

template <class Rule>
void update(const Rule& rule, const Optimizer& d, const Call& c) {
  require_float(c);
  launch(update_kernel<Rule>, blocks(d.n), dim3(BLOCK), 0, c.stream, rule, d.n, (const float*)c.in[0],
         (const float*)c.in[1], (const float*)c.in[2], (float*)c.out, (float*)c.more[0]);
}

__global__ void moving_average_kernel(int64_t n, float keep, float share, const float* x, float* state) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) state[i] = fmaf(x[i], share, keep * state[i]);
}

// A block for each part.
__global__ void squared_norm_kernel(int64_t n, const float* x, float* sums) {
  const int64_t last = part_begin(n, gridDim.x, blockIdx.x + 1);
  float total = 0.0f;
  for (int64_t i = part_begin(n, gridDim.x, blockIdx.x) + threadIdx.y; i < last; i += blockDim.y)
    total = fmaf(x[i], x[i], total);
  total = join_rows<Sum>(total);
  if (threadIdx.y == 0) sums[blockIdx.x] = total;
}

// The hash of cpu/optimizer.cpp: the same seed drops the same elements on every device.
__device__ inline bool kept(uint32_t seed, uint64_t element, uint32_t limit) {
  const uint32_t start = (seed + 1u) * 0x9e3779b9u ^ (uint32_t)(element >> 32) * 0x85ebca6bu;
  uint32_t h = (uint32_t)element ^ start;
  h = (h ^ h >> 16) * 0x7feb352du;
  h = (h ^ h >> 15) * 0x846ca68bu;
  h = ((h ^ h >> 16) + start) * 0x9e3779b1u;
  h ^= h >> 15;
  return (h >> 8) >= limit;
}

__global__ void dropout_kernel(const __grid_constant__ Dropout d, uint32_t limit, float factor, const float* x,
                               const float* seed, float* y) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= d.rows * d.n) return;
  const int64_t r = i / d.n, c = i - r * d.n;
  const bool keep = kept((uint32_t)(int64_t)seed[0], (uint64_t)i, limit);
  y[r * d.y_ld + c] = x[r * d.x_ld + c] * (keep ? factor : 0.0f);
}

}  // namespace

void sgd(const Optimizer& d, const Call& c) { update(Sgd{(int)d.momentum, d.decays != 0}, d, c); }
void adam(const Optimizer& d, const Call& c) { update(Adam{2, d.decays != 0}, d, c); }
void rmsprop(const Optimizer& d, const Call& c) {
  const bool momentum = d.momentum != 0, centered = d.centered != 0;
  update(RmsProp{1 + momentum + centered, d.decays != 0, momentum, centered}, d, c);
}

void moving_average(const MovingAverage& d, const Call& c) {
  require_float(c);
  launch(moving_average_kernel, blocks(d.n), dim3(BLOCK), 0, c.stream, d.n, d.momentum,
         (float)(1.0 - (double)d.momentum), (const float*)c.in[0], (float*)c.out);
}

void squared_norm(const SquaredNorm& d, const Call& c) {
  require_float(c);
  launch(squared_norm_kernel, dim3((unsigned)d.chunks), dim3(1, BLOCK), BLOCK * sizeof(float), c.stream, d.n,
         (const float*)c.in[0], (float*)c.out);
}

void dropout(const Dropout& d, const Call& c) {
  require_float(c);
  const uint32_t limit = (uint32_t)((double)d.rate * 16777216.0 + 0.5);
  const float factor = (float)(1.0 / (1.0 - (double)d.rate));
  launch(dropout_kernel, blocks(d.rows * d.n), dim3(BLOCK), 0, c.stream, d, limit, factor, (const float*)c.in[0],
         (const float*)c.in[1], (float*)c.out);
}

}  // namespace cuda
}  // namespace fastconv
