#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace fastconv {

namespace {

std::atomic<uint64_t> generation{1};

void after_fork() { generation.fetch_add(1, std::memory_order_relaxed); }

void watch_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, after_fork);
  (void)registered;
}

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

constexpr int YIELD_SPINS = 2000;  // of a caller that waits for the last chunks
constexpr int SPINS = 20000;       // about 300 microseconds: longer than the gap between two runs in a loop

}  // namespace

uint64_t fork_generation() {
  watch_forks();
  return generation.load(std::memory_order_relaxed);
}

struct ThreadPool::Shared {
  struct alignas(64) Ticket {
    std::atomic<uint64_t> next{0};  // epoch << 32 | next chunk
  };
  const std::unique_ptr<Ticket[]> tickets;  // one a thread
  const int threads;
  alignas(64) std::atomic<int64_t> done{0};
  alignas(64) std::atomic<uint32_t> epoch{0};
  std::atomic<Job> job{nullptr};
  std::atomic<void*> argument{nullptr};
  std::atomic<int64_t> chunks{0};
  std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;

  explicit Shared(int n) : tickets(new Ticket[n]), threads(n) {}

  // Its own range first, then what the others have not begun: half of what is left at a time (neighbouring chunks
  // share rows), of another's range a quarter.
  void work(uint32_t my_epoch, int thread) {
    // Read before the tickets: if any of these belongs to a later job, so do the tickets (see run), and nothing is
    // claimed.
    const Job fn = job.load(std::memory_order_acquire);
    void* arg = argument.load(std::memory_order_acquire);
    const int64_t total = chunks.load(std::memory_order_acquire);
    for (int k = 0; k < threads; k++) {
      const int owner = thread + k < threads ? thread + k : thread + k - threads;
      const int64_t range_end = first_chunk(total, owner + 1, threads);
      std::atomic<uint64_t>& ticket = tickets[owner].next;
      uint64_t seen = ticket.load(std::memory_order_acquire);
      while ((uint32_t)(seen >> 32) == my_epoch) {
        const int64_t begin = (int64_t)(seen & 0xffffffffu);
        if (begin >= range_end) break;
        const int64_t end = begin + std::max<int64_t>(1, (range_end - begin) / (k == 0 ? 2 : 4));
        const uint64_t next = (uint64_t)my_epoch << 32 | (uint64_t)end;
        if (!ticket.compare_exchange_weak(seen, next, std::memory_order_acq_rel)) continue;
        fn(arg, begin, end, thread);
        done.fetch_add(end - begin, std::memory_order_release);
        seen = ticket.load(std::memory_order_acquire);
      }
    }
  }

  void loop(int thread) {
    uint32_t last = 0;
    for (;;) {
      uint32_t now = epoch.load(std::memory_order_acquire);
      for (int i = 0; now == last && i < SPINS && !stop.load(std::memory_order_relaxed); i++) {
        relax();
        now = epoch.load(std::memory_order_acquire);
      }
      if (now == last) {
        std::unique_lock<std::mutex> lock(mutex);
        sleepers.fetch_add(1);
        wake.wait(lock, [&] { return stop.load() || epoch.load() != last; });
        sleepers.fetch_sub(1);
        now = epoch.load(std::memory_order_acquire);
      }
      if (stop.load(std::memory_order_relaxed)) return;
      last = now;
      work(now, thread);
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(std::max(1, threads)) {}

ThreadPool::~ThreadPool() {
  if (!shared_) return;
  if (generation_ != fork_generation()) {
    (void)shared_.release();  // the threads belong to another process: nothing here can be joined
    return;
  }
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->stop.store(true);
  }
  shared_->wake.notify_all();
  for (std::thread& t : shared_->workers) t.join();
}

void ThreadPool::start() {
  (void)shared_.release();  // null, or from before a fork
  generation_ = fork_generation();
  shared_ = std::make_unique<Shared>(threads_);
  Shared* s = shared_.get();
  for (int i = 1; i < threads_; i++) {
    try {
      s->workers.emplace_back([s, i] { s->loop(i); });
    } catch (const std::system_error&) {
      break;  // a process limit: fewer threads give the same result later
    }
  }
}

void ThreadPool::run(int64_t chunks, Job job, void* argument) {
  if (threads_ == 1 || chunks <= 1 || chunks >= (int64_t(1) << 31)) {
    if (chunks > 0) job(argument, 0, chunks, 0);
    return;
  }
  if (!shared_ || generation_ != fork_generation()) start();
  Shared& s = *shared_;
  // A worker that is late for the last job must not claim a chunk of this one with that job's tickets: close them.
  const uint32_t epoch = s.epoch.load(std::memory_order_relaxed) + 1;
  const uint64_t opened = (uint64_t)epoch << 32;
  for (int t = 0; t < threads_; t++) s.tickets[t].next.store(opened | 0xffffffffu, std::memory_order_relaxed);
  s.job.store(job, std::memory_order_release);
  s.argument.store(argument, std::memory_order_release);
  s.chunks.store(chunks, std::memory_order_release);
  s.done.store(0, std::memory_order_relaxed);
  for (int t = 0; t < threads_; t++) {
    s.tickets[t].next.store(opened | (uint64_t)first_chunk(chunks, t, threads_), std::memory_order_release);
  }
  s.epoch.store(epoch);
  if (s.sleepers.load() > 0) {
    std::lock_guard<std::mutex> lock(s.mutex);
    s.wake.notify_all();
  }
  s.work(epoch, 0);
  int spins = 0;
  while (s.done.load(std::memory_order_acquire) < chunks) {
    relax();
    if (++spins > YIELD_SPINS) {
      spins = 0;
      sched_yield();  // the worker may have lost its CPU
    }
  }
}

int usable_cpus() {
  int n = 1;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    n = std::max(1, CPU_COUNT(&set));
  } else {
    n = std::max(1u, std::thread::hardware_concurrency());
  }
  // cgroup v2: "max 100000" or "quota period"; v1 in two files
  long long quota = -1, period = -1;
  if (FILE* f = fopen("/sys/fs/cgroup/cpu.max", "re")) {
    if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = -1;
    fclose(f);
  } else {
    if (FILE* q = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re")) {
      if (fscanf(q, "%lld", &quota) != 1) quota = -1;
      fclose(q);
    }
    if (FILE* p = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re")) {
      if (fscanf(p, "%lld", &period) != 1) period = -1;
      fclose(p);
    }
  }
  if (quota > 0 && period > 0) n = std::min<long long>(n, std::max<long long>(1, (quota + period - 1) / period));
  return n;
}

}  // namespace fastconv
