// Memory for weights and activations: 2 MB aligned anonymous mappings that ask for huge pages before first touch.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <mutex>
#include <vector>

namespace fastconv {

// One zero-filled block. Blocks of a megabyte and more ask for huge pages: batch-1 dense layers stream at 31 instead of
// 24 GB/s with them (Zen 4).
class Block {
 public:
  Block() = default;
  explicit Block(size_t bytes, bool huge = true);  // throws std::bad_alloc
  ~Block();
  Block(Block&& other) noexcept;
  Block& operator=(Block&& other) noexcept;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
  void* mapping_ = nullptr;
  size_t mapped_ = 0;
};

// A growing store of packed weights; addresses never move. Memory is taken in regions. Who fills a weight touches its
// pages first, several threads at once if they like: huge pages, but where the system takes milliseconds for each,
// since memory is fragmented or a virtual machine's host must find them first (1.6 s instead of 0.33 for VGG16), most
// of the rest are small ones. A patient store takes all the time that huge pages need.
class WeightStore {
 public:
  explicit WeightStore(bool patient = false) : patient_(patient) {}
  float* allocate(int64_t floats);             // 64-byte aligned, not touched; throws std::bad_alloc
  void touch(const float* p, int64_t floats);  // of what was allocated; what is touched already stays as it is
  int64_t bytes() const { return used_; }
  bool huge() const;  // whether the next page would be tried as a huge one

 private:
  enum class Page : char { fresh, small, touched };  // small: to be touched in small pages
  struct Region {
    Block block;
    std::vector<Page> pages;  // its huge pages
  };
  bool impatient() const;

  const bool patient_;
  mutable std::mutex mutex_;
  std::vector<Region> regions_;
  size_t free_ = 0;    // in the last region
  int64_t pages_ = 0;  // touched so far
  int64_t lost_ = 0;   // nanoseconds that touching the huge ones took beyond small ones
  int64_t used_ = 0;
};

const char* huge_pages();  // "always", "madvise", "never" or "unknown": what the system allows

}  // namespace fastconv
