// Sizes and chunks of every operation but convolutions and dense layers (conv_checks.h has those). Descriptors may come
// from a file that nobody checked: `extent` trusts no field.
#pragma once
#include "ops.h"

namespace fastconv {

// How many elements each buffer must have: the largest index that the kernel touches, and one.
struct Extent {
  int64_t in[4];
  int64_t out;
  int64_t more[2];
  int optional_from = 4;  // inputs from this one on may be absent
};

// Throws std::invalid_argument where a field is out of range, an index could overflow, or two elements of the output
// would share an address. Does not look at `chunks`.
Extent extent(const MatMul& d);
Extent extent(const Pool2d& d);
Extent extent(const Unary& d);
Extent extent(const Binary& d);
Extent extent(const Affine& d);
Extent extent(const Reduce& d);
Extent extent(const Softmax& d);
Extent extent(const Lrn& d);
Extent extent(const Copy& d);
Extent extent(const Pad& d);
Extent extent(const Resample& d);
Extent extent(const AffineSample& d);
Extent extent(const Where& d);
Extent extent(const Normalize& d);
Extent extent(const TopK& d);
Extent extent(const Take& d);
Extent extent(const Suppress& d);

// Sets d.chunks from the shape alone: about 32 KB of data or a few microseconds each, 1 for a small operation. The
// kernels accept any number from 1 on. Call `extent` first.
void prepare(MatMul& d);
void prepare(Pool2d& d);
void prepare(Unary& d);
void prepare(Binary& d);
void prepare(Affine& d);
void prepare(Reduce& d);
void prepare(Softmax& d);
void prepare(Lrn& d);
void prepare(Copy& d);
void prepare(Pad& d);
void prepare(Resample& d);
void prepare(AffineSample& d);
void prepare(Where& d);
void prepare(Normalize& d);
void prepare(TopK& d);
void prepare(Take& d);
void prepare(Suppress& d);

// Throws std::invalid_argument unless the function is one of Func.
void check_activation(const Activation& act, const char* op);

}  // namespace fastconv
