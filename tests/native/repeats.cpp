// For ThreadSanitizer: teams of threads run a saved plan along a batch.
//
//   repeats PLAN      exit code 1 where a result differs from that of one share alone
#include <stdio.h>
#include <string.h>

#include <vector>

#include "plan_file.h"

using namespace fastconv;

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const SavedPlan saved = read_plan(std::make_shared<const PlanBytes>(argv[1]), nullptr, true);
  constexpr int64_t REPEATS = 7;
  std::vector<std::vector<float>> arrays, alone;
  for (const auto* ios : {&saved.inputs, &saved.outputs}) {
    for (const SavedIo& io : *ios) arrays.emplace_back(REPEATS * io.elements, -1.f);
  }
  for (size_t i = 0; i < arrays[0].size(); i++) arrays[0][i] = (float)(i % 19) / 8 - 1;
  std::vector<float*> externals;
  for (auto& a : arrays) externals.push_back(a.data());
  std::vector<int64_t> strides;
  for (auto& a : arrays) strides.push_back((int64_t)a.size() / REPEATS);
  Executor one(1);
  for (int64_t i = 0; i < REPEATS; i++) {
    std::vector<float*> here;
    for (auto& a : arrays) here.push_back(a.data() + i * (int64_t)(a.size() / REPEATS));
    one.run(*saved.plan, here.data());
  }
  alone = arrays;
  bool right = true;
  for (const int threads : {1, 2, 3, 4, 6, 9}) {
    Executor executor(threads);
    std::vector<int64_t> nanoseconds(saved.plan->operations().size());
    for (int run = 0; run < 6; run++) {
      for (size_t i = saved.inputs.size(); i < arrays.size(); i++) arrays[i].assign(arrays[i].size(), -1.f);
      executor.run(*saved.plan, externals.data(), run % 2 ? nanoseconds.data() : nullptr, REPEATS - run / 3,
                   strides.data());
      for (size_t i = 0; i < arrays.size(); i++) {
        const size_t size = arrays[i].size() / REPEATS * (REPEATS - run / 3) * sizeof(float);
        right = right && memcmp(arrays[i].data(), alone[i].data(), size) == 0;
      }
    }
    for (const int64_t ns : nanoseconds) right = right && ns > 0;
  }
  printf(right ? "repeats along a batch: right\n" : "a result differs\n");
  return right ? 0 : 1;
}
