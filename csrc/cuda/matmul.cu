// y[b] = a[b] w[b], both computed at run time: rare in convolutional networks, so one plain kernel for all precisions.
// A block of 16 x 16 threads computes 64 x 64 elements, four by four a thread, the depth 16 at a time in shared memory;
// products and sums are in float.
#include "boxes.cuh"
#include "pack.cuh"

namespace fastconv {
namespace cuda {
namespace {

constexpr int SIDE = 64, DEPTH = 16, LD = SIDE + 4;

template <class T>
__global__ void __launch_bounds__(256) matmul_kernel(const __grid_constant__ MatMul d, const T* a, const T* b, T* y) {
  float (*sa)[LD] = (float (*)[LD])shared_bytes(), (*sb)[LD] = sa + DEPTH;  // [depth][row], [depth][column]
  const int tid = (int)threadIdx.x, ty = tid / 16, tx = tid % 16;
  const int64_t m0 = (int64_t)blockIdx.y * SIDE, n0 = (int64_t)blockIdx.x * SIDE;
  a += blockIdx.z * d.a_batch;
  b += blockIdx.z * d.b_batch;
  float sum[4][4] = {};
  for (int64_t k0 = 0; k0 < d.K; k0 += DEPTH) {
    for (int i = tid; i < SIDE * DEPTH; i += 256) {
      const int64_t m = m0 + i / DEPTH, k = k0 + i % DEPTH;
      sa[i % DEPTH][i / DEPTH] = m < d.M && k < d.K ? to_float(a[m * d.a_ld + k]) : 0.0f;
      const int64_t n = n0 + i % SIDE, kb = k0 + i / SIDE;
      sb[i / SIDE][i % SIDE] = n < d.N && kb < d.K ? to_float(b[kb * d.b_ld + n]) : 0.0f;
    }
    __syncthreads();
    FASTCONV_UNROLL
    for (int k = 0; k < DEPTH; k++) {
      FASTCONV_UNROLL
      for (int i = 0; i < 4; i++) FASTCONV_UNROLL
      for (int j = 0; j < 4; j++) sum[i][j] = fmaf(sa[k][ty + 16 * i], sb[k][tx + 16 * j], sum[i][j]);
    }
    __syncthreads();
  }
  FASTCONV_UNROLL
  for (int i = 0; i < 4; i++) FASTCONV_UNROLL
  for (int j = 0; j < 4; j++) {
    const int64_t m = m0 + ty + 16 * i, n = n0 + tx + 16 * j;
    if (m < d.M && n < d.N) y[blockIdx.z * d.y_batch + m * d.y_ld + n] = from_float<T>(sum[i][j]);
  }
}

}  // namespace

void matmul(const MatMul& d, const Call& c) {
  if (d.batch == 0 || d.M == 0 || d.N == 0) return;
  const int64_t rows = ceil_div(d.M, SIDE);
  if (rows > 65535 || d.batch > 65535) throw std::invalid_argument("matmul: too many rows for the GPU's kernel");
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    launch(matmul_kernel<T>, dim3(count_of(ceil_div(d.N, SIDE)), (unsigned)rows, (unsigned)d.batch), dim3(256),
           2 * DEPTH * LD * sizeof(float), c.stream, d, (const T*)c.in[0], (const T*)c.in[1], (T*)c.out);
  });
}

}  // namespace cuda
}  // namespace fastconv
