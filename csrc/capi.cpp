// fastconv.h on saved plans: every exception ends here as a status and a message.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <new>
#include <system_error>

#include "fastconv.h"
#include "plan_file.h"

using namespace fastconv;

struct fastconv_plan {
  SavedPlan saved;
};

struct fastconv_session {
  fastconv_session(const fastconv_plan* p, int threads) : plan(p), pool(threads) {}
  const fastconv_plan* plan;
  ThreadPool pool;
  Block own;  // where the caller gave no arena
  char* arena = nullptr;
  float* scratch = nullptr;
  std::vector<float*> externals;
};

namespace {

constexpr int MOST_THREADS = 1024;
constexpr size_t LINE = 64;
static_assert(sizeof(size_t) == 8, "sizes of a plan are 64 bits");

__attribute__((format(printf, 3, 4))) fastconv_status fail(fastconv_error* error, fastconv_status status,
                                                           const char* format, ...) {
  if (error) {
    va_list args;
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
  }
  return status;
}

// Runs `f`, which may throw.
template <typename F>
fastconv_status guarded(fastconv_error* error, const F& f) {
  if (error) error->message[0] = 0;
  try {
    return f();
  } catch (const PlanFileError& e) {
    return fail(error, FASTCONV_BAD_PLAN, "%s", e.what());
  } catch (const PlanIsaError& e) {
    return fail(error, FASTCONV_NO_ISA, "%s", e.what());
  } catch (const PlanKernelError& e) {
    return fail(error, FASTCONV_NO_KERNEL, "%s", e.what());
  } catch (const std::bad_alloc&) {
    return fail(error, FASTCONV_NO_MEMORY, "out of memory");
  } catch (const std::system_error& e) {
    return fail(error, FASTCONV_IO, "%s", e.what());
  } catch (const std::exception& e) {
    return fail(error, FASTCONV_INTERNAL, "%s", e.what());
  } catch (...) {
    return fail(error, FASTCONV_INTERNAL, "unknown exception");
  }
}

template <typename Open>
fastconv_status open_plan(const Open& bytes, const char* isa, unsigned flags, fastconv_plan** plan,
                          fastconv_error* error) {
  if (!plan) return fail(error, FASTCONV_INVALID_ARGUMENT, "plan is null");
  *plan = nullptr;
  if (flags & ~(unsigned)FASTCONV_VERIFY) return fail(error, FASTCONV_INVALID_ARGUMENT, "unknown flags %#x", flags);
  Isa level;
  if (isa && !isa_from_name(isa, &level)) {
    return fail(error, FASTCONV_INVALID_ARGUMENT,
                "unknown instruction set \"%.80s\": expected scalar, avx2, avx512 or neon", isa);
  }
  return guarded(error, [&] {
    *plan = new fastconv_plan{read_plan(bytes(), isa ? &level : nullptr, flags & FASTCONV_VERIFY)};
    return FASTCONV_OK;
  });
}

fastconv_status describe(const std::vector<SavedIo>& ios, size_t index, fastconv_tensor* tensor) {
  if (!tensor || index >= ios.size()) return FASTCONV_INVALID_ARGUMENT;
  const SavedIo& io = ios[index];
  *tensor = fastconv_tensor{};
  tensor->name = io.name;
  tensor->dtype = io.dtype;
  tensor->rank = (int)io.dims.size();
  for (size_t i = 0; i < io.dims.size(); i++) tensor->dims[i] = io.dims[i];
  tensor->elements = (size_t)io.elements;
  tensor->ragged = io.ragged;
  return FASTCONV_OK;
}

size_t round_up(size_t n) { return (n + LINE - 1) / LINE * LINE; }

int thread_count(int threads) { return std::clamp(threads, 1, MOST_THREADS); }

fastconv_status run(fastconv_session* s, const float* const* inputs, float* const* outputs, int64_t* nanoseconds,
                    fastconv_error* error) {
  if (!s || !inputs || !outputs) return fail(error, FASTCONV_INVALID_ARGUMENT, "a null pointer");
  const SavedPlan& saved = s->plan->saved;
  const size_t n = saved.inputs.size();
  for (size_t i = 0; i < s->externals.size(); i++) {
    s->externals[i] = i < n ? const_cast<float*>(inputs[i]) : outputs[i - n];
    if (!s->externals[i]) return fail(error, FASTCONV_INVALID_ARGUMENT, "a null input or output");
    if ((uintptr_t)s->externals[i] % sizeof(float)) return fail(error, FASTCONV_INVALID_ARGUMENT, "floats out of line");
  }
  return guarded(error, [&] {
    saved.plan->run(s->arena, s->scratch, s->externals.data(), s->pool, nanoseconds);
    return FASTCONV_OK;
  });
}

}  // namespace

