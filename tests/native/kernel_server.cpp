// Runs single kernels for tests/kernels/emulated.py, under an emulator: requests on stdin, results on stdout.
//
// A request is a Request, the descriptor, the inputs, and the outputs as they are before; the answer is an int64 status
// and the outputs. Every buffer ends, or starts, at a page that may not be touched. Status 0: done; 1: the descriptor
// asks for other sizes; 2: an input changed.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

#include "conv_checks.h"
#include "cpu/dispatch.h"

using namespace fastconv;

namespace {

struct Request {
  char kernel[40];
  int64_t isa, descriptor_bytes, begin, end;  // end < 0: all chunks
  int64_t in[4], out[3];                      // floats, or -1
  int64_t at_start;                           // of their pages
};

struct Guarded {
  Guarded(int64_t floats, bool at_start) : bytes((size_t)floats * sizeof(float)) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = bytes ? (bytes + page - 1) / page * page : page;
    mapped = inside + 2 * page;
    base = (char*)mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + page, inside, PROT_READ | PROT_WRITE) != 0) abort();
    data = (float*)(base + page + (at_start ? 0 : inside - bytes));
  }
  ~Guarded() { munmap(base, mapped); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  size_t bytes, mapped;
  char* base;
  float* data;
};

using Buffer = std::unique_ptr<Guarded>;

bool get(void* to, size_t bytes) { return bytes == 0 || fread(to, bytes, 1, stdin) == 1; }

// A buffer with contents from stdin; null where there is none, and at the end of stdin.
Buffer receive(int64_t floats, bool at_start) {
  if (floats < 0) return nullptr;
  auto made = std::make_unique<Guarded>(floats, at_start);
  return get(made->data, made->bytes) ? std::move(made) : nullptr;
}

template <typename D>
void call(void (*const KernelTable::*kernel)(const D&, const Buffers&, int64_t, int64_t), Op op, const Request& r,
          const char* descriptor, Buffers b) {
  D d;
  if (r.descriptor_bytes != (int64_t)sizeof d) throw std::invalid_argument("size of the descriptor");
  memcpy(&d, descriptor, sizeof d);
  const Isa isa = (Isa)r.isa;
  const Extent needs = extent_for(d, isa, op);
  for (int i = 0; i < 4; i++) {
    if (b.in[i] ? r.in[i] < needs.in[i] : i < needs.optional_from && needs.in[i] > 0) throw std::invalid_argument("in");
  }
  const int64_t written[] = {needs.out, needs.more[0], needs.more[1]};
  for (int i = 0; i < 3; i++) {
    if (written[i] > 0 ? r.out[i] < written[i] : i == 0 && r.out[i] < 0) throw std::invalid_argument("out");
  }
  if (d.chunks < 1) prepare_for(d, isa, op);
  const Guarded scratch((scratch_for(d, isa, op) + 63) / 64 * 16, false);
  b.scratch = scratch.data;
  (kernels(isa).*kernel)(d, b, r.end < 0 ? 0 : r.begin, r.end < 0 ? d.chunks : r.end);
}

bool serve() {
  Request r;
  if (!get(&r, sizeof r)) return false;
  std::vector<char> descriptor((size_t)r.descriptor_bytes);
  if (!get(descriptor.data(), descriptor.size())) return false;
  Buffer in[4], out[3];
  Buffers b{};
  for (int i = 0; i < 4; i++) {
    in[i] = receive(r.in[i], r.at_start);
    if (!in[i] != (r.in[i] < 0)) return false;
    if (in[i]) b.in[i] = in[i]->data;
  }
  std::vector<std::vector<char>> before;
  for (const Buffer& g : in)
    before.emplace_back(g ? std::vector<char>((char*)g->data, (char*)g->data + g->bytes) : std::vector<char>());
  for (int i = 0; i < 3; i++) {
    out[i] = receive(r.out[i], r.at_start);
    if (!out[i] != (r.out[i] < 0)) return false;
    if (out[i]) (i ? b.more[i - 1] : b.out) = out[i]->data;
  }
  int64_t status = 0;
  try {
#define KERNEL(name, Descriptor)                                             \
  if (strcmp(r.kernel, #name) == 0)                                          \
    call<Descriptor>(&KernelTable::name, Op::name, r, descriptor.data(), b); \
  else
#include "cpu/kernels.def"
#undef KERNEL
    throw std::invalid_argument("no such kernel");
  } catch (const std::exception& e) {
    fprintf(stderr, "%s: %s\n", r.kernel, e.what());
    status = 1;
  }
  for (int i = 0; i < 4; i++) {
    if (in[i] && in[i]->bytes && memcmp(in[i]->data, before[i].data(), in[i]->bytes) != 0) status = 2;
  }
  fwrite(&status, sizeof status, 1, stdout);
  for (const Buffer& g : out) {
    if (g && g->bytes) fwrite(g->data, g->bytes, 1, stdout);
  }
  return fflush(stdout) == 0;
}

}  // namespace

int main() {
  while (serve()) {
  }
  return 0;
}
