#include "memory.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <utility>

#include "clock.h"

namespace fastconv {

static constexpr size_t HUGE_PAGE = size_t(2) << 20;
static constexpr size_t REGION = size_t(64) << 20;

Block::Block(size_t bytes, bool may_be_huge) {
  if (bytes == 0) return;
  const bool huge = may_be_huge && bytes >= HUGE_PAGE / 2;
  const size_t unit = huge ? HUGE_PAGE : 4096;
  size_t rounded;
  if (__builtin_add_overflow(bytes, unit - 1, &rounded)) throw std::bad_alloc();
  rounded = rounded / unit * unit;
  mapped_ = rounded + (huge ? HUGE_PAGE : 0);
  mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    throw std::bad_alloc();
  }
  data_ = (char*)(((uintptr_t)mapping_ + unit - 1) / unit * unit);
  size_ = bytes;
  if (huge) madvise(data_, rounded, MADV_HUGEPAGE);
}

Block::~Block() {
  if (mapping_) munmap(mapping_, mapped_);
}

Block::Block(Block&& other) noexcept { *this = std::move(other); }

Block& Block::operator=(Block&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

// 2 MB cost 0.1 ms in a huge page and 0.7 in small ones (Zen 5, virtual), but 3 to 5 in a huge page that the host must
// find, and those come one by one or all together.
static constexpr int64_t SMALL = 700000;                     // nanoseconds of CPU time that 2 MB take in small pages
static constexpr int64_t PATIENCE = 5000000, PACE = 100000;  // that may be lost: once, and for each page seen

// A tenth cheaper than faults. Another thread may be writing there: where the system does not know this, one byte is
// written as it is, and faults do the rest.
static void populate(char* p, size_t bytes) {
  constexpr int POPULATE_WRITE = 23;  // MADV_POPULATE_WRITE, Linux 5.14, which older headers lack
  if (madvise(p, bytes, POPULATE_WRITE) == 0) return;
  char zero = 0;
  __atomic_compare_exchange_n(p, &zero, char(0), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

bool WeightStore::impatient() const { return !patient_ && lost_ > PATIENCE + pages_ * PACE; }

bool WeightStore::huge() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return !impatient();
}

// One byte of each huge page, unless those before have lost too much time against small pages: then small ones, until
// those seen have paid for another try.
void WeightStore::touch(const float* p, int64_t floats) {
  const char *at = (const char*)p, *end = at + floats * (int64_t)sizeof(float);
  while (at < end) {
    char* page = nullptr;
    bool small = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      size_t r = regions_.size() - 1;
      while (at < regions_[r].block.data() || at >= regions_[r].block.data() + regions_[r].block.size()) r--;
      Region& region = regions_[r];
      const size_t i = (at - region.block.data()) / HUGE_PAGE;
      at = region.block.data() + (i + 1) * HUGE_PAGE;
      if (region.pages[i] == Page::touched) continue;
      page = region.block.data() + i * HUGE_PAGE;
      if (impatient() && region.pages[i] == Page::fresh) {
        // all until the next try at once: this waits for the threads that are at work on other pages. One that is about
        // to be a huge page may become small ones by it
        const size_t run = (lost_ - PATIENCE + PACE - 1) / PACE - pages_, last = std::min(i + run, region.pages.size());
        madvise(page, (last - i) * HUGE_PAGE, MADV_NOHUGEPAGE);
        std::replace(&region.pages[i], &region.pages[0] + last, Page::fresh, Page::small);
      }
      small = region.pages[i] == Page::small;
      region.pages[i] = Page::touched;
      pages_++;
    }
    const int64_t start = nanoseconds_now(CLOCK_THREAD_CPUTIME_ID);
    populate(page, small ? HUGE_PAGE : 4096);
    const int64_t taken = nanoseconds_now(CLOCK_THREAD_CPUTIME_ID) - start;
    std::lock_guard<std::mutex> lock(mutex_);
    if (!small && taken > SMALL) lost_ += taken - SMALL;
  }
}

float* WeightStore::allocate(int64_t floats) {
  size_t bytes;
  if (floats < 0 || __builtin_mul_overflow((size_t)floats, sizeof(float), &bytes) || bytes > (size_t)1 << 46) {
    throw std::bad_alloc();
  }
  bytes = (bytes + 63) / 64 * 64;
  std::lock_guard<std::mutex> lock(mutex_);
  if (regions_.empty() || bytes > free_) {
    Block block(bytes > REGION ? bytes : REGION);
    const size_t size = block.size();
    regions_.push_back({std::move(block), std::vector<Page>((size + HUGE_PAGE - 1) / HUGE_PAGE)});
    free_ = size;
  }
  const Block& block = regions_.back().block;
  char* p = block.data() + (block.size() - free_);
  free_ -= bytes;
  used_ += (int64_t)bytes;
  return (float*)p;
}

const char* huge_pages() {
  char text[128] = {0};
  int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "unknown";
  ssize_t n = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (n <= 0) return "unknown";
  return strstr(text, "[always]") ? "always" : strstr(text, "[madvise]") ? "madvise" : "never";
}

}  // namespace fastconv
