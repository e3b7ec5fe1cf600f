// y[b,m,n] = sum a[b,m,k] w[b,k,n] for operands that are both computed at run time, so nothing is packed: a tile of
// ROWS x 2 vectors of y stays in registers while k runs; w is read in rows of two vectors, a by broadcasts.
// Chunks are ranges of blocks of 24 rows x 128 columns; each sum runs over k in order, whatever the block.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

enum { BLOCK_M = 24, BLOCK_N = 128 };

// MR rows by NV vectors; the last vector holds `width` columns where tail is set.
template <int MR, int NV, bool tail>
inline void tile(const MatMul& d, const float* a, const float* w, float* y, int width) {
  Vec total[MR][NV];
  for (int m = 0; m < MR; m++)
    for (int v = 0; v < NV; v++) total[m][v] = zero();
  for (int64_t k = 0; k < d.K; k++, w += d.b_ld) {
    Vec row[NV];
    for (int v = 0; v < NV; v++) row[v] = tail && v == NV - 1 ? load_n(w + v * Vec::N, width) : load(w + v * Vec::N);
    for (int m = 0; m < MR; m++) {
      const Vec x = set1(a[m * d.a_ld + k]);
      for (int v = 0; v < NV; v++) total[m][v] = fma(x, row[v], total[m][v]);
    }
  }
  for (int m = 0; m < MR; m++)
    for (int v = 0; v < NV; v++) {
      float* p = y + m * d.y_ld + v * Vec::N;
      if (tail && v == NV - 1)
        store_n(p, total[m][v], width);
      else
        store(p, total[m][v]);
    }
}

template <int MR>
void rows(const MatMul& d, const float* a, const float* w, float* y, int64_t n) {
  int64_t j = 0;
  for (; j + 2 * Vec::N <= n; j += 2 * Vec::N) tile<MR, 2, false>(d, a, w + j, y + j, 0);
  if (j + Vec::N < n)
    tile<MR, 2, true>(d, a, w + j, y + j, (int)(n - j - Vec::N));
  else if (j < n)
    tile<MR, 1, true>(d, a, w + j, y + j, (int)(n - j));
}

}  // namespace

void matmul(const MatMul& d, const Buffers& b, int64_t begin, int64_t end) {
  constexpr int MR = ROWS[2];
  const int64_t blocks_m = (d.M + BLOCK_M - 1) / BLOCK_M, blocks_n = (d.N + BLOCK_N - 1) / BLOCK_N;
  const int64_t items = d.batch * blocks_m * blocks_n;
  const int64_t first = chunk_begin(items, d.chunks, begin), last = chunk_begin(items, d.chunks, end);
  for (int64_t i = first; i < last; i++) {
    const int64_t image = i / (blocks_m * blocks_n), block = i % (blocks_m * blocks_n);
    const int64_t m0 = block / blocks_n * BLOCK_M, n0 = block % blocks_n * BLOCK_N;
    const int64_t stop = min_i(d.M, m0 + BLOCK_M), n = min_i(BLOCK_N, d.N - n0);
    const float *a = b.in[0] + image * d.a_batch, *w = b.in[1] + image * d.b_batch + n0;
    float* y = b.out + image * d.y_batch + n0;
    int64_t m = m0;
    for (; m + MR <= stop; m += MR) rows<MR>(d, a + m * d.a_ld, w, y + m * d.y_ld, n);
    if (m + MR / 2 <= stop) {
      rows<MR / 2>(d, a + m * d.a_ld, w, y + m * d.y_ld, n);
      m += MR / 2;
    }
    for (; m + 2 <= stop; m += 2) rows<2>(d, a + m * d.a_ld, w, y + m * d.y_ld, n);
    if (m < stop) rows<1>(d, a + m * d.a_ld, w, y + m * d.y_ld, n);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
