// Reads .fcplan files; nothing of one is used before it is checked. See plan_file.h.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>

#include "checks.h"
#include "plan_file.h"

#ifdef FASTCONV_SOME_KERNELS  // checks and sizes of the others are left out with them
#include "fastconv_kept.h"
#define FASTCONV_KEPT(name) FASTCONV_KEPT_##name
#else
#define FASTCONV_KEPT(name) true
#endif

namespace fastconv {

namespace {

constexpr size_t HUGE_PAGE = size_t(2) << 20;
constexpr uint64_t MOST_ENTRIES = 1 << 20;           // of any table
constexpr int64_t MOST_ELEMENTS = int64_t(1) << 40;  // of a tensor
constexpr uint64_t MOST_MEMORY = uint64_t(1) << 46;  // bytes of an arena, or scratch

[[noreturn]] void broken(const std::string& what) { throw PlanFileError("broken plan: " + what); }

[[noreturn]] void not_a_plan() { throw PlanFileError("not a saved plan: it begins otherwise"); }

void require(bool ok, const char* what) {
  if (!ok) broken(what);
}

uint64_t rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }

// A run of well-formed UTF-8 without control characters.
bool printable(const unsigned char* s, size_t n) {
  for (size_t i = 0; i < n;) {
    const unsigned char c = s[i++];
    if (c < 0x20 || c == 0x7f) return false;
    if (c < 0x80) continue;
    const int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
    if (c < 0xc2 || c > 0xf4 || i + more > n) return false;
    const unsigned char d = s[i];
    const bool narrow =
        (c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) || (c == 0xf4 && d > 0x8f);
    if (narrow) return false;
    for (int k = 0; k < more; k++, i++) {
      if ((s[i] & 0xc0) != 0x80) return false;
    }
  }
  return true;
}

class Reader {
 public:
  explicit Reader(const PlanBytes& file) : data_(file.data()), size_(file.size()) {
    if (size_ < sizeof(FileHeader) || memcmp(data_, FILE_MAGIC, sizeof FILE_MAGIC) != 0) not_a_plan();
    memcpy(&header_, data_, sizeof header_);
    if (header_.version != FILE_VERSION) {
      throw PlanFileError("plan file of version " + std::to_string(header_.version) + ", this build reads version " +
                          std::to_string(FILE_VERSION) + ": compile the model again");
    }
    if (header_.file_bytes != size_) {
      broken("it says " + std::to_string(header_.file_bytes) + " bytes and has " + std::to_string(size_) +
             ": truncated or lengthened");
    }
    require(header_.head_bytes <= size_ && header_.head_bytes >= sizeof header_, "size of the head");
    FileHeader zeroed = header_;
    zeroed.head_checksum = 0;
    const uint64_t of_header = file_checksum(&zeroed, sizeof zeroed);
    const uint64_t of_rest = file_checksum(data_ + sizeof zeroed, header_.head_bytes - sizeof zeroed);
    require((of_header ^ rotate(of_rest, 1)) == header_.head_checksum, "wrong checksum of the head");
    require(header_.variants >= 1 && header_.variants <= 64, "number of variants");
    table<FileVariant>({sizeof header_, header_.variants}, "variants");
    require(inside(header_.strings_at, header_.strings_bytes) && header_.strings_bytes > 0 &&
                data_[header_.strings_at + header_.strings_bytes - 1] == 0,
            "strings");
  }

  const FileHeader& header() const { return header_; }

  FileVariant variant(uint32_t i) const { return at<FileVariant>({sizeof header_, header_.variants}, i); }

  const char* string(uint64_t offset, bool may_be_empty = true) const {
    require(offset < header_.strings_bytes, "a string outside the strings");
    const char* s = data_ + header_.strings_at + offset;
    const size_t n = strlen(s);  // the last byte is NUL
    require(n < 4096 && (n > 0 || may_be_empty) && printable((const unsigned char*)s, n), "a name");
    return s;
  }

  template <typename T>
  void table(const FileRange& range, const char* what) const {
    require(range.count <= MOST_ENTRIES && range.at % alignof(T) == 0 && inside(range.at, range.count * sizeof(T)),
            what);
  }

  template <typename T>
  T at(const FileRange& range, uint64_t i) const {  // of a table that has been checked
    T entry;
    memcpy(&entry, data_ + range.at + i * sizeof(T), sizeof entry);
    return entry;
  }

