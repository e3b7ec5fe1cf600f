// For ThreadSanitizer: two threads run two plans, then one plan, each with sessions of its own, some of two threads.
//
//   two_threads PLAN PLAN      exit code 1 where a result differs from that of a run alone
#include <stdio.h>
#include <string.h>

#include <thread>
#include <vector>

#include "fastconv.h"

namespace {

struct Task {
  const fastconv_plan* plan;
  int threads;
  std::vector<float> first;  // output of the first run
  bool right = true;
};

void run(Task* task) {
  fastconv_tensor input, output;
  fastconv_plan_input(task->plan, 0, &input);
  std::vector<float> x(input.elements);
  for (size_t i = 0; i < x.size(); i++) x[i] = (float)(i % 17) / 8 - 1;
  std::vector<std::vector<float>> ys;
  std::vector<float*> outputs;
  for (size_t i = 0; i < fastconv_plan_output_count(task->plan); i++) {
    fastconv_plan_output(task->plan, i, &output);
    ys.emplace_back(output.elements);
  }
  for (auto& y : ys) outputs.push_back(y.data());
  const float* inputs[] = {x.data()};
  for (int session = 0; session < 3; session++) {
    fastconv_session* s = nullptr;
    if (fastconv_session_create(task->plan, task->threads, nullptr, 0, &s, nullptr) != FASTCONV_OK) task->right = false;
    for (int i = 0; i < 5 && task->right; i++) {
      if (fastconv_session_run(s, inputs, outputs.data(), nullptr) != FASTCONV_OK) task->right = false;
      if (task->first.empty()) task->first = ys[0];
      if (memcmp(task->first.data(), ys[0].data(), sizeof(float) * ys[0].size()) != 0) task->right = false;
    }
    fastconv_session_close(s);
  }
}

bool at_once(const fastconv_plan* a, const fastconv_plan* b, int threads) {
  Task one{a, threads, {}}, two{b, threads, {}};
  std::thread t(run, &one), u(run, &two);
  t.join();
  u.join();
  return one.right && two.right && (a != b || one.first == two.first);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  fastconv_plan* plans[2];
  for (int i = 0; i < 2; i++) {
    fastconv_error error;
    if (fastconv_plan_open(argv[1 + i], nullptr, FASTCONV_VERIFY, &plans[i], &error) != FASTCONV_OK) {
      printf("%s\n", error.message);
      return 1;
    }
  }
  bool right = true;
  for (int threads : {0, 2}) {
    right = right && at_once(plans[0], plans[1], threads) && at_once(plans[0], plans[0], threads);
  }
  for (fastconv_plan* p : plans) fastconv_plan_close(p);
  printf(right ? "two threads, two plans and one: right\n" : "a result differs\n");
  return right ? 0 : 1;
}
