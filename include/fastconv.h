/* fastconv: run saved plans (.fcplan) from C or C++, without Python.
 *
 * A plan is what `fastconv compile` writes: one network for one input shape, with weights packed for one or several
 * instruction sets. It is read-only and may be used by many threads at once. A session is what one run needs besides:
 * an arena and threads. One session runs one thing at a time; for several at once make several sessions of one plan.
 *
 * Nothing here allocates while a session runs, keeps global state, writes to stdout or stderr, aborts, or lets a C++
 * exception out. Data are float32; images have the axes that the model gave them, N C H W in most ONNX files, N H W C
 * where the plan was made of layers: fastconv_plan_input says which. Functions that can fail return a status. Those
 * with an argument `error` fill in its message where it is not null: what is wrong, or nothing after FASTCONV_OK. Of a
 * null plan every size and count is 0, every string is null, and the rest is FASTCONV_INVALID_ARGUMENT. Plans are
 * untrusted: every offset, size, shape and name is checked before it is used. A file that shrinks while it is mapped
 * ends the process (SIGBUS).
 */
#ifndef FASTCONV_H
#define FASTCONV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FASTCONV_API __attribute__((visibility("default")))
#else
#define FASTCONV_API
#endif

#define FASTCONV_MAX_RANK 8

typedef enum fastconv_status {
  FASTCONV_OK = 0,
  FASTCONV_INVALID_ARGUMENT = 1, /* a null pointer, an index out of range, an arena that is too small */
  FASTCONV_IO = 2,               /* the file cannot be opened or mapped */
  FASTCONV_BAD_PLAN = 3,         /* not a plan, broken, or of another version */
  FASTCONV_NO_ISA = 4,           /* no variant of the plan runs on this CPU or in this build */
  FASTCONV_NO_MEMORY = 5,
  FASTCONV_INTERNAL = 6,
  FASTCONV_NO_KERNEL = 7 /* FASTCONV_KERNELS has left a kernel out of this build that the plan needs */
} fastconv_status;

typedef struct fastconv_plan fastconv_plan;
typedef struct fastconv_session fastconv_session;

typedef struct fastconv_error {
  char message[256];
} fastconv_error;

typedef struct fastconv_tensor {
  const char* name;  /* lives as long as the plan, as all strings here */
  const char* dtype; /* what the model declares: "float32", "float16", "int64" ...; data are float all the same */
  int rank;
  int64_t dims[FASTCONV_MAX_RANK];
  size_t elements;
  int ragged; /* an output of unknown length: rows from the first with a negative number on are empty */
} fastconv_tensor;

typedef struct fastconv_operation {
  const char* name;
  const char* op;        /* the ONNX operator */
  const char* algorithm; /* how it is computed */
  const char* kernel;
  int64_t flops; /* of direct summation */
  int64_t bytes; /* read and written, each tensor once */
} fastconv_operation;

enum { FASTCONV_VERIFY = 1 }; /* also check the sum of the weights: reads the whole file once */

FASTCONV_API const char* fastconv_version(void);
FASTCONV_API const char* fastconv_status_name(fastconv_status status);
FASTCONV_API int fastconv_has_isa(
    const char* isa); /* whether this CPU and build run "avx2", "avx512", "neon", "scalar" */

/* Maps a plan. isa: a level by name, or null for the best one that the file has and this CPU runs. */
FASTCONV_API fastconv_status fastconv_plan_open(const char* path, const char* isa, unsigned flags, fastconv_plan** plan,
                                                fastconv_error* error);
/* The same from memory, which must be 64-byte aligned and stay until the plan is closed. */
FASTCONV_API fastconv_status fastconv_plan_from_memory(const void* data, size_t bytes, const char* isa, unsigned flags,
                                                       fastconv_plan** plan, fastconv_error* error);
/* Null is ignored. Sessions of the plan must be closed before. */
FASTCONV_API void fastconv_plan_close(fastconv_plan* plan);

FASTCONV_API const char* fastconv_plan_name(const fastconv_plan* plan);
FASTCONV_API const char* fastconv_plan_isa(const fastconv_plan* plan);
FASTCONV_API size_t fastconv_plan_weight_bytes(const fastconv_plan* plan);
FASTCONV_API size_t fastconv_plan_activation_bytes(const fastconv_plan* plan); /* without scratch memory */
FASTCONV_API size_t fastconv_plan_input_count(const fastconv_plan* plan);
FASTCONV_API size_t fastconv_plan_output_count(const fastconv_plan* plan);
FASTCONV_API size_t fastconv_plan_operation_count(const fastconv_plan* plan);
FASTCONV_API size_t fastconv_plan_label_count(const fastconv_plan* plan);
FASTCONV_API fastconv_status fastconv_plan_input(const fastconv_plan* plan, size_t index, fastconv_tensor* tensor);
FASTCONV_API fastconv_status fastconv_plan_output(const fastconv_plan* plan, size_t index, fastconv_tensor* tensor);
FASTCONV_API fastconv_status fastconv_plan_operation(const fastconv_plan* plan, size_t index, fastconv_operation* op);
FASTCONV_API const char* fastconv_plan_label(const fastconv_plan* plan, size_t index); /* null where there is none */
/* What the model's file said of itself, such as "fastconv.preset", its preprocessing in JSON. Null where it says
 * nothing of that. */
FASTCONV_API const char* fastconv_plan_metadata(const fastconv_plan* plan, const char* key);

/* Bytes that a session needs on so many threads: the activations, and scratch memory of each thread. */
FASTCONV_API size_t fastconv_plan_arena_bytes(const fastconv_plan* plan, int threads);

/* threads: how many compute, the caller among them; 0 and 1 start none. Where the system starts no more, fewer compute:
 * the result is the same. arena: arena_bytes at any address, which the
 * session uses until it is closed; null: the session takes its own. */
FASTCONV_API fastconv_status fastconv_session_create(const fastconv_plan* plan, int threads, void* arena,
                                                     size_t arena_bytes, fastconv_session** session,
                                                     fastconv_error* error);
FASTCONV_API void fastconv_session_close(fastconv_session* session); /* null is ignored */

/* inputs[i] and outputs[i] hold as many floats as fastconv_plan_input and _output say; they must not overlap. The
 * result does not depend on the number of threads. */
FASTCONV_API fastconv_status fastconv_session_run(fastconv_session* session, const float* const* inputs,
                                                  float* const* outputs, fastconv_error* error);
/* The same; adds the time of each operation to nanoseconds[operation_count]. */
FASTCONV_API fastconv_status fastconv_session_profile(fastconv_session* session, const float* const* inputs,
                                                      float* const* outputs, int64_t* nanoseconds,
                                                      fastconv_error* error);

#ifdef __cplusplus
}
#endif

#endif
