// The emulated device's memory: one region, each allocation between gaps, with what is known of every byte.
#pragma once
#include <stdint.h>

#include <map>
#include <string>

namespace simt {

struct Heap {
  struct Writer {  // of two bytes
    uint32_t launch, block, epoch;
    int32_t thread;
  };
  uintptr_t base = 0;
  size_t size = 0;
  uint8_t* valid = nullptr;
  Writer* writers = nullptr;
  size_t next = 0;
  std::map<uintptr_t, size_t> allocations;
  std::map<size_t, std::multimap<size_t, uintptr_t>> unused;

  void* allocate(size_t bytes);
  bool release(void* p);
  std::string describe(uintptr_t address) const;
};

extern Heap heap;
extern std::string errors;
extern int error_count;

}  // namespace simt
