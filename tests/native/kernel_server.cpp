// Runs single kernels for tests/kernels/emulated.py, under an emulator: requests on stdin, results on stdout.
//
// A request is a Request, the descriptor, the inputs and the output as it is before; the answer is an int64 status and
// the output. Every buffer ends at a page that may not be touched. Status 0: done; 1: the descriptor asks for other
// sizes; 2: an input changed.
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
  char kernel[32];
  int64_t isa, descriptor_bytes, begin, end;  // end < 0: all chunks
  int64_t in[4];                              // floats, or -1
  int64_t out;
};

struct Guarded {
  explicit Guarded(int64_t floats) : bytes((size_t)floats * sizeof(float)) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    mapped = (bytes + page - 1) / page * page + page;
    base = (char*)mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + mapped - page, page, PROT_NONE) != 0) abort();
    data = (float*)(base + mapped - page - bytes);
  }
  ~Guarded() { munmap(base, mapped); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  size_t bytes, mapped;
  char* base;
  float* data;
};

bool get(void* to, size_t bytes) { return bytes == 0 || fread(to, bytes, 1, stdin) == 1; }

template <typename D>
void call(void (*const KernelTable::*kernel)(const D&, const Buffers&, int64_t, int64_t), Op op, const Request& r,
          const char* descriptor, Buffers b, const std::vector<int64_t>& sizes) {
  D d;
  if (r.descriptor_bytes != (int64_t)sizeof d) throw std::invalid_argument("size of the descriptor");
  memcpy(&d, descriptor, sizeof d);
  const Isa isa = (Isa)r.isa;
  const Extent needs = extent_for(d, isa, op);
  for (int i = 0; i < 4; i++) {
    if (b.in[i] ? sizes[i] < needs.in[i] : i < needs.optional_from && needs.in[i] > 0)
      throw std::invalid_argument("in");
  }
  if (r.out < needs.out) throw std::invalid_argument("out");
  if (d.chunks < 1) prepare_for(d, isa, op);
  const int64_t scratch_floats = scratch_for(d, isa, op) / 4 + 16;
  std::vector<float> scratch((size_t)scratch_floats + 16);
  b.scratch = (float*)(((uintptr_t)scratch.data() + 63) / 64 * 64);
  (kernels(isa).*kernel)(d, b, r.end < 0 ? 0 : r.begin, r.end < 0 ? d.chunks : r.end);
}

bool serve() {
  Request r;
  if (!get(&r, sizeof r)) return false;
  std::vector<char> descriptor((size_t)r.descriptor_bytes);
  if (!get(descriptor.data(), descriptor.size())) return false;
  std::vector<std::unique_ptr<Guarded>> in;
  Buffers b{};
  std::vector<int64_t> sizes;
  for (int i = 0; i < 4; i++) {
    sizes.push_back(r.in[i]);
    in.push_back(r.in[i] < 0 ? nullptr : std::make_unique<Guarded>(r.in[i]));
    if (!in[i]) continue;
    if (!get(in[i]->data, in[i]->bytes)) return false;
    b.in[i] = in[i]->data;
  }
  std::vector<std::vector<char>> before;
  for (const auto& g : in)
    before.emplace_back(g ? std::vector<char>((char*)g->data, (char*)g->data + g->bytes) : std::vector<char>());
  Guarded out(r.out);
  if (!get(out.data, out.bytes)) return false;
  b.out = out.data;
  int64_t status = 0;
  try {
#define KERNEL(name, Descriptor) \
  if (!strcmp(r.kernel, #name)) call<Descriptor>(&KernelTable::name, Op::name, r, descriptor.data(), b, sizes);
#include "cpu/kernels.def"
#undef KERNEL
  } catch (const std::exception& e) {
    fprintf(stderr, "%s: %s\n", r.kernel, e.what());
    status = 1;
  }
  for (int i = 0; i < 4; i++) {
    if (in[i] && in[i]->bytes && memcmp(in[i]->data, before[i].data(), in[i]->bytes) != 0) status = 2;
  }
  fwrite(&status, sizeof status, 1, stdout);
  if (out.bytes) fwrite(out.data, out.bytes, 1, stdout);
  return fflush(stdout) == 0;
}

}  // namespace

int main() {
  while (serve()) {
  }
  return 0;
}
