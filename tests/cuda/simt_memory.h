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

// Switches between stacks (simt_machine.cpp): saves the current one, goes on with `to`.
extern "C" void simt_switch(void** save, void* to);
void* first_stack(char* end, void (*entry)());

// Between the fibers (simt.cpp) and asynchronous work (simt_async.cpp).
int thread_number();       // of the running fiber; -1: none runs
uint32_t barrier_epoch();  // grows with each barrier of the block
size_t shared_bytes_in_use();
void wait_until(bool (*ready)(void*), void* state);  // lets others run
void async_begin(int threads);                       // a block starts
bool async_land();                                   // carries out the oldest copy under way, if there is one
void async_end();                                    // a block has ended
// Whether byte `at` of shared memory is a copy's or a product's. A write by a warp that knows both have ended takes it.
bool async_busy(size_t at, bool write);

extern Heap heap;
extern std::string errors;
extern int error_count;

}  // namespace simt