  const char* head(uint64_t offset, uint64_t bytes) const {
    require(inside(offset, bytes), "a descriptor outside the head");
    return data_ + offset;
  }

  // Of the weights, behind the head.
  const char* weights(const FileVariant& v) const {
    require(v.weights_at % FILE_PAGE == 0 && v.weights_at >= header_.head_bytes && v.weights_at <= size_ &&
                v.weights_bytes <= size_ - v.weights_at && v.weights_bytes % 64 == 0,
            "place of the weights");
    return data_ + v.weights_at;
  }

 private:
  bool inside(uint64_t offset, uint64_t bytes) const {
    return offset <= header_.head_bytes && bytes <= header_.head_bytes - offset;
  }
  const char* data_;
  size_t size_;
  FileHeader header_;
};

bool level_of(const FileVariant& v, Isa* isa) {
  return memchr(v.isa, 0, sizeof v.isa) != nullptr && isa_from_name(v.isa, isa);
}

std::vector<int64_t> dims_of(const int64_t* dims, uint32_t rank) {
  require(rank <= FILE_RANK, "a rank");
  for (uint32_t i = 0; i < rank; i++) require(dims[i] >= 0 && dims[i] <= MOST_ELEMENTS, "a dimension");
  return std::vector<int64_t>(dims, dims + rank);
}

std::vector<SavedIo> read_ios(const Reader& r, const FileRange& range, std::vector<const char*>& names) {
  r.table<FileIo>(range, "a table of inputs or outputs");
  require(range.count >= 1 && range.count <= 1024, "number of inputs or outputs");
  std::vector<SavedIo> ios;
  for (uint64_t i = 0; i < range.count; i++) {
    const FileIo f = r.at<FileIo>(range, i);
    SavedIo io{r.string(f.name, false), r.string(f.dtype, false), dims_of(f.dims, f.rank), 1, f.ragged != 0};
    for (const int64_t d : io.dims) {
      require(d >= 1 && !__builtin_mul_overflow(io.elements, d, &io.elements) && io.elements <= MOST_ELEMENTS,
              "the size of an input or output");
    }
    require(f.ragged <= (f.rank == 2 ? 1u : 0u), "an output of unknown length");
    for (const char* other : names) require(strcmp(other, io.name) != 0, "two inputs or outputs of one name");
    names.push_back(io.name);
    ios.push_back(std::move(io));
  }
  return ios;
}

// Descriptors with an activation; the others have nothing to check that their extent() does not.
template <typename D>
auto check_function(const D& d, const char* kernel, int) -> decltype((void)d.act) {
  check_activation(d.act, kernel);
}
template <typename D>
void check_function(const D&, const char*, long) {}

class PlanBuilder {
 public:
  PlanBuilder(const Reader& r, const FileVariant& v, SavedPlan& saved) : r_(r), v_(v), saved_(saved) {}

  void build() {
    r_.table<FileTensor>(v_.tensors, "the table of tensors");
    for (uint64_t i = 0; i < v_.tensors.count; i++) {
      try {
        add(r_.at<FileTensor>(v_.tensors, i));
      } catch (const std::invalid_argument& e) {
        broken("tensor " + std::to_string(i) + ": " + e.what());
      }
    }
    r_.table<FileOperation>(v_.operations, "the table of operations");
    for (uint64_t i = 0; i < v_.operations.count; i++) add(r_.at<FileOperation>(v_.operations, i), i);
    const Plan& plan = *saved_.plan;
    require((uint64_t)plan.arena_bytes() == v_.arena_bytes && v_.arena_bytes <= MOST_MEMORY, "size of the arena");
    // how work is cut is this library's own matter, and so is what it needs for that: the file's number is not used
    require((uint64_t)plan.scratch_bytes() <= MOST_MEMORY, "size of the scratch");
  }

