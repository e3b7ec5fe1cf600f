// What of the emulator depends on the machine and on the compiler: the switch between fibers, and the functions that
// -fsanitize=thread calls around every access of an instrumented function.
#include "simt.h"
#include "simt_memory.h"

#if defined(__x86_64__)
asm(R"(
.text
.globl simt_switch
simt_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl simt_switch
simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#else
#error "the emulator knows x86-64 and aarch64"
#endif

namespace simt {

// The stack below `end` of a fiber that starts with `entry` when it is switched to.
void* first_stack(char* end, void (*entry)()) {
  void** top = (void**)(end - 64);
#if defined(__x86_64__)
  *--top = nullptr;  // where entry would return to; the stack is then aligned as after a call
  *--top = (void*)entry;
  for (int i = 0; i < 6; i++) *--top = nullptr;
#else
  top -= 20;
  for (int i = 0; i < 20; i++) top[i] = nullptr;
  top[11] = (void*)entry;
#endif
  return top;
}

}  // namespace simt

// Accesses of kernels are looked at; atomic ones are the host's own, of counters.
#define HOOK(n)                                                                   \
  extern "C" void __tsan_read##n(void* p) {                                       \
    simt::aligned(p, n);                                                          \
    simt::touch(p, n, false);                                                     \
  }                                                                               \
  extern "C" void __tsan_write##n(void* p) {                                      \
    simt::aligned(p, n);                                                          \
    simt::touch(p, n, true);                                                      \
  }                                                                               \
  extern "C" void __tsan_unaligned_read##n(void* p) { simt::touch(p, n, false); } \
  extern "C" void __tsan_unaligned_write##n(void* p) { simt::touch(p, n, true); }
HOOK(1)
HOOK(2)
HOOK(4)
HOOK(8)
HOOK(16)
extern "C" void __tsan_read_range(void* p, size_t n) { simt::touch(p, n, false); }
extern "C" void __tsan_write_range(void* p, size_t n) { simt::touch(p, n, true); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
extern "C" uint64_t __tsan_atomic64_load(const volatile uint64_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
extern "C" uint64_t __tsan_atomic64_fetch_add(volatile uint64_t* p, uint64_t v, int) {
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
