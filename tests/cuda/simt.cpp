// The emulator's fibers, warps and barriers, and the checks of every memory access. simt_machine.cpp switches stacks,
// simt_runtime.cpp is the run-time library.
//
// Shared memory: an access beyond the launch's size, a read of what nobody wrote, and two accesses to one byte of
// which at least one writes, by threads between which there is no barrier, are errors. Threads of one warp are also
// ordered by the warp's meetings. An asynchronous copy counts as a write when it is issued and is done when the thread
// waits for it, the latest moment that the hardware allows.
// Global memory: an access beyond an allocation, and two threads that write one element in one launch, or one that
// reads what another thread of that launch wrote without a barrier between, are errors.
#include "simt.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "simt_memory.h"

namespace simt {

Place thread_index, block_index, block_size, grid_size;
char* shared_memory;
std::string errors;
int error_count = 0;

namespace {

constexpr size_t STACK = 128 << 10, SHARED_LIMIT = 228 << 10;
enum class State { ready, warp, block, event, done };

struct Copy {
  char* to;
  const char* from;
  int bytes, source_bytes;
};

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  Place place{};
  int id = 0;
  State state = State::done;
  void* mine = nullptr;
  Operation operation = nullptr;
  bool (*event)(void*) = nullptr;
  void* event_state = nullptr;
  std::vector<std::vector<Copy>> groups;  // of copies, oldest first
  std::vector<Copy> open;
};

struct Warp {
  int live = 0, arrived = 0;
  uint32_t epoch = 0;
};

struct Shadow {  // of one byte of shared memory
  uint32_t write_epoch, read_epoch, write_warp_epoch, read_warp_epoch;
  int16_t writer, reader;
  bool many_warps, many_lanes;
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
Fiber* self = nullptr;
void* main_stack_pointer;
const std::function<void()>* body;
size_t shared_size;
uint32_t epoch = 0, block_start = 0, launch_number = 0;
Shadow shadow[SHARED_LIMIT];

void leave() { simt_switch(&self->stack_pointer, main_stack_pointer); }

// Lets the lanes of a warp go on once the last live one has come.
void release(Warp& w, int first) {
  void* lanes[WARP] = {};
  Operation op = nullptr;
  const int last = std::min((int)fibers.size(), first + WARP);
  for (int i = first; i < last; i++) {
    Fiber& f = fibers[i];
    if (f.state != State::warp) continue;
    if (op && f.operation != op) fail("lanes of a warp meet in different operations");
    op = f.operation;
    lanes[i - first] = f.mine ? f.mine : (void*)&f;
    f.state = State::ready;
  }
  w.arrived = 0;
  w.epoch++;
  if (op) op(lanes);
}

void entry() {
  (*body)();
  if (!self->open.empty() || !self->groups.empty()) {
    bool late = !self->open.empty();
    for (auto& g : self->groups) late = late || !g.empty();
    if (late) fail("a thread ends before its asynchronous copies");
  }
  self->groups.clear();
  self->open.clear();
  self->state = State::done;
  Warp& w = warps[self->id / WARP];
  w.live--;
  if (w.live > 0 && w.arrived == w.live) release(w, self->id / WARP * WARP);
  leave();
  __builtin_unreachable();
}

void prepare(Fiber& f) {
  if (!f.stack) {
    f.stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f.stack == MAP_FAILED) throw std::bad_alloc();
  }
  f.stack_pointer = first_stack(f.stack + STACK, &entry);
  f.state = State::ready;
}

void run_block(int threads) {
  for (size_t i = 0; i < warps.size(); i++) warps[i] = {std::min(WARP, threads - (int)i * WARP), 0, 0};
  for (Fiber& f : fibers) prepare(f);
  memset(shared_memory, 0xff, shared_size);
  block_start = ++epoch;
  async_begin(threads);
  for (;;) {
    bool progress = false, alive = false;
    for (Fiber& f : fibers) {
      if (f.state == State::done) continue;
      alive = true;
      if (f.state == State::event && f.event(f.event_state)) f.state = State::ready;
      if (f.state != State::ready) continue;
      progress = true;
      self = &f;
      thread_index = f.place;
      simt_switch(&main_stack_pointer, f.stack_pointer);
      self = nullptr;
    }
    if (!alive) return async_end();
    if (progress || async_land()) continue;
    int waiting = 0, left = 0;
    for (Fiber& f : fibers) {
      waiting += f.state == State::block;
      left += f.state != State::done;
    }
    if (waiting != left) {
      int events = 0;
      for (Fiber& f : fibers) events += f.state == State::event;
      fail("deadlock: %d threads at the barrier of the block, %d in operations of their warps, %d at events", waiting,
           left - waiting - events, events);
      for (Fiber& f : fibers) f.groups.clear(), f.open.clear();
      return;
    }
    epoch++;
    for (Fiber& f : fibers)
      if (f.state == State::block) f.state = State::ready;
  }
}

bool ordered(int16_t other, uint32_t other_warp_epoch) {
  if (other == self->id) return true;
  return other / WARP == self->id / WARP && other_warp_epoch != warps[self->id / WARP].epoch;
}

void check_shared(size_t at, size_t bytes, bool write) {
  if (at + bytes > shared_size) {
    fail("%s of %zu bytes at byte %zu of %zu bytes of shared memory", write ? "write" : "read", bytes, at, shared_size);
    return;
  }
  const uint32_t warp_epoch = warps[self->id / WARP].epoch;
  const int16_t id = (int16_t)self->id;
  for (size_t i = at; i < at + bytes; i++) {
    Shadow& s = shadow[i];
    if (s.write_epoch < block_start && !write) {
      fail("read of byte %zu of shared memory, which nobody wrote", i);
      return;
    }
    if (async_busy(i, write)) {
      fail("byte %zu of shared memory is %s while it belongs to copies of tensors", i, write ? "written" : "read");
      return;
    }
    const bool raced = s.write_epoch == epoch && !ordered(s.writer, s.write_warp_epoch);
    bool read_raced = false;
    if (write && s.read_epoch == epoch) {
      read_raced =
          s.many_warps || (s.many_lanes && s.read_warp_epoch == warp_epoch) || !ordered(s.reader, s.read_warp_epoch);
    }
    if (raced || read_raced) {
      fail("race in shared memory: byte %zu is %s by thread %d and %s by thread %d without a barrier between", i,
           raced ? "written" : "read", raced ? s.writer : s.reader, write ? "written" : "read", id);
      return;
    }
    if (write) {
      s.write_epoch = epoch, s.write_warp_epoch = warp_epoch, s.writer = id;
      continue;
    }
    const bool again = s.read_epoch == epoch;
    const bool same_warp = again && s.reader / WARP == id / WARP;
    s.many_warps = again && (s.many_warps || !same_warp);
    s.many_lanes = same_warp && s.read_warp_epoch == warp_epoch && (s.many_lanes || s.reader != id);
    s.read_epoch = epoch, s.read_warp_epoch = warp_epoch, s.reader = id;
  }
}

void check_global(uintptr_t address, size_t bytes, bool write) {
  const size_t at = address - heap.base;
  for (size_t i = at; i < at + bytes; i++) {
    if (heap.valid[i]) continue;
    fail("%s of %zu bytes outside an allocation, block (%u, %u, %u) thread %d%s", write ? "write" : "read", bytes,
         block_index.x, block_index.y, block_index.z, self->id, heap.describe(address + (i - at)).c_str());
    return;
  }
  const uint64_t block =
      block_index.x + (uint64_t)grid_size.x * (block_index.y + (uint64_t)grid_size.y * block_index.z);
  for (size_t i = at / 2; i <= (at + bytes - 1) / 2; i++) {
    Heap::Writer& w = heap.writers[i];
    const bool here = w.launch == launch_number;
    const bool mine = w.block == (uint32_t)block && (w.thread == self->id || w.epoch < epoch);
    if (here && !mine) {
      fail("global memory: thread %d of block %u %s what thread %d of block %u wrote in this launch%s", self->id,
           (unsigned)block, write ? "overwrites" : "reads", w.thread, w.block, heap.describe(address).c_str());
      return;
    }
    if (write) w = {launch_number, (uint32_t)block, epoch, self->id};
  }
}

}  // namespace

