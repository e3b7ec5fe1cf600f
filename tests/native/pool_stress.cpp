// Stress for csrc/threads.cpp alone: every chunk of every job is computed exactly once, before run() returns.
// Counters are plain integers, so that ThreadSanitizer sees a chunk that two threads touch or that outlives its job.
//
//   pool_stress [jobs]      exit code 1 and one line if a job went wrong
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "threads.h"

using fastconv::Rest;
using fastconv::ThreadPool;

namespace {

struct Job {
  std::vector<int> counts;
  int64_t chunks;
  int work;
};

void compute(void* argument, int64_t begin, int64_t end, int) {
  Job& job = *(Job*)argument;
  volatile int spin = 0;
  for (int64_t i = begin; i < end; i++) {
    for (int k = 0; k < job.work; k++) spin = spin + 1;
    job.counts[i]++;
  }
}

// Jobs of many sizes, one after the other: a worker that is late for one meets the next.
std::string stress(int threads, int jobs, unsigned seed) {
  ThreadPool pool(threads);
  Job job[2];
  for (Job& j : job) j.counts.assign(64, 0);
  for (int n = 0; n < jobs; n++) {
    seed = seed * 1664525u + 1013904223u;
    Job& j = job[n % 2];
    j.chunks = 1 + (seed >> 16) % 64;
    j.work = (seed >> 24) % 8 == 0 ? 300 : (int)(seed >> 28);
    pool.run(j.chunks, compute, &j);
    for (int64_t i = 0; i < 64; i++) {
      if (j.counts[i] != (i < j.chunks)) {
        return "job " + std::to_string(n) + " of " + std::to_string(threads) + " threads: chunk " + std::to_string(i) +
               " of " + std::to_string(j.chunks) + " was computed " + std::to_string(j.counts[i]) + " times";
      }
      j.counts[i] = 0;
    }
    if (n % 5000 == 0) usleep(300);  // long enough for the workers to fall asleep
  }
  return "";
}

// A child has no workers at first, and must not wait for those of its parent.
std::string fork_after_use() {
  ThreadPool pool(3);
  Job j{std::vector<int>(64, 0), 64, 100};
  pool.run(j.chunks, compute, &j);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    j.counts.assign(64, 0);
    pool.run(j.chunks, compute, &j);
    for (int c : j.counts) {
      if (c != 1) _exit(1);
    }
    _exit(0);
  }
  int status = 1;
  waitpid(child, &status, 0);
  if (status != 0) return "the child of a fork failed: status " + std::to_string(status);
  j.counts.assign(64, 0);
  pool.run(j.chunks, compute, &j);
  for (int c : j.counts) {
    if (c != 1) return "the parent of a fork computed a chunk " + std::to_string(c) + " times";
  }
  return "";
}

// Waits of 4 ms: one in 100 ms costs less than a rest; one after each 4 ms of help makes rests that double.
std::string rests() {
  constexpr int64_t MS = 1000000;
  Rest rest;
  int64_t now = 1000 * MS;
  auto wait_after = [&](int64_t helped) {
    const int64_t begun = std::max(now, rest.since) + helped * MS;
    now = begun + 4 * MS;
    const int64_t until = rest.until(begun, now);
    return until ? (until - now) / MS : 0;
  };
  for (int i = 0; i < 20; i++) {
    if (wait_after(100) != 0) return "a worker rests after a rare wait";
  }
  for (int64_t expected : {40, 80, 160, 250, 250}) {
    const int64_t got = wait_after(4);
    if (got != expected) return "a rest of " + std::to_string(got) + " ms, not " + std::to_string(expected);
  }
  if (wait_after(8) != 0) return "a worker rests that helps for two thirds of the time";
  if (wait_after(100) != 0 || wait_after(4) != 40) return "a rest is not short again after a good time";
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  const int jobs = argc > 1 ? atoi(argv[1]) : 200000;
#if !defined(__SANITIZE_THREAD__)  // ThreadSanitizer does not follow threads that start after a fork
  std::string failed = fork_after_use();
#else
  std::string failed;
#endif
  if (failed.empty()) failed = rests();
  for (int threads : {1, 2, 3, 5}) {
    if (failed.empty()) failed = stress(threads, jobs, 1);
  }
  std::string parts[2];
  std::vector<std::thread> callers;  // two pools at once, each with its own caller
  for (int i = 0; i < 2; i++) callers.emplace_back([&parts, i, jobs] { parts[i] = stress(2, jobs / 2, 2 + i); });
  for (std::thread& t : callers) t.join();
  for (const std::string& p : parts) {
    if (failed.empty()) failed = p;
  }
  if (!failed.empty()) {
    printf("%s\n", failed.c_str());
    return 1;
  }
  printf("thread pool: %d jobs each on 1, 2, 3 and 5 threads, and on two pools at once\n", jobs);
  return 0;
}
