// Backward passes of softmax over j of [o, j, i]:   softmax: dx = y (g - sum g y)   log: dx = g - exp(y) sum g
// and cross-entropy on logits, a block for each row m:
//   loss[m] = (sum of t) log(sum of exp(x - max)) - sum of t (x - max),   dx = g[m] ((sum of t) softmax(x) - t)
// with t = (1 - smoothing) target + smoothing / K. Float storage only.
#include "rows.cuh"
#include "training.cuh"

namespace fastconv {
namespace cuda {
namespace {

__global__ void softmax_backward_kernel(const __grid_constant__ SoftmaxBackward d, const float* g, const float* y,
                                        float* dx) {
  const Place p = place_of(d.inner);
  const float *pg = g + p.o * d.g_outer + p.i, *py = y + p.o * d.y_outer + p.i;
  float total = 0.0f;
  if (p.live)
    for (int64_t j = threadIdx.y; j < d.n; j += blockDim.y)
      total = d.log ? total + pg[j * d.g_n] : fmaf(pg[j * d.g_n], py[j * d.y_n], total);
  total = join_rows<Sum>(total);
  if (!p.live) return;
  float* to = dx + p.o * d.x_outer + p.i;
  for (int64_t j = threadIdx.y; j < d.n; j += blockDim.y) {
    const float gj = pg[j * d.g_n], yj = py[j * d.y_n];
    to[j * d.x_n] = d.log ? gj - expf(yj) * total : yj * (gj - total);
  }
}

// Target t of each class of a row.
struct Target {
  const float* values;  // or null
  int64_t hot;          // the class of a one-hot target
  float keep, share;    // 1 - smoothing, smoothing / K

  __device__ Target(const SoftmaxCrossEntropy& d, const float* targets, int64_t m)
      : values(nullptr), hot(-1), keep(1.0f - d.smoothing), share(d.smoothing / (float)d.K) {
    if (d.one_hot) {
      const float c = targets[m];
      hot = c >= (float)(d.K - 1) ? d.K - 1 : c > 0.0f ? (int64_t)c : 0;
    } else {
      values = targets + m * d.t_ld;
    }
  }
  __device__ float at(int64_t k) const { return share + (values ? keep * values[k] : k == hot ? keep : 0.0f); }
};

__global__ void cross_entropy_kernel(const __grid_constant__ SoftmaxCrossEntropy d, const float* x, const float* target,
                                     float* loss) {
  const float* row = x + blockIdx.x * d.x_ld;
  const Target t(d, target, blockIdx.x);
  float top = -infinity();
  for (int64_t k = threadIdx.y; k < d.K; k += blockDim.y) top = Largest::join(top, row[k]);
  top = join_rows<Largest>(top);
  float total = 0.0f, sum_t = 0.0f, sum_tx = 0.0f;
  for (int64_t k = threadIdx.y; k < d.K; k += blockDim.y) {
    const float e = row[k] - top, tk = t.at(k);
    total += expf(e);
    sum_t += tk;
    if (tk != 0) sum_tx = fmaf(tk, e, sum_tx);  // 0 times -inf is 0
  }
  total = join_rows<Sum>(total);
  sum_t = join_rows<Sum>(sum_t);
  sum_tx = join_rows<Sum>(sum_tx);
  if (threadIdx.y == 0) loss[blockIdx.x] = sum_t * logf(total) - sum_tx;
}

__global__ void cross_entropy_backward_kernel(const __grid_constant__ SoftmaxCrossEntropy d, const float* g,
                                              const float* x, const float* target, float* dx) {
  const float *row = x + blockIdx.x * d.x_ld, gm = g[blockIdx.x];
  const Target t(d, target, blockIdx.x);
  float top = -infinity();
  for (int64_t k = threadIdx.y; k < d.K; k += blockDim.y) top = Largest::join(top, row[k]);
  top = join_rows<Largest>(top);
  float total = 0.0f, sum_t = 0.0f;
  for (int64_t k = threadIdx.y; k < d.K; k += blockDim.y) {
    total += expf(row[k] - top);
    sum_t += t.at(k);
  }
  total = join_rows<Sum>(total);
  const float factor = join_rows<Sum>(sum_t) / total;
  for (int64_t k = threadIdx.y; k < d.K; k += blockDim.y)
    dx[blockIdx.x * d.dx_ld + k] = gm * fmaf(factor, expf(row[k] - top), -t.at(k));
}

}  // namespace

void softmax_backward(const SoftmaxBackward& d, const Call& c) {
  require_float(c);
  if (d.outer == 0 || d.inner == 0 || d.n == 0) return;
  const Shape s = shape_of(d.inner);
  launch(softmax_backward_kernel, blocks_of(d.outer, d.inner, s), dim3(s.tx, s.ty), BLOCK * sizeof(float), c.stream, d,
         (const float*)c.in[0], (const float*)c.in[1], (float*)c.out);
}

void softmax_cross_entropy(const SoftmaxCrossEntropy& d, const Call& c) {
  require_float(c);
  launch(cross_entropy_kernel, dim3(count_of(d.M)), dim3(1, BLOCK), BLOCK * sizeof(float), c.stream, d,
         (const float*)c.in[0], (const float*)c.in[1], (float*)c.out);
}

void softmax_cross_entropy_backward(const SoftmaxCrossEntropy& d, const Call& c) {
  require_float(c);
  launch(cross_entropy_backward_kernel, dim3(count_of(d.M)), dim3(1, BLOCK), BLOCK * sizeof(float), c.stream, d,
         (const float*)c.in[0], (const float*)c.in[1], (const float*)c.in[2], (float*)c.out);
}

}  // namespace cuda
}  // namespace fastconv
