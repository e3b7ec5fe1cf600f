// Barriers in shared memory, the copy engine and products of warpgroups: what sm_90a has in ptx.cuh.
//
// A copy is carried out when no thread can go on, a product when its group is waited for: the latest moments that the
// hardware allows. Who may see what follows from clocks: each warp counts its arrivals and copies; a barrier hands on
// what its arrivals knew, and its copies. Reported: a product that reads what no barrier has handed over, a copy over
// what another warp's products may still read, ordinary accesses to such memory before a barrier of the block: reads
// always, writes where the warp does not know that copies and products there have ended. Not reported: a copy over what
// such a write left, for which hardware wants a fence between the two.
#include <stdio.h>

#include <deque>
#include <map>
#include <vector>

#include "simt.h"
#include "simt_memory.h"

namespace simt {

namespace {

constexpr int WARPS = 32, GRANULE = 16, GRANULES = (228 << 10) / GRANULE, ROW = 128, GROUP = 128;
using Clocks = std::vector<uint32_t>;  // of each warp

struct Barrier {
  int arrivals = 0, missing = 0;
  int64_t bytes = 0;  // announced less arrived
  uint32_t phases = 0, made = 0;
  int maker = 0;
  Clocks known, handed;
};
struct Copy {
  char* to;
  TensorMap map;
  int at[4], moved[2];
  char* barrier;
  int warp;
  uint32_t clock;
};
struct Granule {
  uint32_t epoch = 0, write_clock = 0;
  int writer = -1;
  bool landed = false;
  uint32_t reads[WARPS] = {};
};
struct Warpgroup {
  int arrived = 0;
  uint32_t turn = 0;
  std::vector<Product> products[GROUP];
};
struct Queue {  // of one thread's products
  std::vector<Product> open;
  std::deque<std::vector<Product>> groups;
};

bool used = true;  // since the last reset
std::map<char*, Barrier> barriers;
std::deque<Copy> copies;
std::vector<Granule> granules;
std::vector<Clocks> seen;
Clocks clocks;
std::vector<Warpgroup> warpgroups;
std::vector<Queue> queues;

int warp_number() { return thread_number() / WARP; }

void join(Clocks& into, const Clocks& from) {
  for (size_t i = 0; i < into.size(); i++) into[i] = into[i] > from[i] ? into[i] : from[i];
}

Barrier* find(void* p) {
  auto found = barriers.find((char*)p);
  if (found == barriers.end()) return fail("a barrier in shared memory that nobody initialised"), nullptr;
  Barrier& b = found->second;
  if (b.made == barrier_epoch() && b.maker != thread_number())
    return fail("a barrier in shared memory is used before the block's barrier that follows its initialisation"),
           nullptr;
  return &b;
}

void finish_phase(Barrier& b) {
  if (b.missing > 0 || b.bytes != 0) return;
  b.missing = b.arrivals;
  b.phases++;
  b.handed = b.known;
}

int rows_of(const TensorMap& m) { return m.rows; }

// The bytes of row `row` of a copy: its source, or null for zeros. c: the first channel.
const char* source(const Copy& c, int row, int64_t channel) {
  const TensorMap& m = c.map;
  if (channel < 0 || channel >= m.size[0]) return nullptr;
  int64_t at[4] = {channel, c.at[1], c.at[2], c.at[3]};
  if (m.image) {
    for (int i = 0; i < row; i++) {  // along w, then h, then n, within the box
      at[1] += m.step[0];
      if (at[1] <= m.size[1] - 1 + m.upper[0]) continue;
      at[1] = m.lower[0];
      at[2] += m.step[1];
      if (at[2] <= m.size[2] - 1 + m.upper[1]) continue;
      at[2] = m.lower[1];
      at[3]++;
    }
    at[1] += c.moved[0], at[2] += c.moved[1];
  } else {
    at[m.rank - 1] += row;
  }
  const char* p = m.address;
  for (int i = 0; i < m.rank; i++) {
    if (at[i] < 0 || at[i] >= m.size[i]) return nullptr;
    p += at[i] * m.stride[i];
  }
  return p;
}

void carry_out(const Copy& c) {
  const int item = (int)c.map.stride[0], width = ROW / item;
  for (int row = 0; row < rows_of(c.map); row++)
    for (int i = 0; i < width; i++) {
      const char* from = source(c, row, c.at[0] + i);
      char* to = c.to + row * ROW + ((i * item / GRANULE ^ (row & 7)) * GRANULE) + i * item % GRANULE;
      if (from && !heap.valid[(uintptr_t)from - heap.base]) return fail("a copy of a tensor leaves an allocation");
      uint32_t value = 0;
      if (from) memcpy(&value, from, item);
      if (c.map.convert) value = c.map.convert(value);
      memcpy(to, &value, item);
    }
  const size_t first = (c.to - shared_memory) / GRANULE;
  for (size_t i = first; i < first + rows_of(c.map) * ROW / GRANULE; i++) granules[i].landed = true;
  Barrier& b = barriers[c.barrier];
  b.known[c.warp] = std::max(b.known[c.warp], c.clock);
  b.bytes -= (int64_t)rows_of(c.map) * ROW;
  finish_phase(b);
}

// A warp's products read [at, at + bytes) of shared memory.
bool read_granules(int warp, size_t at, size_t bytes) {
  for (size_t i = at / GRANULE; i < (at + bytes) / GRANULE; i++) {
    Granule& g = granules[i];
    if (g.writer < 0 || !g.landed || seen[warp][g.writer] < g.write_clock)
      return fail("a product reads byte %zu of shared memory, which no barrier has handed over", i * GRANULE), false;
    g.reads[warp] = clocks[warp], g.epoch = barrier_epoch();
  }
  return true;
}

size_t tile_of(uint64_t descriptor) { return (size_t)(descriptor & 0x3fff) << 4; }

bool usual(uint64_t descriptor) {
  return descriptor >> 62 == 1 && (descriptor >> 32 & 0x3fff) == 64 && (descriptor >> 49 & 7) == 0;
}

// `rows` rows of 32 bytes from a swizzled tile; the descriptor may stand 0, 32, 64 or 96 bytes into its rows.
void load_tile(uint64_t descriptor, int rows, const Product& p, float (*out)[16]) {
  const size_t at = tile_of(descriptor);
  const int per = 4 / p.bytes;
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < 8; i++) {
      size_t byte = at + row * ROW + i * 4;
      byte ^= (byte >> 7 & 7) << 4;
      uint32_t word;
      memcpy(&word, shared_memory + byte, 4);
      for (int e = 0; e < per; e++) out[row][i * per + e] = p.element(word, e);
    }
}

void multiply(int first_warp, Warpgroup& g, size_t n) {
  const Product& p = g.products[0][n];
  for (auto& q : g.products)
    if (q.size() <= n || q[n].a != p.a || q[n].b != p.b || q[n].columns != p.columns || q[n].element != p.element)
      return fail("threads of a warpgroup multiply different things");
  if (!usual(p.a) || !usual(p.b)) return fail("a product's descriptor is not of 128-byte swizzled rows");
  const size_t a = tile_of(p.a), b = tile_of(p.b);
  if (a % 1024 > 96 || b % 1024 > 96) return fail("a product's tile does not start at 1024 bytes");
  if (std::max(a - a % ROW + 64 * ROW, b - b % ROW + p.columns * ROW) > shared_bytes_in_use())
    return fail("a product leaves shared memory");
  for (int w = 0; w < 4; w++)
    if (!read_granules(first_warp + w, a - a % ROW + 16 * w * ROW, 16 * ROW) ||
        !read_granules(first_warp + w, b - b % ROW, (size_t)p.columns * ROW))
      return;
  static float left[64][16], right[256][16];
  load_tile(p.a, 64, p, left);
  load_tile(p.b, p.columns, p, right);
  const int depth = 32 / p.bytes;
  for (int t = 0; t < GROUP; t++) {
    float* c = g.products[t][n].c;
    for (int i = 0; i < p.columns / 2; i++) {
      const float *x = left[t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8], *y = right[i / 4 * 8 + t % 4 * 2 + i % 2];
      float sum = c[i];
      for (int k = 0; k < depth; k++) sum += x[k] * y[k];
      c[i] = sum;
    }
  }
}

// Whether a product that was started and not waited for may read a byte of [at, at + bytes).
bool product_reads(size_t at, size_t bytes) {
  const auto touches = [&](uint64_t descriptor, int rows) {
    const size_t first = tile_of(descriptor) / ROW * ROW;
    return first < at + bytes && at < first + (size_t)rows * ROW;
  };
  const auto any = [&](const std::vector<Product>& some) {
    for (const Product& p : some)
      if (touches(p.a, 64) || touches(p.b, p.columns)) return true;
    return false;
  };
  for (size_t thread = 0; thread < queues.size(); thread += WARP) {
    if (any(queues[thread].open)) return true;
    for (const auto& group : queues[thread].groups)
      if (any(group)) return true;
  }
  return false;
}

// Whether the warp knows that what was copied here is there and that all products which read it have ended.
bool free_for(const Granule& g, int warp) {
  bool free = g.writer < 0 || (g.landed && seen[warp][g.writer] >= g.write_clock);
  for (size_t w = 0; w < clocks.size(); w++) free = free && seen[warp][w] >= g.reads[w];
  return free;
}

}  // namespace

