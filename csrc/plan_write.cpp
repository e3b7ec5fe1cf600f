// Writes .fcplan files; see plan_file.h.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <map>
#include <system_error>

#include "plan_file.h"

namespace fastconv {

namespace {

uint64_t align(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }

const char* kernel_name(Op op) {
  static const char* const names[] = {
#define KERNEL(name, Descriptor) #name,
#include "cpu/kernels.def"
#undef KERNEL
  };
  return names[(int)op];
}

// Bytes of the head, to be patched by offset.
class Head {
 public:
  uint64_t append(const void* data, uint64_t bytes) {
    const uint64_t at = align(bytes_.size(), 8);
    bytes_.resize(at + bytes, 0);
    if (bytes) memcpy(&bytes_[at], data, bytes);
    return at;
  }
  template <typename T>
  FileRange table(const std::vector<T>& entries) {
    return {append(entries.data(), entries.size() * sizeof(T)), entries.size()};
  }
  void patch(uint64_t at, const void* data, uint64_t bytes) { memcpy(&bytes_[at], data, bytes); }
  uint32_t string(const std::string& s) {
    const auto [it, added] = known_.emplace(s, (uint32_t)strings_.size());
    if (added) strings_.append(s.c_str(), s.size() + 1);
    return it->second;
  }
  const std::string& strings() const { return strings_; }
  std::string& bytes() { return bytes_; }

 private:
  std::string bytes_, strings_;
  std::map<std::string, uint32_t> known_;
};

struct WeightPart {
  const float* address;
  uint64_t offset, bytes;
};

std::vector<FileIo> ios(Head& head, const std::vector<PlanToSave::Io>& given) {
  std::vector<FileIo> out;
  for (const PlanToSave::Io& io : given) {
    FileIo f{};
    if (io.dims.size() > FILE_RANK) throw std::invalid_argument("an input or output has more than 8 dimensions");
    f.name = head.string(io.name), f.dtype = head.string(io.dtype);
    f.rank = (uint32_t)io.dims.size(), f.ragged = io.ragged;
    for (size_t i = 0; i < io.dims.size(); i++) f.dims[i] = io.dims[i];
    out.push_back(f);
  }
  return out;
}

std::vector<FileOperation> operations(Head& head, const PlanToSave& v) {
  const std::vector<Operation>& ops = v.plan->operations();
  if (ops.size() != v.operations.size()) throw std::invalid_argument("one description an operation");
  std::vector<FileOperation> out;
  for (size_t i = 0; i < ops.size(); i++) {
    const PlanToSave::Op& about = v.operations[i];
    FileOperation f{};
    f.kernel = head.string(kernel_name(ops[i].op));
    f.name = head.string(about.name), f.op = head.string(about.op), f.algorithm = head.string(about.algorithm);
    memcpy(f.in, ops[i].in, sizeof f.in);
    f.out = ops[i].out;
    memcpy(f.more, ops[i].more, sizeof f.more);
    f.flops = about.flops, f.bytes = about.bytes;
    f.rank = (uint32_t)(about.dims.size() > FILE_RANK ? 0 : about.dims.size());
    for (uint32_t k = 0; k < f.rank; k++) f.dims[k] = about.dims[k];
    switch (ops[i].op) {
#define KERNEL(name, Descriptor)                                     \
  case Op::name:                                                     \
    f.descriptor_at = head.append(&ops[i].name, sizeof ops[i].name); \
    f.descriptor_bytes = sizeof ops[i].name;                         \
    break;
#include "cpu/kernels.def"
#undef KERNEL
    }
    out.push_back(f);
  }
  return out;
}

std::vector<FileTensor> tensors(const Plan& plan, std::vector<WeightPart>& weights, uint64_t* weight_bytes) {
  std::vector<FileTensor> out;
  std::map<const float*, size_t> seen;
  for (const Tensor& t : plan.tensors()) {
    FileTensor f{(int32_t)t.space, 0, t.offset, t.size};
    if (t.space == Space::external) {
      f.external = (int32_t)t.offset;
      f.offset = t.external_at;
    } else if (t.space == Space::weight) {
      const uint64_t bytes = (uint64_t)t.size * 4;
      const auto [it, added] = seen.emplace(t.address, weights.size());
      if (added || weights[it->second].bytes < bytes) {
        it->second = weights.size();
        weights.push_back({t.address, *weight_bytes, bytes});
        *weight_bytes += align(bytes, 64);
      }
      f.offset = (int64_t)weights[it->second].offset;
    }
    out.push_back(f);
  }
  return out;
}

class Output {
 public:
  explicit Output(const std::string& path) : path_(path), beside_(path + "." + std::to_string(getpid()) + ".part") {
    fd_ = open(beside_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd_ < 0) fail(path_);
  }
  ~Output() {
    if (fd_ >= 0) {
      close(fd_);
      unlink(beside_.c_str());
    }
  }
  void write(const void* data, uint64_t bytes) {
    const char* p = (const char*)data;
    while (bytes) {
      const ssize_t n = ::write(fd_, p, bytes < (1u << 30) ? bytes : 1u << 30);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail(beside_);
      p += n, bytes -= (uint64_t)n, at_ += (uint64_t)n;
    }
  }
  void pad(uint64_t unit) {
    static const char zeros[FILE_PAGE] = {};
    write(zeros, align(at_, unit) - at_);
  }
  void finish() {
    if (rename(beside_.c_str(), path_.c_str()) != 0) fail(path_);
    close(fd_);
    fd_ = -1;
  }