 private:
  void add(const FileTensor& t) {
    require(t.size >= 0 && t.size <= MOST_ELEMENTS && t.offset >= 0, "a tensor's size");
    Plan& plan = *saved_.plan;
    const uint64_t offset = (uint64_t)t.offset, bytes = (uint64_t)t.size * 4;
    if (t.space == (int32_t)Space::arena) {
      require(offset <= v_.arena_bytes && bytes <= v_.arena_bytes - offset, "a tensor outside the arena");
      plan.add_arena(t.offset, t.size);
    } else if (t.space == (int32_t)Space::weight) {
      require(offset % 64 == 0 && offset <= v_.weights_bytes && bytes <= v_.weights_bytes - offset,
              "a tensor outside the weights");
      plan.add_weight((const float*)(r_.weights(v_) + offset), t.size);
    } else {
      require(t.space == (int32_t)Space::external, "a tensor's space");
      const size_t inputs = saved_.inputs.size(), index = (size_t)(uint32_t)t.external;
      require(index < inputs + saved_.outputs.size(), "a tensor in no input or output");
      const int64_t elements = (index < inputs ? saved_.inputs[index] : saved_.outputs[index - inputs]).elements;
      require(t.offset <= elements && t.size <= elements - t.offset, "a tensor outside its input or output");
      plan.add_external(t.external, t.offset, t.size);
    }
  }

  void add(const FileOperation& f, uint64_t number) {
    SavedOp op{r_.string(f.kernel, false), r_.string(f.name), r_.string(f.op), r_.string(f.algorithm), f.flops, f.bytes,
               dims_of(f.dims, f.rank)};
    const char* descriptor = r_.head(f.descriptor_at, f.descriptor_bytes);
    Plan& plan = *saved_.plan;
    const std::vector<Tensor>& tensors = plan.tensors();
    const auto check_output = [&](int32_t t) {
      require(t >= 0 && (size_t)t < tensors.size(), "an operation's output");
      const Tensor& out = tensors[t];
      require(out.space != Space::external || (size_t)out.offset >= saved_.inputs.size(),
              "an operation writes an input");
    };
    check_output(f.out);
    const std::vector<int> in(f.in, f.in + 4);
    std::vector<int> more;
    for (size_t i = 0; i < 2 && f.more[i] != -1; i++) {
      check_output(f.more[i]);
      more.push_back(f.more[i]);
    }
    require(more.size() > 0 || f.more[1] == -1, "an operation's outputs");
    try {
      add(plan, op.kernel, descriptor, f.descriptor_bytes, in, f.out, more);
    } catch (const std::invalid_argument& e) {
      broken("operation " + std::to_string(number) + " (" + op.kernel + "): " + e.what());
    }
    saved_.operations.push_back(std::move(op));
  }

  [[noreturn]] static void left_out(const char* kernel) {
    throw PlanKernelError(std::string("this build leaves ") + kernel +
                          " out, which the plan needs: build the library with this plan's kernels in FASTCONV_KERNELS");
  }