void async_begin(int threads) {
  const int warps = (threads + WARP - 1) / WARP;
  if (!used && clocks.size() == (size_t)warps && queues.size() == (size_t)threads) return;
  used = false;
  barriers.clear();
  copies.clear();
  granules.assign(GRANULES, {});
  clocks.assign(warps, 1);
  seen.assign(warps, Clocks(warps, 0));
  for (int w = 0; w < warps; w++) seen[w][w] = ~0u;  // its own
  warpgroups.assign((threads + GROUP - 1) / GROUP, {});
  queues.assign(threads, {});
}

bool async_land() {
  if (copies.empty()) return false;
  carry_out(copies.front());
  copies.pop_front();
  return true;
}

void async_end() {
  if (!copies.empty()) fail("a block ends before its copies of tensors");
  for (Queue& q : queues)
    if (!q.open.empty() || !q.groups.empty()) return fail("a thread ends before its products");
}

bool async_busy(size_t at, bool write) {
  if (!used) return false;
  Granule& g = granules[at / GRANULE];
  if (g.epoch == 0 || g.epoch != barrier_epoch()) return false;
  if (!write || !free_for(g, warp_number()) || product_reads(at, 1)) return true;
  g = {};
  return false;
}

void barrier_init(void* p, int arrivals) {
  used = true;
  if ((uintptr_t)p % 8) fail("a barrier in shared memory at an unaligned address");
  Barrier b;
  b.arrivals = b.missing = arrivals, b.made = barrier_epoch(), b.maker = thread_number();
  b.known.assign(clocks.size(), 0), b.handed.assign(clocks.size(), 0);
  barriers[(char*)p] = b;
}

