// Chunks, scratch and buffer sizes of training_ops.h's operations; checks.h says what each function does.
#pragma once
#include "checks.h"

namespace fastconv {

Extent extent(const UnaryBackward& d);
Extent extent(const SoftmaxBackward& d);
Extent extent(const SoftmaxCrossEntropy& d, Op op);
Extent extent(const Conv2dBackwardWeight& d, Isa isa, Op op);
Extent extent(const Conv2dBackwardInput& d, Isa isa, Op op);
Extent extent(const PackWeights& d, Isa isa, Op op);
Extent extent(const Pool2dBackward& d, Op op);
Extent extent(const BatchNorm& d, Op op);
Extent extent(const NormalizeBackward& d);
Extent extent(const LrnBackward& d);
Extent extent(const Dropout& d);
Extent extent(const Optimizer& d, Op op);
Extent extent(const MovingAverage& d);
Extent extent(const SquaredNorm& d);

void prepare(UnaryBackward& d);
void prepare(SoftmaxBackward& d);
void prepare(SoftmaxCrossEntropy& d);
void prepare(Conv2dBackwardWeight& d, Isa isa, Op op);
void prepare(Conv2dBackwardInput& d, Isa isa, Op op);
void prepare(PackWeights& d, Isa isa, Op op);
void prepare(Pool2dBackward& d);
void prepare(BatchNorm& d, Op op);
void prepare(NormalizeBackward& d);
void prepare(LrnBackward& d);
void prepare(Dropout& d);
void prepare(Optimizer& d);
void prepare(MovingAverage& d);
void prepare(SquaredNorm& d);

int64_t scratch_bytes(const Conv2dBackwardWeight& d, Isa isa);
int64_t scratch_bytes(const Conv2dBackwardInput& d, Isa isa);

}  // namespace fastconv
