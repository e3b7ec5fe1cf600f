/* Classifies an image with a saved plan, without Python: the five best classes, and how long it took.
 *
 *   classify PLAN IMAGE [--isa NAME] [--threads N] [--runs N] [--mean A,B,C] [--std A,B,C] [--dump FILE] [--trust]
 *
 * The plan takes one image [1, 3, H, W] or [1, H, W, 3]. IMAGE is a PPM file (P6) of that size, H * W * 3 bytes (R G B
 * R G B ...), or the input itself as little-endian float32. Bytes become (byte / 255 - mean) / std for each channel.
 * --dump writes the first output as float32. The sum of the weights is checked unless --trust is given, which saves
 * reading them all.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include <ctype.h>
#include <fastconv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct options {
  const char *plan, *image, *isa, *dump;
  int threads, runs, trust;
  float mean[3], std[3];
} options;

static int fail(const char* what, const char* why) {
  fprintf(stderr, "classify: %s: %s\n", what, why);
  return 1;
}

static double milliseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}

static int three(const char* text, float out[3]) { return sscanf(text, "%f,%f,%f", out, out + 1, out + 2) == 3; }

static int count(const char* text, int* out) {
  char* end;
  const long n = strtol(text, &end, 10);
  *out = (int)n;
  return end != text && *end == 0 && n >= 0 && n <= 4096;
}

static int parse(int argc, char** argv, options* o) {
  const options defaults = {NULL, NULL, NULL, NULL, 0, 1, 0, {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};
  *o = defaults; /* the usual mean and deviation of ImageNet */
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(a, "--trust") == 0) {
      o->trust = 1;
    } else if (strncmp(a, "--", 2) == 0) {
      if (!value) return 0;
      i++;
      if (strcmp(a, "--isa") == 0) {
        o->isa = value;
      } else if (strcmp(a, "--dump") == 0) {
        o->dump = value;
      } else if (strcmp(a, "--threads") == 0) {
        if (!count(value, &o->threads)) return 0;
      } else if (strcmp(a, "--runs") == 0) {
        if (!count(value, &o->runs)) return 0;
      } else if (!(strcmp(a, "--mean") == 0 && three(value, o->mean)) &&
                 !(strcmp(a, "--std") == 0 && three(value, o->std))) {
        return 0;
      }
    } else if (!o->plan) {
      o->plan = a;
    } else if (!o->image) {
      o->image = a;
    } else {
      return 0;
    }
  }
  return o->image != NULL && o->runs >= 1;
}

/* The whole file, to be freed; null where that fails. */
static unsigned char* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (!file) return NULL;
  unsigned char* data = NULL;
  if (fseek(file, 0, SEEK_END) == 0) {
    const long end = ftell(file);
    rewind(file);
    data = end < 0 ? NULL : malloc((size_t)end + 1);
    *size = end < 0 ? 0 : (size_t)end;
    if (data && fread(data, 1, *size, file) != *size) {
      free(data);
      data = NULL;
    }
    if (data) data[*size] = 0;
  }
  fclose(file);
  return data;
}

/* The next number of a PPM's head, behind white space and comments; -1 where there is none. A zero follows the data. */
static long ppm_number(const unsigned char* data, size_t* at) {
  while (isspace(data[*at]) || data[*at] == '#') {
    if (data[(*at)++] == '#') *at += strcspn((const char*)data + *at, "\n");
  }
  if (!isdigit(data[*at])) return -1;
  char* end;
  const long n = strtol((const char*)data + *at, &end, 10);
  *at = (size_t)(end - (const char*)data);
  return n;
}

/* The pixels of a PPM of this size: "P6 width height 255", one white space, bytes. Null where it is something else. */
static const unsigned char* ppm_pixels(const unsigned char* data, size_t size, int64_t width, int64_t height) {
  size_t at = 2;
  if (ppm_number(data, &at) != width || ppm_number(data, &at) != height || ppm_number(data, &at) != 255) return NULL;
  const size_t pixels = (size_t)(width * height * 3);
  return size > at && size - at - 1 >= pixels ? data + at + 1 : NULL;
}

static int channels_last(const fastconv_tensor* input) { return input->dims[1] != 3; }

static int load_image(const options* o, const fastconv_tensor* input, float* x) {
  size_t size = 0;
  unsigned char* data = read_file(o->image, &size);
  if (!data) return fail(o->image, "cannot be read");
  const int last = channels_last(input);
  const int64_t height = input->dims[last ? 1 : 2], width = input->dims[last ? 2 : 3], plane = height * width;
  const unsigned char* pixels = size >= 2 && memcmp(data, "P6", 2) == 0 ? ppm_pixels(data, size, width, height)
                                : size == (size_t)(3 * plane)           ? data
                                                                        : NULL;
  int failed = 0;
  if (pixels) {
    for (int64_t i = 0; i < plane; i++) {
      for (int c = 0; c < 3; c++) {
        x[last ? 3 * i + c : c * plane + i] = ((float)pixels[3 * i + c] / 255.0f - o->mean[c]) / o->std[c];
      }
    }
  } else if (size == input->elements * sizeof(float)) {
    memcpy(x, data, size);
  } else {
    char text[128];
    snprintf(text, sizeof text, "expected a PPM file, bytes or floats of %lld x %lld pixels", (long long)width,
             (long long)height);
    failed = fail(o->image, text);
  }
  free(data);
  return failed;
}

