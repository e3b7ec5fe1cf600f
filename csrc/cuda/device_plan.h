// A plan on the device: operations on fixed operands, and the graphs of their launches.
#pragma once
#include <string.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "conv_launch.h"

namespace fastconv {
namespace cuda {

enum class Space : int32_t { none, arena, weight, external };

// Where an operand lies: element `at` of the arena; an address; element `at` of the external `index`.
struct Reference {
  Space space;
  int32_t index;
  int64_t at;
};

struct Operation {
  Op op;
  Reference in[4], out, more[2];
  union {
#define KERNEL(name, Descriptor) Descriptor name;
#include "cpu/kernels.def"
#undef KERNEL
  };
};

// A device must not be waited for while a stream of it is being captured, by whatever thread: who does one of them
// holds this lock of the calling thread's device. (Streams that other libraries capture are theirs to look after.)
inline std::mutex& capture_lock() {
  constexpr int LOCKS = 64;  // devices beyond share them
  static std::mutex locks[LOCKS];
  int device = 0;
  check(cudaGetDevice(&device), "device");
  return locks[device % LOCKS];
}

// One run at a time.
class Plan {
 public:
  Plan(const Machine& machine, cudaStream_t stream) : machine_(machine), stream_(stream) {}
  ~Plan() {
    while (!replays_.empty()) forget_first();
  }

  void add(Op op, const void* descriptor, size_t bytes, const Reference* operands) {
    Operation o;
    o.op = op;
    memcpy(o.in, operands, sizeof o.in);
    o.out = operands[4];
    memcpy(o.more, operands + 5, sizeof o.more);
    int64_t workspace = 0;
    switch (op) {
#define KERNEL(name, Descriptor)                                                                \
  case Op::name:                                                                                \
    if (bytes != sizeof(Descriptor)) throw std::invalid_argument("descriptor of another size"); \
    memcpy(&o.name, descriptor, bytes);                                                         \
    workspace = workspace_floats(o.name, machine_);                                             \
    break;
#include "cpu/kernels.def"
#undef KERNEL
      default:
        throw std::invalid_argument("no such operation");
    }
    workspace_floats_ = max_i(workspace_floats_, workspace);
    operations_.push_back(o);
  }

  // externals: device addresses in the storage type. The second run with the same ones is captured as a graph, later
  // ones replay it; the graphs of the last few sets of addresses are kept.
  void run(void* const* externals, int count, char* arena, float* workspace) {
    const std::vector<void*> key = key_of(externals, count, arena, workspace);
    size_t at = 0;
    while (at < replays_.size() && replays_[at].key != key) at++;
    if (at == replays_.size()) {  // the first run: errors show here, and modules are loaded
      if (replays_.size() == MOST_REPLAYS) forget_first();
      replays_.push_back({key, nullptr});
      return launch_all(externals, arena, workspace);
    }
    std::rotate(replays_.begin() + at, replays_.begin() + at + 1, replays_.end());  // the latest stands last
    cudaGraphExec_t& exec = replays_.back().exec;
    if (!exec) exec = instantiate(capture(externals, arena, workspace));
    check(cudaGraphLaunch(exec, stream_), "graph launch");
  }

  // Nanoseconds of each operation, by events around each.
  void profile(void* const* externals, char* arena, float* workspace, int64_t* nanoseconds) {
    std::vector<cudaEvent_t> events(operations_.size() + 1, nullptr);
    for (cudaEvent_t& e : events) check(cudaEventCreate(&e), "event");
    check(cudaEventRecord(events[0], stream_), "event");
    for (size_t i = 0; i < operations_.size(); i++) {
      launch_one(operations_[i], externals, arena, workspace);
      check(cudaEventRecord(events[i + 1], stream_), "event");
    }
    check(cudaEventSynchronize(events.back()), "profile");
    for (size_t i = 0; i < operations_.size(); i++) {
      float ms = 0;
      check(cudaEventElapsedTime(&ms, events[i], events[i + 1]), "event");
      nanoseconds[i] = (int64_t)((double)ms * 1e6);
    }
    for (cudaEvent_t e : events) cudaEventDestroy(e);
  }

  // Nanoseconds of `repeats` replays of the graph, by events around all of them.
  double time(void* const* externals, int count, char* arena, float* workspace, int repeats) {
    for (int i = 0; i < 3; i++) run(externals, count, arena, workspace);
    cudaEvent_t begin = nullptr, end = nullptr;
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    check(cudaEventRecord(begin, stream_), "event");
    for (int i = 0; i < repeats; i++) run(externals, count, arena, workspace);
    check(cudaEventRecord(end, stream_), "event");
    check(cudaEventSynchronize(end), "time");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "event");
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return (double)ms * 1e6;
  }

  int64_t workspace_bytes() const { return 4 * workspace_floats_; }
  // Whether the last run replayed a graph, or was the one that made it.
  bool captured() const { return !replays_.empty() && replays_.back().exec; }

 private:
  static std::vector<void*> key_of(void* const* externals, int count, char* arena, float* workspace) {
    std::vector<void*> key(externals, externals + count);
    key.push_back(arena);
    key.push_back(workspace);
    return key;
  }

  void* address(const Reference& r, void* const* externals, char* arena) const {
    const int64_t size = machine_.precision == Precision::fp16 || machine_.precision == Precision::bf16 ? 2 : 4;
    switch (r.space) {
      case Space::none:
        return nullptr;
      case Space::arena:
        return arena + r.at * size;
      case Space::weight:
        return (void*)r.at;
      case Space::external:
        return (char*)externals[r.index] + r.at * size;
    }
    return nullptr;
  }

  void launch_one(const Operation& o, void* const* externals, char* arena, float* workspace) {
    Call c;
    for (int i = 0; i < 4; i++) c.in[i] = address(o.in[i], externals, arena);
    c.out = address(o.out, externals, arena);
    for (int i = 0; i < 2; i++) c.more[i] = address(o.more[i], externals, arena);
    c.workspace = workspace;
    c.precision = machine_.precision;
    c.multiprocessors = machine_.multiprocessors;
    c.capability = machine_.capability;
    c.forced = machine_.forced;
    c.stream = stream_;
    switch (o.op) {
#define KERNEL(name, Descriptor) \
  case Op::name:                 \
    name(o.name, c);             \
    break;
#include "cpu/kernels.def"
#undef KERNEL
    }
  }

  void launch_all(void* const* externals, char* arena, float* workspace) {
    for (const Operation& o : operations_) launch_one(o, externals, arena, workspace);
  }

  cudaGraph_t capture(void* const* externals, char* arena, float* workspace) {
    const std::lock_guard<std::mutex> hold(capture_lock());
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
    try {
      launch_all(externals, arena, workspace);
    } catch (...) {
      cudaStreamEndCapture(stream_, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream_, &graph), "end of capture");
    return graph;
  }

  cudaGraphExec_t instantiate(cudaGraph_t graph) {
    cudaGraphExec_t exec = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "graph");
    return exec;
  }

  void forget_first() {
    if (replays_.front().exec) cudaGraphExecDestroy(replays_.front().exec);
    replays_.erase(replays_.begin());
  }

  static constexpr size_t MOST_REPLAYS = 8;
  struct Replay {
    std::vector<void*> key;
    cudaGraphExec_t exec;  // null until the second run
  };
  Machine machine_;
  cudaStream_t stream_;
  std::vector<Operation> operations_;
  int64_t workspace_floats_ = 0;
  std::vector<Replay> replays_;
};

}  // namespace cuda
}  // namespace fastconv