void fail(const char* format, ...) {
  if (error_count++ >= 5) return;
  char text[400];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  errors += (errors.empty() ? "" : "; ") + std::string(text);
}

void touch(const void* address, size_t bytes, bool write) {
  if (!self) return;
  const uintptr_t a = (uintptr_t)address;
  if (a - (uintptr_t)shared_memory < SHARED_LIMIT) return check_shared(a - (uintptr_t)shared_memory, bytes, write);
  if (a - heap.base < heap.size) return check_global(a, bytes, write);
}

void sync_block() {
  self->state = State::block;
  leave();
}

int thread_number() { return self ? self->id : -1; }
uint32_t barrier_epoch() { return epoch; }
size_t shared_bytes_in_use() { return shared_size; }

void wait_until(bool (*ready)(void*), void* state) {
  if (ready(state)) return;
  self->event = ready;
  self->event_state = state;
  self->state = State::event;
  leave();
}

void aligned(const void* address, size_t bytes) {
  const uintptr_t a = (uintptr_t)address;
  if (!self || a % bytes == 0) return;
  if (a - (uintptr_t)shared_memory >= SHARED_LIMIT && a - heap.base >= heap.size) return;
  fail("access of %zu bytes at an unaligned address", bytes);
  wait_until([](void*) { return false; }, nullptr);  // the host's own instruction may trap: never to go on
}

