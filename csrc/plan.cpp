#include "plan.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <stdexcept>

#include "clock.h"
#include "conv_checks.h"

#ifndef MADV_POPULATE_READ  // older headers than the system
#define MADV_POPULATE_READ 22
#endif

namespace fastconv {

namespace {

struct Call {
  const Operation* operation;
  const KernelTable* table;
  Buffers buffers;
  char* scratch;
  int64_t scratch_stride;
  int threads;
  const Operation* next;  // the next one that reads weights, or null
  const char* weights;    // of it
  int64_t weight_bytes;
};

constexpr int64_t FETCH_BYTES = 400 << 10;  // of the next operation's weights: what L2 holds beside this one's

void compute(void* argument, int64_t begin, int64_t end, int thread) {
  const Call& call = *(const Call*)argument;
  Buffers b = call.buffers;
  b.scratch = (float*)(call.scratch + thread * call.scratch_stride);
  const Operation& o = *call.operation;
  if (call.next) {
    const Operation& next = *call.next;
    const int64_t parts = next.weight_parts;
    const int64_t part = first_chunk(next.chunks, thread, call.threads) % parts;
    b.next = call.weights + call.weight_bytes / parts * part;
    b.next_bytes = std::min(FETCH_BYTES, call.weight_bytes / parts);
    b.next_end = first_chunk(o.chunks, thread + 1, call.threads);
    b.next_begin = (first_chunk(o.chunks, thread, call.threads) + b.next_end) / 2;
  }
  switch (o.op) {
#define KERNEL(name, Descriptor)             \
  case Op::name:                             \
    call.table->name(o.name, b, begin, end); \
    break;
#include "cpu/kernels.def"
#undef KERNEL
  }
}

}  // namespace

Plan::Plan(Isa isa, std::shared_ptr<WeightStore> weights) : Plan(isa, std::shared_ptr<const void>(weights)) {
  store_ = weights.get();
}

Plan::Plan(Isa isa, std::shared_ptr<const void> weights)
    : isa_(isa), runs_here_(isa_supported(isa)), weights_(std::move(weights)) {}

void Plan::fetch_first(const char* begin, size_t bytes) { mapped_ = begin, mapped_bytes_ = bytes; }

// A page fault in a kernel costs more than itself: 340 of huge pages 5.5 ms of VGG16's first run, all at once 2.8 (Zen
// 5, virtual). Linux before 5.14 does not know the advice, and leaves it to the faults.
void Plan::before_first_run() const {
  if (mapped_bytes_ == 0) return;
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)mapped_ / page * page;
  madvise((void*)begin, (uintptr_t)mapped_ + mapped_bytes_ - begin, MADV_POPULATE_READ);
}

int Plan::add(const Tensor& t) {
  tensors_.push_back(t);
  return (int)tensors_.size() - 1;
}

int Plan::add_arena(int64_t offset, int64_t size) {
  int64_t bytes, end;
  if (offset < 0 || size < 0 || offset % 4 || __builtin_mul_overflow(size, 4, &bytes) ||
      __builtin_add_overflow(offset, bytes, &end)) {
    throw std::invalid_argument("arena tensor: bad offset or size");
  }
  if (end > arena_bytes_) arena_bytes_ = end;
  return add({Space::arena, offset, 0, nullptr, size});
}

int Plan::add_weight(const float* address, int64_t size) { return add({Space::weight, 0, 0, address, size}); }

int Plan::add_state(float* address, int64_t size) { return add({Space::state, 0, 0, address, size}); }

int Plan::add_external(int index, int64_t first, int64_t size) {
  int64_t end;
  if (index < 0 || index > 4096 || first < 0 || size < 0 || __builtin_add_overflow(first, size, &end)) {
    throw std::invalid_argument("external tensor: bad index or size");
  }
  if ((size_t)index >= external_sizes_.size()) external_sizes_.resize(index + 1, 0);
  if (end > external_sizes_[index]) external_sizes_[index] = end;
  return add({Space::external, index, first, nullptr, size});
}

