// The emulated run-time library: memory, streams that run at once, graphs that are lists of calls. What the default
// stream copies to the device is there when somebody waits for it, not when cudaMemcpy returns: streams that do not
// block never wait. An error of a call is the last one, too, until that is asked for. All devices are one, but each
// allocation knows for which it was made. Kernels run on one thread at a time; another may wait for the device
// meanwhile.
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include <atomic>
#include <mutex>
#include <new>
#include <vector>

#include "simt.h"
#include "simt_memory.h"

namespace simt {

Heap heap;

struct Graph {
  std::vector<std::function<void()>> work;
};
struct Stream {
  Graph* captured = nullptr;
};
struct Event {
  timespec at;
};

namespace {
constexpr size_t HEAP = size_t(512) << 20, GAP = 512;
std::string shown;
thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;
std::map<uintptr_t, int> device_of;  // allocations
std::atomic<int> captures{0};        // streams that are being captured, by any thread

struct Upload {
  char* to;
  std::vector<char> bytes;
};
std::vector<Upload> uploads;  // on the default stream, under way
std::mutex uploads_lock;

void finish_uploads() {
  const std::lock_guard<std::mutex> hold(uploads_lock);
  for (const Upload& u : uploads) memcpy(u.to, u.bytes.data(), u.bytes.size());
  uploads.clear();
}

char* reserve(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : (char*)p;
}
}  // namespace

void* Heap::allocate(size_t bytes) {
  if (!base) {
    base = (uintptr_t)reserve(HEAP);
    valid = (uint8_t*)reserve(HEAP);
    writers = (Writer*)reserve(HEAP / 2 * sizeof(Writer));
    if (!base || !valid || !writers) return nullptr;
    size = HEAP;
    next = GAP;
  }
  const size_t room = (bytes + GAP - 1) / GAP * GAP + GAP;
  uintptr_t address = 0;
  auto& fits = unused[room];
  if (!fits.empty()) {
    address = fits.begin()->second;
    fits.erase(fits.begin());
  } else {
    if (next + room > size) return nullptr;
    address = base + next;
    next += room;
  }
  memset(valid + (address - base), 1, bytes);
  memset((void*)address, 0xff, bytes);  // NaN in every type
  allocations[address] = bytes;
  return (void*)address;
}

bool Heap::release(void* p) {
  auto found = allocations.find((uintptr_t)p);
  if (found == allocations.end()) return false;
  memset(valid + ((uintptr_t)p - base), 0, found->second);
  unused[(found->second + GAP - 1) / GAP * GAP + GAP].emplace(0, found->first);
  allocations.erase(found);
  return true;
}

std::string Heap::describe(uintptr_t address) const {
  auto next_one = allocations.upper_bound(address);
  std::string text;
  if (next_one != allocations.begin()) {
    auto before = std::prev(next_one);
    text += "; byte " + std::to_string(address - before->first) + " of " + std::to_string(before->second);
  }
  if (next_one != allocations.end()) text += ", " + std::to_string(next_one->first - address) + " bytes before another";
  return text;
}

void enqueue(cudaStream_t s, std::function<void()> work) {
  if (!s) finish_uploads();
  if (s && s->captured)
    s->captured->work.push_back(std::move(work));
  else
    work();
}

}  // namespace simt

using simt::heap;

static cudaError_t state() { return simt::error_count ? cudaErrorUnknown : cudaSuccess; }