extern "C" {

const char* fastconv_version(void) { return FASTCONV_VERSION; }

const char* fastconv_status_name(fastconv_status status) {
  static const char* const names[] = {"ok",     "invalid argument", "input or output", "bad plan",
                                      "no isa", "no memory",        "internal error",  "no kernel"};
  return (unsigned)status < 8 ? names[status] : "unknown status";
}

int fastconv_has_isa(const char* isa) {
  Isa level;
  return isa && isa_from_name(isa, &level) && isa_supported(level);
}

fastconv_status fastconv_plan_open(const char* path, const char* isa, unsigned flags, fastconv_plan** plan,
                                   fastconv_error* error) {
  if (!path) return fail(error, FASTCONV_INVALID_ARGUMENT, "path is null");
  return open_plan([&] { return std::make_shared<const PlanBytes>(path); }, isa, flags, plan, error);
}

fastconv_status fastconv_plan_from_memory(const void* data, size_t bytes, const char* isa, unsigned flags,
                                          fastconv_plan** plan, fastconv_error* error) {
  if (!data) return fail(error, FASTCONV_INVALID_ARGUMENT, "data is null");
  if ((uintptr_t)data % LINE) return fail(error, FASTCONV_INVALID_ARGUMENT, "data are not 64-byte aligned");
  return open_plan([&] { return std::make_shared<const PlanBytes>(data, bytes); }, isa, flags, plan, error);
}

void fastconv_plan_close(fastconv_plan* plan) { delete plan; }

const char* fastconv_plan_name(const fastconv_plan* plan) { return plan ? plan->saved.model : nullptr; }
const char* fastconv_plan_isa(const fastconv_plan* plan) { return plan ? isa_name(plan->saved.plan->isa()) : nullptr; }
size_t fastconv_plan_weight_bytes(const fastconv_plan* plan) { return plan ? (size_t)plan->saved.weight_bytes : 0; }
size_t fastconv_plan_activation_bytes(const fastconv_plan* plan) {
  return plan ? (size_t)plan->saved.plan->arena_bytes() : 0;
}
size_t fastconv_plan_input_count(const fastconv_plan* plan) { return plan ? plan->saved.inputs.size() : 0; }
size_t fastconv_plan_output_count(const fastconv_plan* plan) { return plan ? plan->saved.outputs.size() : 0; }
size_t fastconv_plan_operation_count(const fastconv_plan* plan) { return plan ? plan->saved.operations.size() : 0; }
size_t fastconv_plan_label_count(const fastconv_plan* plan) { return plan ? plan->saved.labels.size() : 0; }

fastconv_status fastconv_plan_input(const fastconv_plan* plan, size_t index, fastconv_tensor* tensor) {
  return plan ? describe(plan->saved.inputs, index, tensor) : FASTCONV_INVALID_ARGUMENT;
}

fastconv_status fastconv_plan_output(const fastconv_plan* plan, size_t index, fastconv_tensor* tensor) {
  return plan ? describe(plan->saved.outputs, index, tensor) : FASTCONV_INVALID_ARGUMENT;
}

fastconv_status fastconv_plan_operation(const fastconv_plan* plan, size_t index, fastconv_operation* op) {
  if (!plan || !op || index >= plan->saved.operations.size()) return FASTCONV_INVALID_ARGUMENT;
  const SavedOp& o = plan->saved.operations[index];
  *op = fastconv_operation{o.name, o.op, o.algorithm, o.kernel, o.flops, o.bytes};
  return FASTCONV_OK;
}

const char* fastconv_plan_label(const fastconv_plan* plan, size_t index) {
  return plan && index < plan->saved.labels.size() ? plan->saved.labels[index] : nullptr;
}

const char* fastconv_plan_metadata(const fastconv_plan* plan, const char* key) {
  if (!plan || !key) return nullptr;
  for (const auto& [name, value] : plan->saved.metadata) {
    if (strcmp(name, key) == 0) return value;
  }
  return nullptr;
}

size_t fastconv_plan_arena_bytes(const fastconv_plan* plan, int threads) {
  if (!plan) return 0;
  const Plan& p = *plan->saved.plan;  // both sizes are at most 2^46
  return LINE + round_up((size_t)p.arena_bytes()) + round_up((size_t)p.scratch_bytes()) * (size_t)thread_count(threads);
}

fastconv_status fastconv_session_create(const fastconv_plan* plan, int threads, void* arena, size_t arena_bytes,
                                        fastconv_session** session, fastconv_error* error) {
  if (!session) return fail(error, FASTCONV_INVALID_ARGUMENT, "session is null");
  *session = nullptr;
  if (!plan) return fail(error, FASTCONV_INVALID_ARGUMENT, "plan is null");
  if (threads < 0 || threads > MOST_THREADS)
    return fail(error, FASTCONV_INVALID_ARGUMENT, "threads: %d, expected 0 to %d", threads, MOST_THREADS);
  const size_t needed = fastconv_plan_arena_bytes(plan, threads);
  if (arena && arena_bytes < needed) {
    return fail(error, FASTCONV_INVALID_ARGUMENT, "the arena has %zu bytes, but fastconv_plan_arena_bytes is %zu",
                arena_bytes, needed);
  }
  return guarded(error, [&] {
    auto s = std::make_unique<fastconv_session>(plan, thread_count(threads));
    const SavedPlan& saved = plan->saved;
    s->externals.resize(std::max(saved.inputs.size() + saved.outputs.size(), saved.plan->external_sizes().size()));
    if (!arena) s->own = Block(needed);
    const uintptr_t from = (uintptr_t)(arena ? arena : s->own.data());
    s->arena = (char*)round_up(from);
    s->scratch = (float*)(s->arena + round_up((size_t)saved.plan->arena_bytes()));
    saved.plan->before_first_run();
    // Its threads start now, so that no run allocates.
    s->pool.run(s->pool.threads(), [](void*, int64_t, int64_t, int) {}, nullptr);
    *session = s.release();
    return FASTCONV_OK;
  });
}

void fastconv_session_close(fastconv_session* session) { delete session; }

fastconv_status fastconv_session_run(fastconv_session* session, const float* const* inputs, float* const* outputs,
                                     fastconv_error* error) {
  return run(session, inputs, outputs, nullptr, error);
}

fastconv_status fastconv_session_profile(fastconv_session* session, const float* const* inputs, float* const* outputs,
                                         int64_t* nanoseconds, fastconv_error* error) {
  if (!nanoseconds) return fail(error, FASTCONV_INVALID_ARGUMENT, "nanoseconds is null");
  return run(session, inputs, outputs, nanoseconds, error);
}

}  // extern "C"