template <typename Extent>
void Plan::check(const Extent& needs, const std::vector<int>& in, int out, const std::vector<int>& more) const {
  if (in.size() > 4 || more.size() > 2)
    throw std::invalid_argument("an operation has at most four inputs and three outputs");
  const int count = (int)tensors_.size();
  for (size_t i = 0; i < in.size(); i++) {
    if (in[i] < -1 || in[i] >= count) throw std::invalid_argument("no such tensor");
    if (in[i] >= 0 && tensors_[in[i]].size < needs.in[i]) {
      throw std::invalid_argument("input " + std::to_string(i) + " has " + std::to_string(tensors_[in[i]].size) +
                                  " elements, the operation reads " + std::to_string(needs.in[i]));
    }
  }
  for (int i = 0; i < needs.optional_from; i++) {
    if (needs.in[i] > 0 && (i >= (int)in.size() || in[i] < 0)) {
      throw std::invalid_argument("input " + std::to_string(i) + " is missing");
    }
  }
  auto written = [&](int number, int64_t needed) {
    if (number < 0 || number >= count || tensors_[number].space == Space::weight)
      throw std::invalid_argument("no such output");
    if (tensors_[number].size < needed) {
      throw std::invalid_argument("the output has " + std::to_string(tensors_[number].size) +
                                  " elements, the operation writes " + std::to_string(needed));
    }
  };
  written(out, needs.out);
  for (size_t i = 0; i < 2; i++)
    if (i < more.size() || needs.more[i] > 0) written(i < more.size() ? more[i] : -1, needs.more[i]);
}

