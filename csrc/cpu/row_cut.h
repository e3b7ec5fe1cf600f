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

// Rows are cut one after the other, wherever their lines end; but
//   - those of a product in pairs where two rows share the last vector (cpu/half_tile.h),
//   - a stem's and those of a strided 1x1 line by line: within a line each block lies as far behind the one before, as
//     in a product, so that one call goes through all blocks of one size, of all lines of an image. Of a stem lines of
//     four tiles and more, and those that are a block each and hide the FMAs' latency (LeNet-5's 14 and 10 pixels); of
//     a 1x1 where that makes up to a tenth more blocks.
class RowCut {
 public:
  // tail: lanes in use in the last of nv vectors
  RowCut(const Conv2d& d, int nv, int tail, int64_t begin, int64_t end) : d_(d), nv_(nv), end_(end) {
    const bool gemm = d.algorithm == ConvAlgorithm::gemm, runs = d.algorithm == ConvAlgorithm::row_run;
    const int64_t rows = end - begin;
    pairs_ = gemm && !cuts_depth(d) && half_rows(nv) && 2 * tail <= Vec::N && rows % 2 == 0;
    const bool in_place = d.act.func == Func::clip || d.act.func == Func::identity;
    lags_ = lagging_rows(nv) && d.R * d.S == 1 && !cuts_depth(d) && tail == Vec::N && in_place &&
            d.C / d.groups <= LAGGING_DEPTH && 4 * d.N * d.x_image <= LAGGING_BYTES;
    const RowBlocks line = blocks_of(d.Q);
    const int64_t head = min_i(rows, (d.Q - begin % d.Q) % d.Q), rest = rows - head;
    const int64_t through = blocks_of(rows).count;
    const int64_t by_line = blocks_of(head).count + rest / d.Q * line.count + blocks_of(rest % d.Q).count;
    const bool points = strided_points(d) && 10 * by_line <= 11 * through;
    by_run = runs || points;
    lines = runs ? d.Q >= 4 * ROWS[nv] || (d.Q <= ROWS[nv] && d.Q * nv >= 8) : points;
    even = gemm || lines;
    count = lines ? by_line : through;
  }

  int64_t count;  // blocks of all rows, or about as many
  bool even;      // whether blocks of one size, in a line and from line to line, lie evenly in x
  bool by_run;    // whether the rows are runs of memory (gather_runs)
  bool lines;     // whether rows are cut line by line

  // Row `from` begins a piece, rows that are cut on their own: a line or a part of it, and so many others like it.
  struct Piece {
    int64_t rows, lines;
  };
  Piece piece(int64_t from) const {
    if (!lines) return {end_ - from, 1};
    const int64_t rows = min_i(end_ - from, d_.Q - from % d_.Q);
    return {rows, rows < d_.Q ? 1 : min_i((end_ - from) / d_.Q, d_.P - from / d_.Q % d_.P)};
  }
  // Floats in x from a block of so many rows to the next.
  int64_t step(int64_t rows) const { return rows * (lines ? d_.stride_w : 1) * d_.x_ld; }
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
  const Conv2d& d_;
  int nv_;
  int64_t end_;
  bool pairs_, lags_;
};

}  // namespace FASTCONV_ISA
}  // namespace fastconv