void barrier_arrive(void* p, int bytes) {
  Barrier* b = find(p);
  if (!b) return;
  const int warp = warp_number();
  if (b->missing == 0) return fail("more arrivals at a barrier in shared memory than it waits for");
  Clocks mine = seen[warp];
  mine[warp] = clocks[warp]++;
  join(b->known, mine);
  b->bytes += bytes;
  b->missing--;
  finish_phase(*b);
}

void barrier_wait(void* p, unsigned parity) {
  Barrier* b = find(p);
  if (!b) return;
  struct Wanted {
    Barrier* b;
    unsigned parity;
  } wanted{b, parity};
  wait_until(
      [](void* state) {
        auto* w = (Wanted*)state;
        return error_count > 0 || (w->b->phases & 1) != w->parity;
      },
      &wanted);
  Clocks& mine = seen[warp_number()];
  const uint32_t own = mine[warp_number()];
  join(mine, b->handed);
  mine[warp_number()] = own;
}

void copy_tensor(void* to, const TensorMap& map, const int (&at)[4], const int (&moved)[2], void* barrier) {
  const size_t first = (char*)to - shared_memory, bytes = (size_t)rows_of(map) * ROW;
  if (first % 1024) return fail("a copy of a tensor goes to an address that 1024 does not divide");
  if (first + bytes > shared_bytes_in_use()) return fail("a copy of a tensor leaves shared memory");
  if (map.image && (moved[0] < 0 || moved[1] < 0 || moved[0] > 255 || moved[1] > 255))
    return fail("a copy of a tensor is moved by more than 255 pixels");
  for (int i = 0; map.image && i < 2; i++)
    if (at[i + 1] < map.lower[i] || at[i + 1] > map.size[i + 1] - 1 + map.upper[i])
      return fail("a copy of a tensor starts outside of its box");
  if (!find(barrier)) return;
  const int warp = warp_number();
  if (product_reads(first, bytes)) return fail("a copy of a tensor overwrites what products that go on may still read");
  for (size_t i = first / GRANULE; i < (first + bytes) / GRANULE; i++) {
    Granule& g = granules[i];
    if (!free_for(g, warp))
      return fail("a copy of a tensor overwrites byte %zu, which products may still read", i * GRANULE);
    g = {};
    g.epoch = barrier_epoch(), g.writer = warp, g.write_clock = clocks[warp];
  }
  memset(to, 0xff, bytes);
  Copy c{(char*)to, map, {at[0], at[1], at[2], at[3]}, {moved[0], moved[1]}, (char*)barrier, warp, clocks[warp]++};
  copies.push_back(c);
}

void product(const Product& p) { queues[thread_number()].open.push_back(p); }

void product_commit() {
  Queue& q = queues[thread_number()];
  q.groups.push_back(std::move(q.open));
  q.open.clear();
}

void product_wait(int pending) {
  const int me = thread_number(), number = me / GROUP;
  Queue& q = queues[me];
  std::vector<Product> due;
  while ((int)q.groups.size() > pending) {
    due.insert(due.end(), q.groups.front().begin(), q.groups.front().end());
    q.groups.pop_front();
  }
  Warpgroup& g = warpgroups[number];
  const size_t count = due.size();
  g.products[me % GROUP] = std::move(due);
  if (++g.arrived == GROUP) {
    for (size_t n = 0; n < count && error_count == 0; n++) multiply(number * GROUP / WARP, g, n);
    g.arrived = 0;
    g.turn++;
    return;
  }
  struct Turn {
    Warpgroup* g;
    uint32_t turn;
  } turn{&g, g.turn};
  wait_until([](void* state) { return error_count > 0 || ((Turn*)state)->g->turn != ((Turn*)state)->turn; }, &turn);
}

}  // namespace simt
