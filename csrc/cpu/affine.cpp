// y[r, c] = act(x[r, c] * scale[c] + shift[c]): a batch normalisation that could not be folded. Chunks are rows. Few
// channels make short rows; activations other than clip therefore run over several rows at once where rows touch.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

template <class F>
void affine_rows(const F& f, const Affine& d, const Buffers& b, int64_t first, int64_t last) {
  const float *scale = b.in[1], *shift = b.in[2];
  for (int64_t r = first; r < last; r++) {
    const float* x = b.in[0] + r * d.x_ld;
    float* y = b.out + r * d.y_ld;
    int64_t c = 0;
    for (; c + Vec::N <= d.n; c += Vec::N) store(y + c, f(fma(load(x + c), load(scale + c), load(shift + c))));
    if (c < d.n) {
      const int n = (int)(d.n - c);
      store_n(y + c, f(fma(load_n(x + c, n), load_n(scale + c, n), load_n(shift + c, n))), n);
    }
  }
}

}  // namespace

void affine(const Affine& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t first = chunk_begin(d.rows, d.chunks, begin), last = chunk_begin(d.rows, d.chunks, end);
  if (d.n == 0) return;
  if (d.act.func == Func::identity) return affine_rows(Identity{}, d, b, first, last);
  if (d.act.func == Func::clip) return affine_rows(Clip{set1(d.act.alpha), set1(d.act.beta)}, d, b, first, last);
  const int64_t step = d.y_ld == d.n ? max_i(1, 2048 / d.n) : 1;
  for (int64_t r = first; r < last; r += step) {
    const int64_t stop = min_i(r + step, last);
    affine_rows(Identity{}, d, b, r, stop);
    activate_row(d.act, b.out + r * d.y_ld, (stop - r) * d.n);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
