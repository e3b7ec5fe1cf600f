// Clocks in nanoseconds; 0 where there is no such clock.
#pragma once
#include <stdint.h>
#include <time.h>

namespace fastconv {

inline int64_t nanoseconds_now(clockid_t clock = CLOCK_MONOTONIC) {
  timespec t;
  if (clock_gettime(clock, &t)) return 0;
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

}  // namespace fastconv