#define KERNEL(name, Descriptor)                                                                           \
  void Plan::name(Descriptor d, const std::vector<int>& in, int out, const std::vector<int>& more) {       \
    if (runs_here_ && !kernels(isa_).name) throw std::invalid_argument("this build leaves " #name " out"); \
    check(extent_for(d, isa_, Op::name), in, out, more);                                                   \
    prepare_for(d, isa_, Op::name);                                                                        \
    Operation o;                                                                                           \
    o.op = Op::name;                                                                                       \
    for (int i = 0; i < 4; i++) o.in[i] = i < (int)in.size() ? in[i] : -1;                                 \
    o.out = out;                                                                                           \
    for (int i = 0; i < 2; i++) o.more[i] = i < (int)more.size() ? more[i] : -1;                           \
    o.chunks = d.chunks;                                                                                   \
    o.weight_parts = weight_parts_for(d, isa_, Op::name);                                                  \
    o.name = d;                                                                                            \
    const int64_t scratch = (scratch_for(d, isa_, Op::name) + 63) / 64 * 64;                               \
    if (scratch > scratch_bytes_) scratch_bytes_ = scratch;                                                \
    operations_.push_back(o);                                                                              \
  }
#include "cpu/kernels.def"
#undef KERNEL

void Plan::check_level() const {
  if (!runs_here_) throw std::invalid_argument(std::string("this CPU or build lacks ") + isa_name(isa_));
}

void Plan::run(char* arena, float* scratch, float* const* externals, ThreadPool& pool, int64_t* nanoseconds,
               const int64_t* strides, int64_t repeat) const {
  check_level();
  Call call{};
  call.table = &kernels(isa_);
  call.scratch = (char*)scratch;
  call.scratch_stride = scratch_bytes_;
  call.threads = pool.threads();
  auto address = [&](int32_t number) -> float* {
    if (number < 0) return nullptr;
    const Tensor& t = tensors_[number];
    if (t.space == Space::arena) return (float*)(arena + t.offset);
    if (t.space == Space::weight || t.space == Space::state) return const_cast<float*>(t.address);
    return externals[t.offset] + (strides ? repeat * strides[t.offset] : 0) + t.external_at;
  };
  int64_t start = nanoseconds ? nanoseconds_now() : 0;
  for (size_t i = 0; i < operations_.size(); i++) {
    const Operation& o = operations_[i];
    call.operation = &o;
    for (int k = 0; k < 4; k++) call.buffers.in[k] = address(o.in[k]);
    call.buffers.out = address(o.out);
    for (int k = 0; k < 2; k++) call.buffers.more[k] = address(o.more[k]);
    call.buffers.next = nullptr;
    call.next = nullptr;
    for (size_t j = i + 1; j < operations_.size() && j <= i + 2 && !call.next; j++) {
      if (operations_[j].weight_parts == 0 || operations_[j].chunks == 0) continue;
      call.next = &operations_[j];
      call.weights = (const char*)address(call.next->in[1]);
      call.weight_bytes = tensors_[call.next->in[1]].size * 4;
    }
    pool.run(o.chunks, compute, &call);
    if (nanoseconds) {
      const int64_t end = nanoseconds_now();
      nanoseconds[i] += end - start;
      start = end;
    }
  }
}

namespace {

// The runs of a batch, which teams take one at a time.
struct Shares {
  const Plan* plan;
  float* const* externals;
  const int64_t* strides;
  const std::unique_ptr<ThreadPool>* pools;
  char *arenas, *scratch;
  size_t arena_bytes, scratch_bytes;  // of a team
  int64_t* nanoseconds;               // null, or those of each team
  int64_t repeats;
  std::atomic<int64_t> next{0};
};

void work_as_team(void* argument, int64_t begin, int64_t end, int) {
  Shares& s = *(Shares*)argument;
  for (int64_t team = begin; team < end; team++) {
    int64_t* ns = s.nanoseconds ? s.nanoseconds + team * (int64_t)s.plan->operations().size() : nullptr;
    for (int64_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.repeats;) {
      s.plan->run(s.arenas + team * s.arena_bytes, (float*)(s.scratch + team * s.scratch_bytes), s.externals,
                  *s.pools[team], ns, s.strides, i);
    }
  }
}

// The most teams of equal size that all get a run.
int team_count(int threads, int64_t repeats) {
  int teams = (int)std::clamp<int64_t>(repeats, 1, threads);
  while (threads % teams) teams--;
  return teams;
}

size_t product(size_t a, size_t b) {
  size_t bytes;
  if (__builtin_mul_overflow(a, b, &bytes)) throw std::bad_alloc();
  return bytes;
}

}  // namespace

// Once made, teams stay, and their threads have started: nothing is left to fail while they work.
const std::unique_ptr<ThreadPool>* Executor::Context::form(int count) {
  const size_t size = (size_t)(pool.threads() / count);
  if (teams.size() <= size) teams.resize(size + 1);
  while (teams[size].size() < (size_t)count) {
    teams[size].push_back(std::make_unique<ThreadPool>((int)size));
    teams[size].back()->run((int64_t)size, [](void*, int64_t, int64_t, int) {}, nullptr);
  }
  return teams[size].data();
}

// In the child of a fork another thread of the parent may have held the lock: start afresh. What was idle is left
// alone; its pages are shared with the parent until somebody writes them.
void Executor::renew_after_fork() {
  if (generation_ == fork_generation()) return;
  new (&mutex_) std::mutex;
  new (&idle_) std::vector<std::unique_ptr<Context>>;
  generation_ = fork_generation();
}

void Executor::run(const Plan& plan, float* const* externals, int64_t* nanoseconds, int64_t repeats,
                   const int64_t* strides) {
  renew_after_fork();
  plan.check_level();
  std::unique_ptr<Context> context;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      context = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (!context) context = std::make_unique<Context>(threads_);
  const int teams = team_count(threads_, repeats);
  const size_t arena = ((size_t)plan.arena_bytes() + 4095) / 4096 * 4096, arenas = product(arena, (size_t)teams);
  if (context->arena.size() < arenas) {
    context->arena = Block(arenas, plan.huge_pages());
    plan.before_first_run();
  }
  const size_t scratch = product((size_t)plan.scratch_bytes(), (size_t)threads_);
  if (context->scratch.size() < scratch) context->scratch = Block(scratch);
  int64_t done = 0;
  if (teams > 1) {
    const size_t operations = plan.operations().size();
    std::vector<int64_t> times(nanoseconds ? teams * operations : 0);
    done = repeats / teams * teams;
    Shares shares;
    shares.plan = &plan, shares.externals = externals, shares.strides = strides;
    shares.pools = context->form(teams);
    shares.arenas = context->arena.data(), shares.scratch = context->scratch.data();
    shares.arena_bytes = arena, shares.scratch_bytes = scratch / (size_t)teams;
    shares.nanoseconds = nanoseconds ? times.data() : nullptr, shares.repeats = done;
    context->pool.run(teams, work_as_team, &shares);
    for (size_t i = 0; i < times.size(); i++) nanoseconds[i % operations] += times[i] / teams;
  }
  for (; done < repeats; done++) {
    plan.run(context->arena.data(), (float*)context->scratch.data(), externals, context->pool, nanoseconds, strides,
             done);
  }
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(context));
}

}  // namespace fastconv