  static void add(Plan& plan, const char* kernel, const char* descriptor, uint64_t bytes, const std::vector<int>& in,
                  int out, const std::vector<int>& more) {
#define KERNEL(name, Descriptor)                                        \
  if (strcmp(kernel, #name) == 0) {                                     \
    if (!FASTCONV_KEPT(name)) left_out(#name);                          \
    Descriptor d;                                                       \
    if (bytes != sizeof d) throw std::invalid_argument("another size"); \
    memcpy(&d, descriptor, sizeof d);                                   \
    check_function(d, kernel, 0);                                       \
    return plan.name(d, in, out, more);                                 \
  }
#include "cpu/kernels.def"
#undef KERNEL
    throw std::invalid_argument("this build does not know it");
  }

  const Reader& r_;
  const FileVariant& v_;
  SavedPlan& saved_;
};

SavedPlan read_variant(std::shared_ptr<const PlanBytes> file, const Reader& r, const FileVariant& v, Isa isa,
                       bool verify) {
  SavedPlan saved;
  saved.plan = std::make_unique<Plan>(isa, file);
  saved.file = std::move(file);
  saved.model = r.string(r.header().model);
  r.table<uint32_t>(r.header().labels, "the table of labels");
  for (uint64_t i = 0; i < r.header().labels.count; i++) {
    saved.labels.push_back(r.string(r.at<uint32_t>(r.header().labels, i)));
  }
  r.table<FilePair>(r.header().metadata, "the table of metadata");
  for (uint64_t i = 0; i < r.header().metadata.count; i++) {
    const FilePair pair = r.at<FilePair>(r.header().metadata, i);
    saved.metadata.emplace_back(r.string(pair.key, false), r.string(pair.value));
  }
  std::vector<const char*> names;
  saved.inputs = read_ios(r, v.inputs, names);
  names.clear();
  saved.outputs = read_ios(r, v.outputs, names);
  saved.weight_bytes = v.weights_bytes;
  const char* weights = r.weights(v);
  if (verify) require(file_checksum(weights, v.weights_bytes) == v.weights_checksum, "wrong checksum of the weights");
  if (saved.file->mapped()) saved.plan->fetch_first(weights, v.weights_bytes);
  PlanBuilder(r, v, saved).build();
  return saved;
}

// The variants' levels; one that this build has no name for is left out.
std::vector<std::pair<Isa, FileVariant>> levels(const Reader& r) {
  std::vector<std::pair<Isa, FileVariant>> found;
  for (uint32_t i = 0; i < r.header().variants; i++) {
    const FileVariant v = r.variant(i);
    Isa isa;
    if (level_of(v, &isa)) found.emplace_back(isa, v);
  }
  return found;
}

}  // namespace

uint64_t file_checksum(const void* data, uint64_t bytes) {
  constexpr uint64_t PRIME = 0x9e3779b97f4a7c15u;
  uint64_t lane[4] = {1, 2, 3, 4};
  const char* p = (const char*)data;
  uint64_t left = bytes;
  for (; left >= 32; left -= 32, p += 32) {
    for (int i = 0; i < 4; i++) {
      uint64_t word;
      memcpy(&word, p + 8 * i, 8);
      lane[i] = rotate(lane[i] ^ word, 29) * PRIME;
    }
  }
  for (uint64_t i = 0; i < left; i++) lane[i % 4] = rotate(lane[i % 4] ^ (unsigned char)p[i], 29) * PRIME;
  uint64_t sum = bytes;
  for (int i = 0; i < 4; i++) sum = rotate(sum ^ lane[i], 31) * PRIME;
  return sum;
}

PlanBytes::PlanBytes(const char* path) {
  const auto failed = [&](int fd) {
    const int error = errno;
    if (fd >= 0) close(fd);
    throw std::system_error(error, std::generic_category(), path);
  };
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat s;
  if (fd < 0 || fstat(fd, &s) != 0) failed(fd);
  if (!S_ISREG(s.st_mode) || s.st_size < (off_t)sizeof(FileHeader)) {
    close(fd);
    broken(S_ISREG(s.st_mode) ? "the file is too short" : "no regular file");
  }
  size_ = (size_t)s.st_size;
  mapped_ = size_ + HUGE_PAGE;
  mapping_ = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) failed(fd);
  char* p = (char*)(((uintptr_t)mapping_ + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
  if (mmap(p, size_, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
    const int error = errno;
    munmap(mapping_, mapped_);
    errno = error;
    failed(fd);
  }
  close(fd);
  if (size_ >= HUGE_PAGE) madvise(p, size_, MADV_HUGEPAGE);  // what is not in the page cache is read in huge pages
  data_ = p;
}

PlanBytes::~PlanBytes() {
  if (mapping_) munmap(mapping_, mapped_);
}

std::vector<Isa> saved_levels(const PlanBytes& file) {
  std::vector<Isa> found;
  for (const auto& [isa, v] : levels(Reader(file))) found.push_back(isa);
  return found;
}

SavedPlan look_at_plan(std::shared_ptr<const PlanBytes> file, Isa isa, bool verify) {
  const Reader r(*file);
  for (const auto& [level, v] : levels(r)) {
    if (level == isa) return read_variant(std::move(file), r, v, isa, verify);
  }
  throw PlanIsaError(std::string("the plan has no variant for ") + isa_name(isa));
}

SavedPlan read_plan(std::shared_ptr<const PlanBytes> file, const Isa* isa, bool verify) {
  const Reader r(*file);
  std::string has;
  const std::pair<Isa, FileVariant>* best = nullptr;
  const auto found = levels(r);
  const auto rank = [](Isa i) { return i == Isa::avx512 ? 3 : i == Isa::scalar ? 0 : 1; };
  for (const auto& entry : found) {
    has += (has.empty() ? "" : ", ") + std::string(isa_name(entry.first));
    if (isa ? entry.first != *isa : !isa_supported(entry.first)) continue;
    if (!best || rank(entry.first) > rank(best->first)) best = &entry;
  }
  if (!best) {
    throw PlanIsaError(
        "the plan is for " + (has.empty() ? "unknown levels" : has) +
        (isa ? std::string(", not for ") + isa_name(*isa) : std::string(", which this CPU or build lacks")));
  }
  if (!isa_supported(best->first)) throw PlanIsaError(std::string("this CPU or build lacks ") + isa_name(best->first));
  return read_variant(std::move(file), r, best->second, best->first, verify);
}

}  // namespace fastconv
