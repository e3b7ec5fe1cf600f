#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "clock.h"

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

constexpr int YIELD_SPINS = 2000;  // about 30 microseconds
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
  struct alignas(64) Presence {
    std::atomic<bool> computing{false};  // holds chunks
    std::atomic<int> cpu{-1};            // where it began this job
    std::atomic<int64_t> rest_until{0};  // claims nothing before; 0: does not rest
    // The caller's own:
    bool lost = false;  // had no CPU during this wait
    Rest rest;
    int64_t seen = 0, used = 0;         // wall clock and CPU time when the caller last looked
    clockid_t clock = CLOCK_MONOTONIC;  // of its CPU time
  };
  const std::unique_ptr<Ticket[]> tickets;  // one a thread
  const std::unique_ptr<Presence[]> presence;
  const int threads;
  alignas(64) std::atomic<int64_t> done{0};
  alignas(64) std::atomic<uint32_t> epoch{0};
  std::atomic<Job> job{nullptr};
  std::atomic<void*> argument{nullptr};
  std::atomic<int64_t> chunks{0};
  std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake, rested;
  std::vector<std::thread> workers;

  explicit Shared(int n) : tickets(new Ticket[n]), presence(new Presence[n]), threads(n) {}

  // Its own range first, then what the others have not begun: half of what is left at a time (neighbouring chunks
  // share rows), of another's range a quarter.
  void work(uint32_t my_epoch, int thread) {
    // Read before the tickets: if any of these belongs to a later job, so do the tickets (see run), and nothing is
    // claimed.
    const Job fn = job.load(std::memory_order_acquire);
    void* arg = argument.load(std::memory_order_acquire);
    const int64_t total = chunks.load(std::memory_order_acquire);
    Presence& mine = presence[thread];
    for (int k = 0; k < threads; k++) {
      const int owner = thread + k < threads ? thread + k : thread + k - threads;
      const int64_t range_end = first_chunk(total, owner + 1, threads);
      std::atomic<uint64_t>& ticket = tickets[owner].next;
      uint64_t seen = ticket.load(std::memory_order_acquire);
      while ((uint32_t)(seen >> 32) == my_epoch) {
        const int64_t begin = (int64_t)(seen & 0xffffffffu);
        if (begin >= range_end || mine.rest_until.load(std::memory_order_relaxed)) break;
        const int64_t end = begin + std::max<int64_t>(1, (range_end - begin) / (k == 0 ? 2 : 4));
        const uint64_t next = (uint64_t)my_epoch << 32 | (uint64_t)end;
        if (!ticket.compare_exchange_weak(seen, next, std::memory_order_acq_rel)) continue;
        mine.computing.store(true, std::memory_order_relaxed);
        fn(arg, begin, end, thread);
        mine.computing.store(false, std::memory_order_relaxed);
        done.fetch_add(end - begin, std::memory_order_release);
        seen = ticket.load(std::memory_order_acquire);
      }
    }
  }

  void loop(int thread) {
    uint32_t last = 0;
    for (;;) {
      uint32_t now = epoch.load(std::memory_order_acquire);
      for (int i = 1; now == last && i <= SPINS && !stop.load(std::memory_order_relaxed); i++) {
        relax();
        if (i % YIELD_SPINS == 0) sched_yield();  // the caller may be waiting for this CPU
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
      if (rests(presence[thread])) continue;
      presence[thread].cpu.store(sched_getcpu(), std::memory_order_relaxed);
      work(now, thread);
    }
  }

  // Sleeps until the rest is over; false where there is none.
  bool rests(Presence& p) {
    int64_t until = p.rest_until.load(std::memory_order_relaxed);
    if (!until) return false;
    const int64_t left = until - nanoseconds_now();
    if (left <= 0) return !p.rest_until.compare_exchange_strong(until, 0, std::memory_order_relaxed);
    std::unique_lock<std::mutex> lock(mutex);
    rested.wait_for(lock, std::chrono::nanoseconds(left), [&] { return stop.load(); });
    return true;
  }

  // The caller waits: which workers hold chunks and get no CPU? They are to take no more. One that waits for the
  // caller's own gets it by sched_yield, and another one from the scheduler soon.
  void look_after_workers() {
    const int64_t now = nanoseconds_now();
    const int cpu = sched_getcpu();
    for (int t = 1; t <= (int)workers.size(); t++) {
      Presence& p = presence[t];
      const bool computing =
          p.computing.load(std::memory_order_relaxed) && p.cpu.load(std::memory_order_relaxed) != cpu;
      const int64_t used = computing ? nanoseconds_now(p.clock) : 0;
      if (computing && p.seen && used - p.used < (now - p.seen) / 2) {
        p.lost = true;
        p.rest_until.store(INT64_MAX, std::memory_order_relaxed);
      }
      p.seen = computing ? now : 0;
      p.used = used;
    }
  }

  void wait(int64_t total) {
    int64_t begun = 0;
    for (int spins = 1; done.load(std::memory_order_acquire) < total; spins++) {
      relax();
      if (spins % YIELD_SPINS) continue;
      if (!begun) begun = nanoseconds_now();
      look_after_workers();
      sched_yield();
    }
    if (!begun) return;
    const int64_t now = nanoseconds_now();
    for (int t = 1; t <= (int)workers.size(); t++) {
      Presence& p = presence[t];
      p.seen = 0;
      if (p.lost) p.rest_until.store(p.rest.until(begun, now), std::memory_order_relaxed);
      p.lost = false;
    }
  }
};

int64_t Rest::until(int64_t begun, int64_t now) {
  const int64_t waited = now - begun, helped = begun - since;
  length = helped > 4 * waited ? 0 : length ? std::min(LONGEST, 2 * length) : std::min(LONGEST, FIRST * waited);
  const bool pays = 3 * waited > 2 * helped;
  since = pays ? now + length : now;
  return pays ? since : 0;
}

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
  shared_->rested.notify_all();
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
      pthread_getcpuclockid(s->workers.back().native_handle(), &s->presence[i].clock);
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
  s.wait(chunks);
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
