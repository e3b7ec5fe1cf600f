// What Python holds of a packed weight.
#pragma once
#include <memory>

#include "memory.h"

namespace fastconv {

// A run of floats in a WeightStore, which it keeps alive.
struct PackedWeight {
  std::shared_ptr<WeightStore> store;
  const float* address;
  int64_t size;
};

}  // namespace fastconv
