// The only threads of the project: a small pool that computes the chunks of one operation at a time.
//
// A job is a range of chunks, cut into one part for each thread. A thread claims pieces of its own part, then of the
// others', from 64-bit tickets (epoch in the high half, next chunk in the low half), so that a worker that wakes late
// finds the epoch gone and never touches a finished job, and the caller waits for chunks, not for threads. Idle workers
// spin for some hundreds of microseconds, then sleep. A worker whose CPU somebody else uses rests (Rest). A fork leaves
// the child without workers: it starts its own at the next job.
#pragma once
#include <stdint.h>

#include <atomic>
#include <memory>

namespace fastconv {

class ThreadPool {
 public:
  using Job = void (*)(void* argument, int64_t begin, int64_t end, int thread);

  explicit ThreadPool(int threads);  // the caller counts as one
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }
  // Calls job for disjoint ranges that cover [0, chunks); returns when all are done. One caller at a time.
  void run(int64_t chunks, Job job, void* argument);

 private:
  struct Shared;
  int threads_;
  uint64_t generation_ = 0;
  std::unique_ptr<Shared> shared_;
  void start();
};

// When a worker rests. One that loses its CPU to another process keeps its chunks for milliseconds, and the caller
// waits. Where it has waited for nearly as long as the worker helped before, doing without the worker is no slower: it
// rests FIRST times as long as the wait, then twice as long each time that it was no better after a rest. A rare wait,
// as any machine has, costs less than a rest.
struct Rest {
  static constexpr int64_t FIRST = 10, LONGEST = 250000000;
  int64_t length = 0, since = 0;  // of the last rest; when it, or the last wait, ended
  // The caller waited from `begun` to `now` (nanoseconds) for a worker without a CPU: until when it rests, or 0.
  int64_t until(int64_t begun, int64_t now);
};

// Where the part of thread t begins.
inline int64_t first_chunk(int64_t chunks, int64_t t, int64_t threads) { return chunks * t / threads; }

uint64_t fork_generation();  // grows in the child of a fork
int usable_cpus();           // by affinity and cgroup quota, at least 1

}  // namespace fastconv
