// How the rows of a convolution that one panel computes are cut into blocks of a tile's rows.
#pragma once
#include "cpu/half_tile.h"
#include "cpu/lagging_tile.h"

namespace fastconv {
namespace FASTCONV_ISA {

// 1x1 with a stride and without padding: each pixel is a run of its own.
static inline bool strided_points(const Conv2d& d) {
  return d.algorithm == ConvAlgorithm::implicit && d.R * d.S == 1 && d.pad_t == 0 && d.pad_l == 0 &&
         (d.P - 1) * d.stride_h < d.H && (d.Q - 1) * d.stride_w < d.W;
}

// Rows are cut one after the other, wherever their lines end; those of a product in pairs where two rows share the last
// vector (cpu/half_tile.h).
class RowCut {
 public:
  // tail: lanes in use in the last of nv vectors
  RowCut(const Conv2d& d, int nv, int tail, int64_t rows) : nv_(nv) {
    const bool gemm = d.algorithm == ConvAlgorithm::gemm;
    pairs_ = gemm && !cuts_depth(d) && half_rows(nv) && 2 * tail <= Vec::N && rows % 2 == 0;
    lags_ = gemm && lagging_rows(nv) && !cuts_depth(d) && tail == Vec::N && clips(d.act) &&
            d.C / d.groups <= LAGGING_DEPTH && 4 * d.N * d.x_image <= LAGGING_BYTES;
    by_run = d.algorithm == ConvAlgorithm::row_run || strided_points(d);
    several = gemm || by_run;
  }

  bool several;  // whether one call may go through several blocks
  bool by_run;   // whether the rows are runs of memory (gather_runs)

  TileFunction tile(int64_t rows) const {
    if (pairs_) return find_half_tile(nv_, rows);
    const TileFunction lagging = lags_ ? find_lagging_tile(nv_, rows) : nullptr;
    return lagging ? lagging : find_tile(nv_, rows);
  }

  RowBlocks blocks_of(int64_t rows) const {
    return pairs_  ? RowBlocks(rows, half_rows(nv_), 2)
           : lags_ ? RowBlocks(rows, lagging_rows(nv_), 1)
                   : RowBlocks(rows, nv_);
  }

 private:
  int nv_;
  bool pairs_, lags_;
};

}  // namespace FASTCONV_ISA
}  // namespace fastconv
