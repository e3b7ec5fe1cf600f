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
//     in a product, so that one call goes through all of them, and through all lines of an image where they are cut
//     into blocks of one size. Not where many short lines would make more blocks, but for stems that fill a tile with
//     a line: LeNet-5's 14 and 10 pixels.
class RowCut {
 public:
  // tail: lanes in use in the last of nv vectors
  RowCut(const Conv2d& d, int nv, int tail, int64_t begin, int64_t end) : d_(d), nv_(nv), end_(end) {
    const bool gemm = d.algorithm == ConvAlgorithm::gemm, runs = d.algorithm == ConvAlgorithm::row_run;
    const int64_t rows = end - begin;
    pairs_ = gemm && !cuts_depth(d) && half_rows(nv) && 2 * tail <= Vec::N && rows % 2 == 0;
    lags_ = d.R * d.S == 1 && !cuts_depth(d) && tail == Vec::N && d.C / d.groups <= LAGGING_DEPTH && lagging_rows(nv);
    const RowBlocks line = blocks_of(d.Q);
    const int64_t head = min_i(rows, (d.Q - begin % d.Q) % d.Q), rest = rows - head;
    const int64_t through = blocks_of(rows).count;
    const int64_t by_line = blocks_of(head).count + rest / d.Q * line.count + blocks_of(rest % d.Q).count;
    const bool points = strided_points(d) && 10 * by_line <= 11 * through;
    by_run = runs || points;
    lines_ = runs ? d.Q >= 4 * ROWS[nv] || (d.Q <= ROWS[nv] && d.Q * nv >= 8) : points;
    per_line = lines_ && line.more == 0 ? line.count : 0;
    even = gemm || lines_;
    count = lines_ ? by_line : through;
  }

  int64_t count;     // blocks of all rows, or about as many
  int64_t per_line;  // blocks of each whole line, if these are cut the same
  bool even;         // whether blocks of the same size, one after the other, lie evenly in x, or lines of them
  bool by_run;       // whether the rows are runs of memory (gather_runs)

  // Row `from` begins a piece: rows that are cut on their own. Its end.
  int64_t piece_end(int64_t from) const {
    if (!lines_) return end_;
    const int64_t to = min_i(end_, (from / d_.Q + 1) * d_.Q);
    if (!per_line || from % d_.Q != 0 || to - from != d_.Q) return to;
    return to + min_i((end_ - to) / d_.Q, d_.P - 1 - from / d_.Q % d_.P) * d_.Q;
  }
  RowBlocks piece(int64_t rows) const { return per_line ? RowBlocks(rows, d_.Q / per_line, 1) : blocks_of(rows); }
  // Whether each block begins at a pixel that must be found anew.
  bool seeks() const { return lines_; }
  // Floats in x from a block of so many rows to the next, and beyond that to the next line's first.
  int64_t step(int64_t rows) const { return rows * (lines_ ? d_.stride_w : 1) * d_.x_ld; }
  int64_t line_step() const { return d_.stride_h * d_.x_row - d_.Q * d_.stride_w * d_.x_ld; }
  TileFunction tile(int64_t rows) const {
    if (pairs_) return find_half_tile(nv_, rows);
    const TileFunction lagging = lags_ ? find_lagging_tile(nv_, rows) : nullptr;
    return lagging ? lagging : find_tile(nv_, rows);
  }

 private:
  RowBlocks blocks_of(int64_t rows) const {
    return pairs_  ? RowBlocks(rows, half_rows(nv_), 2)
           : lags_ ? RowBlocks(rows, lagging_rows(nv_), 1)
                   : RowBlocks(rows, nv_);
  }

  const Conv2d& d_;
  int nv_;
  int64_t end_;
  bool pairs_, lags_, lines_;
};

}  // namespace FASTCONV_ISA
}  // namespace fastconv