 private:
  [[noreturn]] static void fail(const std::string& path) {
    throw std::system_error(errno, std::generic_category(), path);
  }
  std::string path_, beside_;
  int fd_;
  uint64_t at_ = 0;
};

// The bytes of a variant's weights as they stand in the file, and their sum.
std::string gather(const std::vector<WeightPart>& parts, uint64_t bytes) {
  std::string all(bytes, 0);
  for (const WeightPart& w : parts) {
    if (w.bytes) memcpy(&all[w.offset], w.address, w.bytes);
  }
  return all;
}

uint64_t head_checksum(const std::string& head) {
  FileHeader h;
  memcpy(&h, head.data(), sizeof h);
  h.head_checksum = 0;
  const uint64_t rest = file_checksum(head.data() + sizeof h, head.size() - sizeof h);
  return file_checksum(&h, sizeof h) ^ (rest << 1 | rest >> 63);
}

}  // namespace

void write_plan(const std::string& path, const PlanAbout& about, const std::vector<PlanToSave>& variants) {
  Head head;
  FileHeader header{};
  std::vector<FileVariant> entries(variants.size());
  head.append(&header, sizeof header);
  head.append(entries.data(), entries.size() * sizeof(FileVariant));
  std::vector<std::vector<WeightPart>> parts(variants.size());
  for (size_t i = 0; i < variants.size(); i++) {
    const PlanToSave& v = variants[i];
    FileVariant& f = entries[i];
    strncpy(f.isa, isa_name(v.plan->isa()), sizeof f.isa - 1);
    f.arena_bytes = (uint64_t)v.plan->arena_bytes();
    f.scratch_bytes = (uint64_t)v.plan->scratch_bytes();
    f.inputs = head.table(ios(head, v.inputs));
    f.outputs = head.table(ios(head, v.outputs));
    f.tensors = head.table(tensors(*v.plan, parts[i], &f.weights_bytes));
    f.operations = head.table(operations(head, v));
  }
  std::vector<uint32_t> label_strings;
  for (const std::string& s : about.labels) label_strings.push_back(head.string(s));
  std::vector<FilePair> pairs;
  for (const auto& [key, value] : about.metadata) {
    const uint32_t name = head.string(key);
    pairs.push_back({name, head.string(value)});
  }
  header.labels = head.table(label_strings);
  header.metadata = head.table(pairs);
  header.model = head.string(about.model);
  header.strings_at = head.append(head.strings().data(), head.strings().size());
  header.strings_bytes = head.strings().size();
  memcpy(header.magic, FILE_MAGIC, sizeof header.magic);
  header.version = FILE_VERSION;
  header.variants = (uint32_t)variants.size();
  header.head_bytes = head.bytes().size();
  uint64_t at = align(header.head_bytes, FILE_PAGE);
  for (FileVariant& f : entries) {
    f.weights_at = at;
    at = align(at + f.weights_bytes, FILE_PAGE);
  }
  header.file_bytes = at;

  Output out(path);
  // The sums of the weights stand before them: each variant is gathered twice, so that only one is held at a time.
  for (size_t i = 0; i < variants.size(); i++) {
    entries[i].weights_checksum =
        file_checksum(gather(parts[i], entries[i].weights_bytes).data(), entries[i].weights_bytes);
  }
  head.patch(sizeof header, entries.data(), entries.size() * sizeof(FileVariant));
  head.patch(0, &header, sizeof header);
  header.head_checksum = head_checksum(head.bytes());
  head.patch(0, &header, sizeof header);
  out.write(head.bytes().data(), head.bytes().size());
  for (size_t i = 0; i < variants.size(); i++) {
    out.pad(FILE_PAGE);
    out.write(gather(parts[i], entries[i].weights_bytes).data(), entries[i].weights_bytes);
  }
  out.pad(FILE_PAGE);
  out.finish();
}

}  // namespace fastconv
