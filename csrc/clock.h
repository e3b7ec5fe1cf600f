// Time that only goes forward.
#pragma once
#include <stdint.h>
#include <time.h>

namespace fastconv {

inline int64_t nanoseconds_now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

}  // namespace fastconv
