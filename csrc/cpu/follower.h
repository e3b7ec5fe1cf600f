// Activations that follow the tiles of a panel.
#pragma once
#include "cpu/kernels.h"

namespace fastconv {
namespace FASTCONV_ISA {

// An activation that is a function follows the rows of a panel some floats behind: they are in L1 or L2 still, and a
// call for each tile's few vectors takes as long as the vectors do.
class Follower {
 public:
  static constexpr int64_t FLOATS = 1536;
  // y: of the first row
  Follower(const Activation& act, float* y, int64_t y_ld, int64_t columns)
      : act_(act), y_(y), y_ld_(y_ld), columns_(columns) {}

  // The first `rows` rows are written; all: no more follow.
  void follow(int64_t rows, bool all) {
    if (clips(act_) || ((rows - done_) * columns_ < FLOATS && !all)) return;
    activate_rows(act_, y_ + done_ * y_ld_, y_ld_, rows - done_, columns_);
    done_ = rows;
  }

 private:
  const Activation& act_;
  float* y_;
  int64_t y_ld_, columns_, done_ = 0;
};

}  // namespace FASTCONV_ISA
}  // namespace fastconv
