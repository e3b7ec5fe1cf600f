// Plain weights into the order in which the products read them, at run time, as fastconv/cuda/weights.py packs
// constants: rows of a column k hold [tap][c] and zeros up to 16 bytes; depthwise filters [tap][k]. A block turns 32
// columns by 32 elements of depth round in shared memory, so that both sides go by whole lines where the plain side
// allows it. tf32 is rounded here: the products round only x. Float storage only.
#include "ptx.cuh"
#include "training.cuh"

namespace fastconv {
namespace cuda {
namespace {

constexpr int SIDE = 32, ROWS = 8, WIDTH_FLOATS = 4;

struct PackArguments {
  int64_t w_k, w_c, w_tap, w_group, out_ld;
  int K, columns, depth, C, taps;  // K: all; columns, C: of one group; depth = taps * C
  bool flip, depthwise, round, along_k;
};

__device__ inline float plain(const PackArguments& d, const float* w, int k, int e) {
  const int group = k / d.columns, column = k - group * d.columns, tap = e / d.C, c = e - tap * d.C;
  const int from = d.flip ? d.taps - 1 - tap : tap;
  const float v = w[group * d.w_group + column * d.w_k + c * d.w_c + from * d.w_tap];
  return d.round ? as_float(round_tf32(as_bits(v))) : v;
}

__global__ void pack_kernel(const __grid_constant__ PackArguments d, const float* w, float* out) {
  float (*tile)[SIDE + 1] = (float (*)[SIDE + 1]) shared_bytes();  // [column][depth]
  const int tx = (int)threadIdx.x, k0 = (int)blockIdx.y * SIDE, e0 = (int)blockIdx.x * SIDE;
  for (int i = (int)threadIdx.y; i < SIDE; i += ROWS) {
    const int column = d.along_k ? tx : i, element = d.along_k ? i : tx, k = k0 + column, e = e0 + element;
    tile[column][element] = k < d.K && e < d.depth ? plain(d, w, k, e) : 0.0f;
  }
  __syncthreads();
  for (int i = (int)threadIdx.y; i < SIDE; i += ROWS) {
    if (d.depthwise) {
      if (k0 + tx < d.K && e0 + i < d.depth) out[(int64_t)(e0 + i) * d.K + k0 + tx] = tile[tx][i];
    } else if (k0 + i < d.K && e0 + tx < d.out_ld) {
      out[(k0 + i) * d.out_ld + e0 + tx] = tile[i][tx];
    }
  }
}

int64_t row_of(const PackWeights& d) {
  const int64_t depth = d.C / d.groups * d.taps;
  return d.layout == PanelLayout::depthwise ? depth : ceil_div(depth, WIDTH_FLOATS) * WIDTH_FLOATS;
}

}  // namespace

int64_t own_size(const PackWeights& d, Precision, int) { return d.K * row_of(d); }

void pack_weights(const PackWeights& d, const Call& c) {
  require_float(c);
  PackArguments a{};
  a.w_k = d.w_k, a.w_c = d.w_c, a.w_tap = d.w_tap, a.w_group = d.w_group, a.out_ld = row_of(d);
  a.K = (int)count_of(d.K), a.columns = (int)(d.K / d.groups), a.C = (int)count_of(d.C / d.groups);
  a.taps = (int)count_of(d.taps), a.depth = (int)count_of(d.C / d.groups * d.taps), a.flip = d.flip != 0;
  a.depthwise = d.layout == PanelLayout::depthwise, a.along_k = d.w_k == 1;
  a.round = c.precision == Precision::tf32 && !a.depthwise;
  const int64_t rows = ceil_div(d.K, SIDE);
  if (rows > 65535) throw std::invalid_argument("pack_weights: too many columns for the GPU's kernel");
  launch(pack_kernel, dim3((unsigned)ceil_div(a.out_ld, SIDE), (unsigned)rows), dim3(SIDE, ROWS),
         SIDE * (SIDE + 1) * sizeof(float), c.stream, a, (const float*)c.in[0], (float*)c.out);
}

}  // namespace cuda
}  // namespace fastconv
