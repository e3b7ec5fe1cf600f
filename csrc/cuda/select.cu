// topk and suppress: few elements, at the end of a network. Simple rather than fast.
#include "boxes.cuh"
#include "pack.cuh"

namespace fastconv {
namespace cuda {
namespace {

struct Entry {
  float value;
  int32_t at;  // -1: none
};

// Whether a comes before b: larger (or smaller) first, NaN largest of all, then the lower index.
__device__ inline bool before(Entry a, Entry b, bool largest) {
  const bool above = a.value > b.value || (a.value != a.value && b.value == b.value);
  const bool below = a.value < b.value || (b.value != b.value && a.value == a.value);
  if (largest ? above : below) return true;
  if (largest ? below : above) return false;
  return a.at < b.at;
}

// A block for each (o, i), k rounds: the best of what comes after the one found last.
template <class T>
__global__ void topk_kernel(const __grid_constant__ TopK d, const T* x, T* y) {
  Entry* shared = (Entry*)shared_bytes();
  const int64_t o = blockIdx.x / (unsigned)d.inner, i = blockIdx.x % (unsigned)d.inner;
  const T* from = x + o * d.n * d.inner + i;
  const bool largest = d.largest != 0;
  Entry last{0.0f, -1};
  for (int64_t round = 0; round < d.k; round++) {
    Entry best{0.0f, -1};
    for (int64_t j = threadIdx.x; j < d.n; j += blockDim.x) {
      const Entry e{to_float(from[j * d.inner]), (int32_t)j};
      if ((last.at < 0 || before(last, e, largest)) && (best.at < 0 || before(e, best, largest))) best = e;
    }
    shared[threadIdx.x] = best;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x >= half) continue;
      const Entry a = shared[threadIdx.x], b = shared[threadIdx.x + half];
      shared[threadIdx.x] = a.at < 0 || (b.at >= 0 && before(b, a, largest)) ? b : a;
    }
    __syncthreads();
    last = shared[0];
    __syncthreads();
    if (threadIdx.x == 0) y[(o * d.k + round) * d.inner + i] = from_float<T>((float)last.at);
  }
}

struct Corners {
  float y0, x0, y1, x1;
};

template <class T>
__device__ inline Corners corners(const T* box, bool center) {
  float b[4];
  for (int e = 0; e < 4; e++) b[e] = to_float(box[e]);
  if (center) return {b[1] - b[3] / 2, b[0] - b[2] / 2, b[1] + b[3] / 2, b[0] + b[2] / 2};
  const bool down = b[0] <= b[2], right = b[1] <= b[3];
  return {down ? b[0] : b[2], right ? b[1] : b[3], down ? b[2] : b[0], right ? b[3] : b[1]};
}

__device__ inline bool overlaps(const Corners& a, const Corners& b, float iou) {
  const float y0 = fmaxf(a.y0, b.y0), x0 = fmaxf(a.x0, b.x0), y1 = fminf(a.y1, b.y1), x1 = fminf(a.x1, b.x1);
  if (!(y1 > y0 && x1 > x0)) return false;
  const float area_a = (a.y1 - a.y0) * (a.x1 - a.x0), area_b = (b.y1 - b.y0) * (b.x1 - b.x0);
  const float both = (y1 - y0) * (x1 - x0);
  return area_a > 0 && area_b > 0 && both > iou * (area_a + area_b - both);
}

// One block: rows follow each other and how many there are is known at the end. Threads share the kept boxes.
template <class T>
__global__ void suppress_kernel(const __grid_constant__ Suppress d, const T* boxes, const T* scores, const T* orders,
                                T* y) {
  int* hit = (int*)shared_bytes();
  const bool center = d.center != 0;
  int64_t rows = 0;
  for (int64_t pair = 0; pair < d.images * d.classes; pair++) {
    const int64_t image = pair / d.classes;
    const T* box = boxes + image * d.boxes * 4;
    const T *score = scores + pair * d.boxes, *order = orders + pair * d.boxes;
    const T* kept = y + rows * 3 + 2;
    int64_t chosen = 0;
    for (int64_t i = 0; i < d.boxes && chosen < d.most; i++) {
      const float next = to_float(order[i]);
      const int64_t at = next >= (float)d.boxes ? d.boxes - 1 : next > 0 ? (int64_t)next : 0;
      const float s = to_float(score[at]);
      if (s != s) continue;
      if (d.has_score && !(s > d.score)) break;
      const Corners candidate = corners(box + at * 4, center);
      if (threadIdx.x == 0) *hit = 0;
      __syncthreads();
      bool free = true;
      for (int64_t k = threadIdx.x; k < chosen && free; k += blockDim.x)
        free = !overlaps(candidate, corners(box + (int64_t)to_float(kept[3 * k]) * 4, center), d.iou);
      for (unsigned t = 0; t < blockDim.x; t += 32) {  // one warp after the other: no atomics needed
        bool found = !free;
        for (int o = 16; o > 0; o /= 2) found = __shfl_xor_sync(0xffffffffu, (int)found, o) || found;
        if (threadIdx.x == t && found) *hit = 1;
        __syncthreads();
      }
      const bool dropped = *hit != 0;
      if (!dropped && threadIdx.x == 0) {
        T* row = y + (rows + chosen) * 3;
        row[0] = from_float<T>((float)image);
        row[1] = from_float<T>((float)(pair - image * d.classes));
        row[2] = from_float<T>((float)at);
      }
      chosen += !dropped;
      __syncthreads();
    }
    rows += chosen;
  }
  const int64_t end = d.images * d.classes * min_i(d.most, d.boxes) * 3;
  for (int64_t i = rows * 3 + threadIdx.x; i < end; i += blockDim.x) y[i] = from_float<T>(-1.0f);
}

}  // namespace

void topk(const TopK& d, const Call& c) {
  const uint32_t blocks = count_of(d.outer * d.inner);
  if (blocks == 0 || d.k == 0) return;
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    launch(topk_kernel<T>, dim3(blocks), dim3(BLOCK), BLOCK * sizeof(Entry), c.stream, d, (const T*)c.in[0], (T*)c.out);
  });
}

void suppress(const Suppress& d, const Call& c) {
  if (d.images * d.classes * min_i(d.most, d.boxes) == 0) return;
  with_type(c.precision, [&](auto t) {
    using T = decltype(t);
    launch(suppress_kernel<T>, dim3(1), dim3(BLOCK), sizeof(int), c.stream, d, (const T*)c.in[0], (const T*)c.in[1],
           (const T*)c.in[2], (T*)c.out);
  });
}

}  // namespace cuda
}  // namespace fastconv
