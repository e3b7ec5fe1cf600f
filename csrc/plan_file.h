// The format .fcplan: plans of one model and one input shape, for one or several ISA levels, with packed weights that
// are used where the file is mapped. Little-endian; the structures below are the file.
//
//   FileHeader, FileVariant[variants], tables, descriptors, strings        the head, checksummed as a whole
//   weights of each variant, each at a multiple of PAGE, each tensor at one of 64
//
// Kernels and levels are named, since their numbers may change; a descriptor is stored as it lies in memory, so
// whoever changes one raises FILE_VERSION (tests/data/golden.fcplan fails otherwise). Enumerations only grow at the
// end. A reader checks every offset, count, string and size of the head before it uses it; the checksum of the weights
// only where it is asked for (verify), since that reads the whole file.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "plan.h"

namespace fastconv {

constexpr char FILE_MAGIC[8] = {'f', 'c', 'p', 'l', 'a', 'n', '\r', '\n'};
constexpr uint32_t FILE_VERSION = 8;
constexpr uint64_t FILE_PAGE = 4096;
constexpr int FILE_RANK = 8;

struct FileRange {  // entries of a table, by offset from the file's beginning; 8-byte aligned
  uint64_t at, count;
};

struct FilePair {  // strings
  uint32_t key, value;
};

struct FileHeader {
  char magic[8];
  uint32_t version, variants;
  uint64_t file_bytes, head_bytes;
  uint64_t head_checksum;              // of the head, with zero in this field
  FileRange labels;                    // uint32_t: string of each class, or none
  FileRange metadata;                  // FilePair: what the model's file says of itself, such as its preprocessing
  uint64_t strings_at, strings_bytes;  // NUL-terminated UTF-8; a string is known by its offset from strings_at
  uint64_t model;                      // string: the model's name
};

struct FileVariant {
  char isa[8];  // NUL-padded
  uint64_t weights_at, weights_bytes, weights_checksum;
  uint64_t arena_bytes, scratch_bytes;  // scratch of one thread
  FileRange inputs, outputs;            // FileIo; externals are numbered in this order
  FileRange tensors;                    // FileTensor
  FileRange operations;                 // FileOperation
};

struct FileIo {
  uint32_t name, dtype;   // strings; data are float32 all the same
  uint32_t rank, ragged;  // ragged: rows from the first negative one on are empty
  int64_t dims[FILE_RANK];
};

struct FileTensor {
  int32_t space, external;  // Space; external: index
  int64_t offset;           // arena: bytes. weight: bytes from weights_at. external: first element
  int64_t size;             // elements
};

struct FileOperation {
  uint32_t kernel, name, op, algorithm;  // strings: of kernels.def, and for people
  int32_t in[4], out, more[2];
  uint32_t rank;
  uint64_t descriptor_at, descriptor_bytes;
  int64_t flops, bytes;
  int64_t dims[FILE_RANK];  // of the output, N H W C
};

// A file that is not a plan, broken, or of another version.
class PlanFileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The plan is whole, but this CPU or build cannot run it.
class PlanIsaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The plan is whole, but needs a kernel that FASTCONV_KERNELS has left out of this build.
class PlanKernelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Any changed word changes the result. 64 bits of four interleaved lanes.
uint64_t file_checksum(const void* data, uint64_t bytes);

// The bytes of a plan file: mapped read-only, or the caller's, which must stay. The mapping lies so that huge pages of
// the file fit huge pages of memory. Where the page cache holds the file in those (it does if one process wrote it in
// large pieces, or reads it through such a mapping; ext4 since Linux 6.16, xfs and btrfs too), a first run of VGG16
// takes 340 page faults, 2.4 ms, instead of 10,600, 52 ms (Zen 5, virtual).
class PlanBytes {
 public:
  explicit PlanBytes(const char* path);  // throws PlanFileError for what is no file of its size, std::system_error
  PlanBytes(const void* data, size_t bytes) : data_((const char*)data), size_(bytes) {}
  ~PlanBytes();
  PlanBytes(const PlanBytes&) = delete;
  PlanBytes& operator=(const PlanBytes&) = delete;
  const char* data() const { return data_; }
  size_t size() const { return size_; }
  bool mapped() const { return mapping_ != nullptr; }

 private:
  const char* data_ = nullptr;
  size_t size_ = 0;
  void* mapping_ = nullptr;
  size_t mapped_ = 0;
};

struct SavedIo {
  const char *name, *dtype;
  std::vector<int64_t> dims;
  int64_t elements;
  bool ragged;
};

struct SavedOp {
  const char *kernel, *name, *op, *algorithm;
  int64_t flops, bytes;
  std::vector<int64_t> dims;
};

// One variant, checked and ready to run; strings and weights lie in the bytes, which it keeps alive.
struct SavedPlan {
  std::shared_ptr<const PlanBytes> file;
  std::unique_ptr<Plan> plan;
  const char* model;
  std::vector<const char*> labels;
  std::vector<std::pair<const char*, const char*>> metadata;
  std::vector<SavedIo> inputs, outputs;
  std::vector<SavedOp> operations;
  uint64_t weight_bytes;
};

// The levels that a file has, in its order. Throws PlanFileError.
std::vector<Isa> saved_levels(const PlanBytes& file);

// The variant for a level, or for the best one that the file has and this CPU runs (null). verify: check the sums of
// the weights too. Throws PlanFileError, PlanIsaError where no variant runs here, and PlanKernelError.
SavedPlan read_plan(std::shared_ptr<const PlanBytes> file, const Isa* isa, bool verify);
// The same for a variant that need not run here, to look at.
SavedPlan look_at_plan(std::shared_ptr<const PlanBytes> file, Isa isa, bool verify);

// What a writer knows of a variant; see write_plan in plan_write.cpp.
struct PlanToSave {
  struct Io {
    std::string name, dtype;
    std::vector<int64_t> dims;
    bool ragged;
  };
  struct Op {
    std::string name, op, algorithm;
    int64_t flops, bytes;
    std::vector<int64_t> dims;
  };
  const Plan* plan;
  std::vector<Io> inputs, outputs;
  std::vector<Op> operations;
};

// What stands before the variants.
struct PlanAbout {
  std::string model;
  std::vector<std::string> labels;
  std::vector<std::pair<std::string, std::string>> metadata;
};

// Writes beside `path` and moves the whole file there. Throws std::system_error, std::invalid_argument.
void write_plan(const std::string& path, const PlanAbout& about, const std::vector<PlanToSave>& variants);

}  // namespace fastconv