void meet(void* mine, Operation op) {
  Warp& w = warps[self->id / WARP];
  self->mine = mine;
  self->operation = op;
  self->state = State::warp;
  if (++w.arrived == w.live)
    release(w, self->id / WARP * WARP);
  else
    leave();
}

void copy_async(void* shared, const void* global, int bytes, int source_bytes) {
  if ((uintptr_t)shared % bytes || (source_bytes && (uintptr_t)global % bytes)) fail("cp.async: unaligned address");
  touch(shared, bytes, true);
  if (source_bytes) touch(global, source_bytes, false);
  self->open.push_back({(char*)shared, (const char*)global, bytes, source_bytes});
}

void commit_group() {
  self->groups.push_back(std::move(self->open));
  self->open.clear();
}

void wait_groups(int pending) {
  while ((int)self->groups.size() > pending) {
    for (const Copy& c : self->groups.front()) {
      memset(c.to, 0, c.bytes);
      if (c.source_bytes) memcpy(c.to, c.from, c.source_bytes);
    }
    self->groups.erase(self->groups.begin());
  }
}

void launch(dim3 grid, dim3 block, size_t shared, const std::function<void()>& kernel) {
  const int threads = (int)(block.x * block.y * block.z);
  if (threads < 1 || threads > 1024 || shared > SHARED_LIMIT - 1024 || !grid.x || !grid.y || !grid.z ||
      grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    return fail("launch of %ux%ux%u blocks of %d threads with %zu bytes", grid.x, grid.y, grid.z, threads, shared);
  }
  static char* memory =
      (char*)mmap(nullptr, SHARED_LIMIT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  shared_memory = memory;
  shared_size = shared;
  body = &kernel;
  launch_number++;
  block_size = {block.x, block.y, block.z};
  grid_size = {grid.x, grid.y, grid.z};
  fibers.resize(threads);
  warps.resize((threads + WARP - 1) / WARP);
  int id = 0;
  for (unsigned z = 0; z < block.z; z++)
    for (unsigned y = 0; y < block.y; y++)
      for (unsigned x = 0; x < block.x; x++, id++) fibers[id].place = {x, y, z}, fibers[id].id = id;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        block_index = {x, y, z};
        run_block(threads);
        if (error_count) return;
      }
}

}  // namespace simt