const char* cudaGetErrorString(cudaError_t e) {
  if (e == cudaErrorMemoryAllocation) return "out of memory";
  simt::shown = simt::errors;
  simt::errors.clear();
  simt::error_count = 0;
  return simt::shown.c_str();
}
cudaError_t cudaGetLastError() {
  const cudaError_t last = simt::last_error;
  simt::last_error = cudaSuccess;
  return last == cudaSuccess ? state() : last;
}
cudaError_t cudaGetDeviceCount(int* n) {
  const char* given = getenv("SIMT_DEVICES");
  *n = given ? atoi(given) : 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  simt::current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = simt::current_device;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  const char* given = getenv("SIMT_DRIVER");
  *version = given ? atoi(given) : 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "emulated");
  const auto number = [](const char* variable, int usual) {
    const char* given = getenv(variable);
    return given ? atoi(given) : usual;
  };
  p->major = number("SIMT_MAJOR", 8);
  p->multiProcessorCount = number("SIMT_MULTIPROCESSORS", 4);
  p->totalGlobalMem = simt::HEAP;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** p, size_t bytes) {
  *p = heap.allocate(bytes);
  if (!*p) return simt::last_error = cudaErrorMemoryAllocation;
  simt::device_of[(uintptr_t)*p] = simt::current_device;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  const auto next = heap.allocations.upper_bound((uintptr_t)p);
  *a = {cudaMemoryTypeUnregistered, -1};
  if (next == heap.allocations.begin()) return cudaSuccess;
  const auto found = std::prev(next);
  if ((uintptr_t)p < found->first + found->second) *a = {cudaMemoryTypeDevice, simt::device_of[found->first]};
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  simt::finish_uploads();
  if (p && !heap.release(p)) simt::fail("cudaFree of what is no allocation");
  return state();
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
  *p = malloc(bytes ? bytes : 1);
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void* p) {
  free(p);
  return cudaSuccess;
}
static void check_range(const void* p, size_t bytes) {
  const uintptr_t a = (uintptr_t)p - heap.base;
  if (a >= heap.size) return simt::fail("a copy to or from what is not device memory");
  for (size_t i = 0; i < bytes; i++)
    if (!heap.valid[a + i]) return simt::fail("a copy of %zu bytes leaves an allocation", bytes);
}
static void copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return;
  if (kind != cudaMemcpyDeviceToHost) check_range(to, bytes);
  if (kind != cudaMemcpyHostToDevice) check_range(from, bytes);
  if (!simt::error_count) memcpy(to, from, bytes);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  simt::finish_uploads();
  if (kind != cudaMemcpyHostToDevice || bytes == 0) {
    copy(to, from, bytes, kind);
    return state();
  }
  check_range(to, bytes);
  const std::lock_guard<std::mutex> hold(simt::uploads_lock);
  if (!simt::error_count) simt::uploads.push_back({(char*)to, {(const char*)from, (const char*)from + bytes}});
  return state();
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s) {
  simt::enqueue(s, [=] { copy(to, from, bytes, kind); });
  return state();
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t s) {
  simt::enqueue(s, [=] {
    check_range(p, bytes);
    if (!simt::error_count) memset(p, value, bytes);
  });
  return state();
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = new simt::Stream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  delete s;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  if (simt::captures) simt::fail("synchronising a device of which a stream is being captured");
  return cudaStreamSynchronize(nullptr);
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (!s) simt::finish_uploads();
  if (s && s->captured) simt::fail("synchronising a stream that is being captured");
  return state();
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  s->captured = new simt::Graph;
  simt::captures++;
  if (const char* given = getenv("SIMT_CAPTURE_MS")) {  // time for other threads to come in between
    const timespec pause{atoi(given) / 1000, atoi(given) % 1000 * 1000000L};
    nanosleep(&pause, nullptr);
  }
  return state();
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  *graph = s->captured;
  s->captured = nullptr;
  simt::captures--;
  return state();
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new simt::Graph(*graph);
  return state();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
  simt::Graph graph = *exec;
  simt::enqueue(s, [graph] {
    for (auto& w : graph.work) w();
  });
  return state();
}
cudaError_t cudaEventCreate(cudaEvent_t* e) {
  *e = new simt::Event{};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  simt::enqueue(s, [e] { clock_gettime(CLOCK_MONOTONIC, &e->at); });
  return state();
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return state(); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  *ms = (float)((double)(b->at.tv_sec - a->at.tv_sec) * 1e3 + (double)(b->at.tv_nsec - a->at.tv_nsec) * 1e-6);
  return state();
}