static void print_best(const fastconv_plan* plan, const float* y, size_t n) {
  double sum = 0, most = y[0], total = 0;
  for (size_t i = 0; i < n; i++) {
    sum += y[i];
    if (y[i] > most) most = y[i];
  }
  const int probabilities = fabs(sum - 1) < 1e-3; /* else they go through a softmax */
  for (size_t i = 0; i < n; i++) total += exp(y[i] - most);
  size_t shown[5];
  for (size_t k = 0; k < 5 && k < n; k++) {
    size_t best = n;
    for (size_t i = 0; i < n; i++) {
      int taken = 0;
      for (size_t j = 0; j < k; j++) taken = taken || shown[j] == i;
      if (!taken && (best == n || y[i] > y[best])) best = i;
    }
    shown[k] = best;
    const char* label = fastconv_plan_label(plan, best);
    printf("%6.2f%%  %s", 100 * (probabilities ? y[best] : exp(y[best] - most) / total), label ? label : "class");
    printf(label ? "\n" : " %zu\n", best);
  }
}

static int by_value(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

/* Runs and prints; load_ms: what opening the plan took. The session takes its memory itself; a program that has none to
 * give away passes fastconv_plan_arena_bytes of its own. */
static int run(const options* o, const fastconv_plan* plan, double load_ms, const float* x, float** y, size_t classes) {
  double* took = malloc((size_t)o->runs * sizeof(double));
  if (!took) return fail(o->plan, "out of memory");
  fastconv_error error;
  fastconv_session* session = NULL;
  double start = milliseconds();
  int failed = 0;
  if (fastconv_session_create(plan, o->threads, NULL, 0, &session, &error) != FASTCONV_OK) {
    failed = fail(o->plan, error.message);
  }
  const double session_ms = milliseconds() - start;
  for (int i = 0; !failed && i < o->runs; i++) {
    start = milliseconds();
    if (fastconv_session_run(session, &x, y, &error) != FASTCONV_OK) failed = fail(o->plan, error.message);
    took[i] = milliseconds() - start;
  }
  fastconv_session_close(session);
  if (!failed) {
    const double first = load_ms + session_ms + took[0];
    qsort(took, (size_t)o->runs, sizeof(double), by_value);
    print_best(plan, y[0], classes);
    printf("load %.2f ms, first answer after %.2f ms, median of %d runs %.2f ms; %s, arena %zu bytes\n", load_ms, first,
           o->runs, took[o->runs / 2], fastconv_plan_isa(plan), fastconv_plan_arena_bytes(plan, o->threads));
  }
  free(took);
  return failed;
}

static int classify(const options* o, const fastconv_plan* plan, double load_ms) {
  fastconv_tensor input, output;
  fastconv_plan_input(plan, 0, &input);
  fastconv_plan_output(plan, 0, &output);
  if (fastconv_plan_input_count(plan) != 1 || input.rank != 4 || input.dims[0] != 1 ||
      (input.dims[1] != 3 && input.dims[3] != 3)) {
    return fail(o->plan, "expected a plan for one image [1, 3, H, W] or [1, H, W, 3]");
  }
  const size_t outputs = fastconv_plan_output_count(plan);
  float* x = malloc(input.elements * sizeof(float));
  float** y = calloc(outputs, sizeof(float*));
  int failed = !x || !y ? fail(o->plan, "out of memory") : load_image(o, &input, x);
  for (size_t i = 0; !failed && i < outputs; i++) {
    fastconv_tensor t;
    fastconv_plan_output(plan, i, &t);
    if (!(y[i] = malloc(t.elements * sizeof(float)))) failed = fail(o->plan, "out of memory");
  }
  if (!failed) failed = run(o, plan, load_ms, x, y, output.elements);
  if (!failed && o->dump) {
    FILE* file = fopen(o->dump, "wb");
    if (!file || fwrite(y[0], sizeof(float), output.elements, file) != output.elements) {
      failed = fail(o->dump, "cannot be written");
    }
    if (file) fclose(file);
  }
  for (size_t i = 0; y && i < outputs; i++) free(y[i]);
  free(y);
  free(x);
  return failed;
}

int main(int argc, char** argv) {
  options o;
  if (!parse(argc, argv, &o)) {
    fprintf(
        stderr,
        "usage: classify PLAN IMAGE [--isa NAME] [--threads N] [--runs N] [--mean A,B,C] [--std A,B,C] [--dump FILE] "
        "[--trust]\n");
    return 2;
  }
  fastconv_plan* plan = NULL;
  fastconv_error error;
  const double start = milliseconds();
  const fastconv_status status = fastconv_plan_open(o.plan, o.isa, o.trust ? 0 : FASTCONV_VERIFY, &plan, &error);
  if (status == FASTCONV_IO) return fail("plan", error.message); /* which has the path */
  if (status != FASTCONV_OK) return fail(o.plan, error.message);
  const int failed = classify(&o, plan, milliseconds() - start);
  fastconv_plan_close(plan);
  return failed;
}
