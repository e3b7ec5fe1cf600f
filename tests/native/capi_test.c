/* fastconv.h from C: capi_test PLAN OTHER LEVEL
 *
 * Errors of every kind, an arena of the caller's at an odd address, no allocation in a run, the same bits for every
 * number of threads, profiles, plans from memory. Exit code 1 and one line for the first thing that is wrong.
 */
#include <fastconv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void count_start(void); /* tests/native/count_allocations.c, linked in */
long count_stop(void);

#define CHECK(condition)                                                 \
  do {                                                                   \
    if (!(condition)) {                                                  \
      printf("line %d: %s (%s)\n", __LINE__, #condition, error.message); \
      exit(1);                                                           \
    }                                                                    \
  } while (0)

static fastconv_error error;
static const char* level;

static fastconv_plan* open_plan(const char* path) {
  fastconv_plan* plan = NULL;
  CHECK(fastconv_plan_open(path, level, FASTCONV_VERIFY, &plan, &error) == FASTCONV_OK);
  return plan;
}

static float* floats(size_t n, unsigned seed) {
  float* x = malloc(n * sizeof(float));
  for (size_t i = 0; i < n; i++) {
    seed = seed * 1664525u + 1013904223u;
    x[i] = (float)(seed >> 8) / (1 << 23) - 1.0f;
  }
  return x;
}

static void wrong_arguments(const char* path, const fastconv_plan* plan) {
  fastconv_plan* none = (fastconv_plan*)plan;
  fastconv_session* session = NULL;
  fastconv_tensor tensor;
  fastconv_operation operation;
  CHECK(fastconv_plan_open(NULL, NULL, 0, &none, &error) == FASTCONV_INVALID_ARGUMENT);
  CHECK(fastconv_plan_open(path, NULL, 0, NULL, &error) == FASTCONV_INVALID_ARGUMENT);
  CHECK(fastconv_plan_open(path, "sse", 0, &none, &error) == FASTCONV_INVALID_ARGUMENT && none == NULL);
  CHECK(strstr(error.message, "\"sse\"") && strstr(error.message, "avx512 or neon"));
  CHECK(fastconv_plan_open(path, NULL, 64, &none, &error) == FASTCONV_INVALID_ARGUMENT);
  CHECK(fastconv_plan_open("/nowhere/x.fcplan", NULL, 0, &none, &error) == FASTCONV_IO);
  CHECK(strstr(error.message, "/nowhere/x.fcplan") && strstr(error.message, "No such file"));
  CHECK(fastconv_plan_open("/nowhere/x.fcplan", NULL, 0, &none, NULL) == FASTCONV_IO);
  CHECK(fastconv_plan_open("/", NULL, 0, &none, &error) == FASTCONV_BAD_PLAN);
  CHECK(fastconv_plan_input(plan, 99, &tensor) == FASTCONV_INVALID_ARGUMENT);
  CHECK(fastconv_plan_output(plan, 0, NULL) == FASTCONV_INVALID_ARGUMENT);
  CHECK(fastconv_plan_operation(plan, 1 << 20, &operation) == FASTCONV_INVALID_ARGUMENT);
  CHECK(fastconv_plan_label(plan, 1 << 20) == NULL);
  CHECK(fastconv_plan_metadata(plan, "nothing") == NULL && fastconv_plan_metadata(plan, NULL) == NULL);
  CHECK(fastconv_session_create(NULL, 0, NULL, 0, &session, &error) == FASTCONV_INVALID_ARGUMENT);
  CHECK(fastconv_session_create(plan, -7, NULL, 0, &session, &error) == FASTCONV_INVALID_ARGUMENT);
  CHECK(strcmp(error.message, "threads: -7, expected 0 to 1024") == 0);
  char small[64];
  CHECK(fastconv_session_create(plan, 0, small, sizeof small, &session, &error) == FASTCONV_INVALID_ARGUMENT);
  CHECK(session == NULL && strstr(error.message, "the arena has 64 bytes"));
  CHECK(fastconv_session_run(NULL, NULL, NULL, &error) == FASTCONV_INVALID_ARGUMENT);
  CHECK(strcmp(fastconv_status_name(FASTCONV_NO_ISA), "no isa") == 0);
  CHECK(strcmp(fastconv_status_name(FASTCONV_NO_KERNEL), "no kernel") == 0);
  CHECK(strcmp(fastconv_status_name((fastconv_status)99), "unknown status") == 0);
  fastconv_plan_close(NULL);
  fastconv_session_close(NULL);
}

/* What is asked of no plan at all. */
static void no_plan(void) {
  fastconv_tensor tensor;
  fastconv_operation operation;
  CHECK(fastconv_plan_name(NULL) == NULL && fastconv_plan_isa(NULL) == NULL);
  CHECK(fastconv_plan_label(NULL, 0) == NULL && fastconv_plan_metadata(NULL, "author") == NULL);
  CHECK(fastconv_plan_weight_bytes(NULL) == 0 && fastconv_plan_activation_bytes(NULL) == 0);
  CHECK(fastconv_plan_arena_bytes(NULL, 2) == 0 && fastconv_plan_input_count(NULL) == 0);
  CHECK(fastconv_plan_output_count(NULL) == 0 && fastconv_plan_operation_count(NULL) == 0);
  CHECK(fastconv_plan_label_count(NULL) == 0);
  CHECK(fastconv_plan_input(NULL, 0, &tensor) == FASTCONV_INVALID_ARGUMENT);
  CHECK(fastconv_plan_output(NULL, 0, &tensor) == FASTCONV_INVALID_ARGUMENT);
  CHECK(fastconv_plan_operation(NULL, 0, &operation) == FASTCONV_INVALID_ARGUMENT);
}

/* A run in an arena that ends where the plan says it may, at an odd address. */
static float* run(const fastconv_plan* plan, int threads, const float* x, size_t n) {
  const size_t bytes = fastconv_plan_arena_bytes(plan, threads);
  unsigned char* memory = malloc(bytes + 1 + 64);
  memset(memory, 0xa5, bytes + 65);
  fastconv_session* session;
  CHECK(fastconv_session_create(plan, threads, memory + 1, bytes, &session, &error) == FASTCONV_OK);
  const size_t outputs = fastconv_plan_output_count(plan);
  float* y[8];
  for (size_t i = 0; i < outputs; i++) {
    fastconv_tensor t;
    CHECK(fastconv_plan_output(plan, i, &t) == FASTCONV_OK);
    y[i] = floats(t.elements, 7);
  }
  const float* inputs[] = {x};
  const float* missing[] = {NULL};
  CHECK(fastconv_session_run(session, missing, y, &error) == FASTCONV_INVALID_ARGUMENT);
  count_start();
  for (int i = 0; i < 3; i++) CHECK(fastconv_session_run(session, inputs, y, &error) == FASTCONV_OK);
  CHECK(count_stop() == 0);
  const size_t operations = fastconv_plan_operation_count(plan);
  int64_t* times = calloc(operations, sizeof *times);
  CHECK(fastconv_session_profile(session, inputs, y, times, &error) == FASTCONV_OK);
  int64_t total = 0;
  for (size_t i = 0; i < operations; i++) total += times[i];
  CHECK(total > 0);
  fastconv_session_close(session);
  for (int i = 0; i < 64; i++) CHECK(memory[bytes + 1 + i] == 0xa5);
  CHECK(memory[0] == 0xa5);
  (void)n;
  free(times);
  free(memory);
  for (size_t i = 1; i < outputs; i++) free(y[i]);
  return y[0];
}

static void from_memory(const char* path, const float* x, const float* want, size_t bytes) {
  FILE* file = fopen(path, "rb");
  fseek(file, 0, SEEK_END);
  const size_t size = (size_t)ftell(file);
  rewind(file);
  char* data = aligned_alloc(64, (size + 127) / 64 * 64);
  CHECK(fread(data, 1, size, file) == size);
  fclose(file);
  fastconv_plan* plan = NULL;
  CHECK(fastconv_plan_from_memory(NULL, size, level, 0, &plan, &error) == FASTCONV_INVALID_ARGUMENT);
  CHECK(strcmp(error.message, "data is null") == 0);
  CHECK(fastconv_plan_from_memory(data + 4, size, level, 0, &plan, &error) == FASTCONV_INVALID_ARGUMENT);
  CHECK(fastconv_plan_from_memory(data, size - 1, level, 0, &plan, &error) == FASTCONV_BAD_PLAN);
  CHECK(strstr(error.message, "truncated or lengthened"));
  CHECK(fastconv_plan_from_memory(data, 0, level, 0, &plan, &error) == FASTCONV_BAD_PLAN);
  CHECK(fastconv_plan_from_memory(data, size, level, FASTCONV_VERIFY, &plan, &error) == FASTCONV_OK);
  float* y = run(plan, 0, x, 0);
  CHECK(memcmp(y, want, bytes) == 0);
  free(y);
  fastconv_plan_close(plan);
  data[100] ^= 1;
  CHECK(fastconv_plan_from_memory(data, size, level, FASTCONV_VERIFY, &plan, &error) == FASTCONV_BAD_PLAN);
  free(data);
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  level = argv[3];
  CHECK(fastconv_has_isa(level) && !fastconv_has_isa("sse") && !fastconv_has_isa(NULL));
  fastconv_plan* plan = open_plan(argv[1]);
  wrong_arguments(argv[1], plan);
  no_plan();
  CHECK(strcmp(fastconv_plan_isa(plan), level) == 0 && strlen(fastconv_version()) >= 5);
  fastconv_tensor input, output;
  fastconv_operation operation;
  CHECK(fastconv_plan_input(plan, 0, &input) == FASTCONV_OK && fastconv_plan_output(plan, 0, &output) == FASTCONV_OK);
  CHECK(fastconv_plan_operation(plan, 0, &operation) == FASTCONV_OK && strlen(operation.kernel) > 0);
  CHECK(strcmp(input.dtype, "float32") == 0 && input.rank == 4);
  CHECK(fastconv_plan_metadata(plan, "author") && strcmp(fastconv_plan_metadata(plan, "author"), "tests") == 0);
  CHECK(fastconv_plan_weight_bytes(plan) > 0 && fastconv_plan_activation_bytes(plan) > 0);
  float* x = floats(input.elements, 1);
  const size_t bytes = output.elements * sizeof(float);
  float* want = run(plan, 0, x, 0);
  for (int threads = 1; threads <= 3; threads++) {
    float* y = run(plan, threads, x, 0);
    CHECK(memcmp(y, want, bytes) == 0);
    free(y);
  }
  from_memory(argv[1], x, want, bytes);
  fastconv_session* session; /* one that takes its own memory */
  CHECK(fastconv_session_create(plan, 2, NULL, 0, &session, &error) == FASTCONV_OK);
  fastconv_session_close(session);
  fastconv_plan* other = NULL; /* for another CPU */
  CHECK(fastconv_plan_open(argv[2], NULL, 0, &other, &error) == FASTCONV_NO_ISA && other == NULL);
  printf("capi: %s, %s: right, and %s\n", fastconv_version(), level, error.message);
  fastconv_plan_close(plan);
  free(x);
  free(want);
  return 0;
}
