// libFuzzer on the loader of saved plans: any bytes give an error or a plan that is safe to run. The checksums are made
// right first, so that what stands behind them is reached; small plans run.
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <memory>

#include "plan_file.h"

using namespace fastconv;

static void correct_checksum(char* data, size_t size) {
  FileHeader h;
  if (size < sizeof h) return;
  memcpy(&h, data, sizeof h);
  if (h.head_bytes < sizeof h || h.head_bytes > size) return;
  h.file_bytes = size;
  h.head_checksum = 0;
  const uint64_t rest = file_checksum(data + sizeof h, h.head_bytes - sizeof h);
  h.head_checksum = file_checksum(&h, sizeof h) ^ (rest << 1 | rest >> 63);
  memcpy(data, &h, sizeof h);
}

static int64_t elements(const std::vector<SavedIo>& ios) {
  int64_t n = 0;
  for (const SavedIo& io : ios) n += std::min<int64_t>(io.elements, 1 << 20);
  return n;
}

// Few chunks of few elements: shapes that loop for minutes are no finding.
static bool small(const SavedPlan& saved) {
  const Plan& plan = *saved.plan;
  if (plan.arena_bytes() > 1 << 18 || plan.scratch_bytes() > 1 << 18 || elements(saved.inputs) > 1 << 14 ||
      elements(saved.outputs) > 1 << 14 || plan.operations().size() > 16) {
    return false;
  }
  int64_t work = 0;
  for (const Operation& o : plan.operations()) {
    const int64_t* fields = &o.conv2d.chunks;  // sizes of any descriptor are among its first words
    int64_t product = 1;
    for (int i = 1; i < 12; i++) {
      const int64_t f = std::min<int64_t>(std::max<int64_t>(fields[i], 1), 1 << 20);
      product = std::min<int64_t>(product * f, int64_t(1) << 40);
    }
    work += product;
  }
  return work < 1 << 26;
}

static void run(const SavedPlan& saved) {
  std::vector<std::unique_ptr<float[]>> buffers;
  std::vector<float*> externals;
  for (const auto* ios : {&saved.inputs, &saved.outputs}) {
    for (const SavedIo& io : *ios) {
      buffers.emplace_back(new float[(size_t)io.elements]());
      externals.push_back(buffers.back().get());
    }
  }
  Executor executor(1);
  executor.run(*saved.plan, externals.data());
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::unique_ptr<char[]> copy(new char[size + 64]);
  char* aligned = (char*)(((uintptr_t)copy.get() + 63) / 64 * 64);
  memcpy(aligned, data, size);
  correct_checksum(aligned, size);
  const auto bytes = std::make_shared<const PlanBytes>(aligned, size);
  try {
    for (const Isa isa : saved_levels(*bytes)) {
      try {
        const SavedPlan saved = look_at_plan(bytes, isa, false);
        if (isa_supported(isa) && small(saved)) run(saved);
      } catch (const PlanFileError&) {
      }
    }
    read_plan(bytes, nullptr, true);
  } catch (const PlanFileError&) {
  } catch (const PlanIsaError&) {
  } catch (const std::bad_alloc&) {
  }
  return 0;
}
