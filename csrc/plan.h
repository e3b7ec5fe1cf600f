// A Plan: a flat list of operations on fixed buffers, specialised to one input shape. run() allocates nothing.
//
// Tensors live in one of four spaces: the arena (activations, by byte offset), weights (by address in a WeightStore or
// a mapped file that the plan keeps alive), states (in a WeightStore, but operations may write them: what training
// changes), and externals (inputs and outputs, bound at each run). An Executor owns what a run needs besides: arenas
// and threads, one set for each run that goes on at the same time. It may repeat a plan along a batch, several times at
// once.
#pragma once
#include <stdint.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "memory.h"
#include "threads.h"

namespace fastconv {

enum class Space : int32_t { none, arena, weight, external, state };  // numbers of saved plans: new ones come last

struct Tensor {
  Space space;
  int64_t offset;        // arena: bytes. external: index
  int64_t external_at;   // external: first element
  const float* address;  // weight, state
  int64_t size;          // elements that may be touched
};

struct Operation {
  Op op;
  int32_t in[4];  // tensor numbers, or -1
  int32_t out;
  int32_t more[2];  // further outputs, or -1
  int64_t chunks;
  int64_t weight_parts;  // chunk i reads part i % weight_parts of the weights; 0 where they are few
  union {
#define KERNEL(name, Descriptor) Descriptor name;
#include "cpu/kernels.def"
#undef KERNEL
  };
};

class Plan {
 public:
  // A level that this CPU lacks can be planned, and saved, but not run.
  Plan(Isa isa, std::shared_ptr<WeightStore> weights);
  Plan(Isa isa, std::shared_ptr<const void> weights);  // of a file
  // Maps the pages of [begin, begin + bytes) before the first run: for weights in a mapped file.
  void fetch_first(const char* begin, size_t bytes);
  void before_first_run() const;
  bool huge_pages() const { return !store_ || store_->huge(); }

  int add_arena(int64_t offset, int64_t size);
  int add_weight(const float* address, int64_t size);
  int add_state(float* address, int64_t size);
  int add_external(int index, int64_t first, int64_t size);

#define KERNEL(name, Descriptor) \
  void name(Descriptor d, const std::vector<int>& in, int out, const std::vector<int>& more = {});
#include "cpu/kernels.def"
#undef KERNEL

  Isa isa() const { return isa_; }
  int64_t arena_bytes() const { return arena_bytes_; }
  int64_t scratch_bytes() const { return scratch_bytes_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const std::vector<Operation>& operations() const { return operations_; }
  const std::vector<int64_t>& external_sizes() const { return external_sizes_; }

  // Throws std::invalid_argument where this CPU lacks the level.
  void check_level() const;
  // Throws as check_level(), and nothing else once the pool has its threads. externals[i], or what lies strides[i] *
  // repeat elements behind it, has external_sizes()[i] elements; arena and scratch are aligned to 64 bytes, scratch
  // holds scratch_bytes() a thread. nanoseconds: null, or one entry per operation to be added to.
  void run(char* arena, float* scratch, float* const* externals, ThreadPool& pool, int64_t* nanoseconds,
           const int64_t* strides = nullptr, int64_t repeat = 0) const;

 private:
  template <typename Extent>
  void check(const Extent& needs, const std::vector<int>& in, int out, const std::vector<int>& more) const;
  int add(const Tensor& t);

  Isa isa_;
  bool runs_here_;
  std::shared_ptr<const void> weights_;
  const WeightStore* store_ = nullptr;  // where they are in one
  const char* mapped_ = nullptr;        // what fetch_first was told
  size_t mapped_bytes_ = 0;
  std::vector<Tensor> tensors_;
  std::vector<Operation> operations_;
  std::vector<int64_t> external_sizes_;
  int64_t arena_bytes_ = 0;
  int64_t scratch_bytes_ = 0;
};

class Executor {
 public:
  explicit Executor(int threads) : threads_(threads), generation_(fork_generation()) {}
  int threads() const { return threads_; }
  // Runs `repeats` times, at multiples of strides[i] elements from externals[i]. The threads form teams of equal size,
  // each with an arena of its own, as many as get a run; what is left after whole rounds all threads do together.
  // nanoseconds: of concurrent runs the mean over the teams.
  void run(const Plan& plan, float* const* externals, int64_t* nanoseconds = nullptr, int64_t repeats = 1,
           const int64_t* strides = nullptr);

 private:
  struct Context {
    explicit Context(int threads) : pool(threads) {}
    const std::unique_ptr<ThreadPool>* form(int teams);
    Block arena, scratch;
    ThreadPool pool;
    std::vector<std::vector<std::unique_ptr<ThreadPool>>> teams;  // by size; their first threads are the pool's
  };
  void renew_after_fork();
  int threads_;
  uint64_t generation_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Context>> idle_;
};

}  // namespace fastconv
