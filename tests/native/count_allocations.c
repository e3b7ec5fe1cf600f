/* Preloaded into a process: counts calls that ask for memory while counting is on, of all threads.
 * malloc and its kin are answered by glibc's own entry points; mmap by the system call. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static atomic_long count;
static atomic_int on;

static void note(void) {
  if (atomic_load_explicit(&on, memory_order_relaxed)) atomic_fetch_add(&count, 1);
}

void count_start(void) {
  atomic_store(&count, 0);
  atomic_store(&on, 1);
}

long count_stop(void) {
  atomic_store(&on, 0);
  return atomic_load(&count);
}

void* malloc(size_t n) {
  note();
  return __libc_malloc(n);
}

void* calloc(size_t n, size_t size) {
  note();
  return __libc_calloc(n, size);
}

void* realloc(void* p, size_t n) {
  note();
  return __libc_realloc(p, n);
}

void* aligned_alloc(size_t alignment, size_t n) {
  note();
  return __libc_memalign(alignment, n);
}

int posix_memalign(void** p, size_t alignment, size_t n) {
  note();
  *p = __libc_memalign(alignment, n);
  return *p ? 0 : 12;
}

void* mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  note();
  return (void*)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}
