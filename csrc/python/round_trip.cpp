// How far two cores are from each other: what threads that share a model's work wait for between operations.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "clock.h"
#include "gil.h"
#include "threads.h"

namespace py = pybind11;

namespace fastconv {

namespace {

// Nanoseconds of a flag from one thread to another and back: the best of short runs, so that those in which a thread
// waits for a CPU do not count. 0 where this process may use one CPU alone.
double measure_round_trip() {
  constexpr int RUNS = 41, TRIPS = 100;
  if (usable_cpus() < 2) return 0;
  struct alignas(64) Flag {
    std::atomic<int> value{0};
  } ping, pong;
  std::thread other([&] {
    for (int i = 1; i <= RUNS * TRIPS; i++) {
      for (int spins = 0; ping.value.load(std::memory_order_acquire) != i;) {
        if (++spins % 10000 == 0) std::this_thread::yield();
      }
      pong.value.store(i, std::memory_order_release);
    }
  });
  double best = 1e9;
  for (int run = 0, i = 1; run < RUNS; run++) {
    const int64_t start = nanoseconds_now(CLOCK_MONOTONIC);
    for (const int end = i + TRIPS; i < end; i++) {
      ping.value.store(i, std::memory_order_release);
      for (int spins = 0; pong.value.load(std::memory_order_acquire) != i;) {
        if (++spins % 10000 == 0) std::this_thread::yield();
      }
    }
    best = std::min(best, (double)(nanoseconds_now(CLOCK_MONOTONIC) - start) / TRIPS);
  }
  other.join();
  return best;
}

}  // namespace

void init_round_trip(py::module_& m) {
  m.def(
      "measure_round_trip",
      [] {
        ReleaseGil release;
        return measure_round_trip();
      },
      "Nanoseconds that a flag takes from one core to another and back; 0 where only one CPU may be used.");
}

}  // namespace fastconv
