// For ThreadSanitizer: teams of threads run a saved plan on the parts of a batch.
//
//   parts PLAN      exit code 1 where a result differs from that of one part alone
#include <stdio.h>
#include <string.h>

#include <vector>

#include "plan_file.h"

using namespace fastconv;

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const SavedPlan saved = read_plan(std::make_shared<const PlanBytes>(argv[1]), nullptr, true);
  constexpr int64_t PARTS = 7;
  std::vector<std::vector<float>> arrays, alone;
  for (const auto* ios : {&saved.inputs, &saved.outputs}) {
    for (const SavedIo& io : *ios) arrays.emplace_back(PARTS * io.elements, -1.f);
  }
  for (size_t i = 0; i < arrays[0].size(); i++) arrays[0][i] = (float)(i % 19) / 8 - 1;
  std::vector<float*> externals;
  for (auto& a : arrays) externals.push_back(a.data());
  Executor one(1);
  for (int64_t part = 0; part < PARTS; part++) {
    std::vector<float*> here;
    for (auto& a : arrays) here.push_back(a.data() + part * (int64_t)(a.size() / PARTS));
    one.run(*saved.plan, here.data());
  }
  alone = arrays;
  bool right = true;
  for (const int threads : {1, 2, 3, 4, 6, 9}) {
    Executor executor(threads);
    std::vector<int64_t> nanoseconds(saved.plan->operations().size());
    for (int run = 0; run < 6; run++) {
      for (size_t i = saved.inputs.size(); i < arrays.size(); i++) arrays[i].assign(arrays[i].size(), -1.f);
      executor.run(*saved.plan, externals.data(), run % 2 ? nanoseconds.data() : nullptr, PARTS - run / 3);
      for (size_t i = 0; i < arrays.size(); i++) {
        const size_t size = arrays[i].size() / PARTS * (PARTS - run / 3) * sizeof(float);
        right = right && memcmp(arrays[i].data(), alone[i].data(), size) == 0;
      }
    }
    for (const int64_t ns : nanoseconds) right = right && ns > 0;
  }
  printf(right ? "parts of a batch: right\n" : "a result differs\n");
  return right ? 0 : 1;
}
