// Filters into a weight panel: columns that lie apart in memory become lanes, by transposition in registers.
#pragma once
#include "cpu/kernels.h"
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {

inline int64_t tap_of(const FilterPanel& p, int64_t t) { return p.flip ? p.taps - 1 - t : t; }

// Elements [i, i + n) of the run that begins at channel c, for Vec::N columns from k on. A run of more than one channel
// needs w_c == taps.
inline void transpose_filters(const FilterPanel& p, int64_t k, int64_t c, int64_t i, int n) {
  const float* w = p.w + k * p.w_k + c * p.w_c + i;
  const int64_t live = min_i(Vec::N, p.columns - k), lanes = min_i(Vec::N, p.width - k);
  Vec r[Vec::N];
  for (int j = 0; j < Vec::N; j++) {
    r[j] = j >= live ? zero() : n == Vec::N ? load(w + j * p.w_k) : load_n(w + j * p.w_k, n);
    if (n == Vec::N) __builtin_prefetch(w + j * p.w_k + 2 * Vec::N);
    if (p.scale && j < live) r[j] = mul(r[j], set1(p.scale[k + j]));
  }
  transpose(r);
  int64_t channel = c + i / p.taps, t = i % p.taps;
  for (int j = 0; j < n; j++) {
    float* out = p.out + (tap_of(p, t) * p.depth + channel) * p.ld + k;
    if (lanes == Vec::N) {
      store(out, r[j]);
    } else {
      store_n(out, r[j], (int)lanes);
    }
    if (++t == p.taps) t = 0, channel++;
  }
}

// `length` elements from channel c on: all columns before the next elements, so that rows of the panel are written
// whole.
inline void transpose_run(const FilterPanel& p, int64_t c, int64_t length) {
  for (int64_t i = 0; i < length; i += Vec::N)
    for (int64_t k = 0; k < p.width; k += Vec::N) transpose_filters(p, k, c, i, (int)min_i(Vec::N, length - i));
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
