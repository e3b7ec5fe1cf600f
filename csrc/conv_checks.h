// Chunks, scratch and buffer sizes of convolutions and dense layers (checks.h: the other operations).
#pragma once
#include "checks.h"

namespace fastconv {

void prepare(Conv2d& d, Isa isa);
void prepare(DepthwiseConv2d& d);
void prepare(Linear& d, Isa isa);

Extent extent(const Conv2d& d, Isa isa);
Extent extent(const DepthwiseConv2d& d, Isa isa);
Extent extent(const Linear& d, Isa isa);

int64_t scratch_bytes(const Conv2d& d);  // per thread

}  // namespace fastconv
