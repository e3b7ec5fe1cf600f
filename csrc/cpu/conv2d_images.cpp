// conv2d for few output channels and many images (images_pay in images_checks.h): lanes are images, so that no lane is
// idle whatever the channels. A tile keeps IMAGE_CHANNELS output channels of IMAGE_PIXELS neighbouring pixels in
// registers and reads weights, packed as for conv2d.cpp, one number at a time. Sums run in the order (r, s, c), as
// there: the results are the same.
//
// A chunk is a group of Vec::N images and a band of rows; what it reads of x is turned into [h][w][c][image] first,
// each row of y back from [q][k][image] when it is done. LeNet-5's first layer, 64 images, on a Zen 5 core: 424 to
// 125 us.
#include "cpu/images.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

struct Product {
  const float* x;  // first pixel of the first tap
  int64_t x_pixel, x_row, x_tap;
  int64_t rows, columns;  // taps inside the image
  const float* w;         // of the first tap
  int64_t w_row, w_tap, w_ld, C;
  const float* bias;  // of the first channel, or null
  float* y;
  int64_t y_pixel;
};

template <int T, int KB>
void product(const Product& t) {
  constexpr int V = Vec::N;
  Vec acc[T][KB];
#pragma GCC unroll 8
  for (int k = 0; k < KB; k++)
#pragma GCC unroll 8
    for (int i = 0; i < T; i++) acc[i][k] = t.bias ? set1(t.bias[k]) : zero();
  for (int64_t r = 0; r < t.rows; r++) {
    for (int64_t s = 0; s < t.columns; s++) {
      const float *x = t.x + r * t.x_row + s * t.x_tap, *w = t.w + r * t.w_row + s * t.w_tap;
      for (int64_t c = 0; c < t.C; c++, x += V, w += t.w_ld) {
        Vec held[T];
#pragma GCC unroll 8
        for (int i = 0; i < T; i++) held[i] = load(x + i * t.x_pixel);
#pragma GCC unroll 8
        for (int k = 0; k < KB; k++) {
          const Vec a = set1(w[k]);
#pragma GCC unroll 8
          for (int i = 0; i < T; i++) acc[i][k] = fma(a, held[i], acc[i][k]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < T; i++)
#pragma GCC unroll 8
    for (int k = 0; k < KB; k++) store(t.y + i * t.y_pixel + k * V, acc[i][k]);
}

struct Products {
  using Function = void (*)(const Product&);
  template <int T, int KB>
  static constexpr Function tile = product<T, KB>;
};

// The taps of an axis that at least one of `count` outputs from `at` on meets inside the image.
struct Taps {
  int64_t first, last;
};
inline Taps taps(int64_t at, int64_t count, int64_t stride, int64_t pad, int64_t dilation, int64_t size, int64_t n) {
  const int64_t low = at * stride - pad, high = low + (count - 1) * stride;
  const int64_t first = high < 0 ? (-high + dilation - 1) / dilation : 0;
  const int64_t last = low < size ? min_i(n, (size - 1 - low) / dilation + 1) : 0;
  return {first, max_i(first, last)};
}

// Row p of y, [q][k][image].
void run_row(const Conv2d& d, const Buffers& b, const Band& band, const float* x, int64_t p, float* y) {
  const int64_t V = Vec::N, pixel = d.C * V, blocks = (d.Q + IMAGE_PIXELS - 1) / IMAGE_PIXELS;
  const Taps tr = taps(p, 1, d.stride_h, d.pad_t, d.dilation_h, d.H, d.R);
  const Panels panels(d.K, MAX_NV);
  Product t;
  t.x_pixel = d.stride_w * pixel;
  t.x_row = d.dilation_h * band.columns * pixel;
  t.x_tap = d.dilation_w * pixel;
  t.rows = tr.last - tr.first;
  t.C = d.C;
  t.y_pixel = d.K * V;
  const float* row = x + (p * d.stride_h - d.pad_t + tr.first * d.dilation_h - band.first) * band.columns * pixel;
  for (int64_t panel = 0; panel < panels.count; panel++) {
    const int64_t begin = panels.start(panel) * V, columns = min_i(d.K - begin, panels.width(panel) * V);
    const int64_t parts = (columns + IMAGE_CHANNELS - 1) / IMAGE_CHANNELS;
    t.w_ld = panels.width(panel) * V;
    t.w_tap = d.C * t.w_ld;
    t.w_row = d.S * t.w_tap;
    for (int64_t part = 0; part < parts; part++) {
      const int64_t k = columns * part / parts, channels = columns * (part + 1) / parts - k;
      t.bias = b.in[2] ? b.in[2] + begin + k : nullptr;
      for (int64_t i = 0; i < blocks; i++) {
        const int64_t q = d.Q * i / blocks, count = d.Q * (i + 1) / blocks - q;
        const Taps ts = taps(q, count, d.stride_w, d.pad_l, d.dilation_w, d.W, d.S);
        t.columns = ts.last - ts.first;
        t.x = row + (q * d.stride_w + ts.first * d.dilation_w) * pixel;
        t.w = b.in[1] + begin * d.R * d.S * d.C + k + tr.first * t.w_row + ts.first * t.w_tap;
        t.y = y + (q * d.K + begin + k) * V;
        find_tile_of<Products>(count, channels)(t);
      }
    }
  }
}

// `n` neighbouring floats of each image, from the turned order.
void turn_out(const float* turned, int64_t n, int64_t images, float* y, int64_t y_image, const float* residual,
              int64_t res_image) {
  for (int64_t i = 0; i < n; i += Vec::N) {
    const int lanes = (int)min_i(Vec::N, n - i);
    Vec r[Vec::N];
    for (int j = 0; j < Vec::N; j++) r[j] = j < lanes ? load(turned + (i + j) * Vec::N) : zero();
    transpose(r);
    for (int64_t j = 0; j < images; j++) {
      if (residual) {
        const float* p = residual + j * res_image + i;
        r[j] = add(r[j], lanes == Vec::N ? load(p) : load_n(p, lanes));
      }
      if (lanes == Vec::N)
        store(y + j * y_image + i, r[j]);
      else
        store_n(y + j * y_image + i, r[j], lanes);
    }
  }
}

void finish_row(const Conv2d& d, const Buffers& b, const Images& images, int64_t p, float* turned) {
  const int64_t row = (images.first * d.P + p) * d.Q, image = d.P * d.Q;
  const float* residual = b.in[3];
  const bool joined = d.y_ld == d.K && (!residual || d.res_ld == d.K);
  const int64_t n = joined ? d.Q * d.K : d.K, runs = joined ? 1 : d.Q;
  if (!residual) activate_row(d.act, turned, d.Q * d.K * Vec::N);
  for (int64_t q = 0; q < runs; q++) {
    float* y = b.out + (row + q) * d.y_ld;
    turn_out(turned + q * d.K * Vec::N, n, images.count, y, image * d.y_ld,
             residual ? residual + (row + q) * d.res_ld : nullptr, image * d.res_ld);
    if (!residual) continue;
    for (int64_t j = 0; j < images.count; j++) activate_row(d.act, y + j * image * d.y_ld, n);
  }
}

}  // namespace

void conv2d_images(const Conv2d& d, const Buffers& b, int64_t begin, int64_t end) {
  const int64_t reach = (d.R - 1) * d.dilation_h;
  Band band;
  band.columns = band_columns(d);
  band.left = d.pad_l;
  for (int64_t chunk = begin; chunk < end; chunk++) {
    const Images images(d.N, chunk / d.row_chunks);
    const int64_t first = chunk % d.row_chunks * d.rows_per_chunk, last = min_i(d.P, first + d.rows_per_chunk);
    band.first = max_i(0, first * d.stride_h - d.pad_t);
    band.last = max_i(band.first, min_i(d.H, (last - 1) * d.stride_h - d.pad_t + reach + 1));
    float* y = b.scratch + (band.last - band.first) * band.columns * d.C * Vec::N;
    turn_band_in(d, b.in[0], images, band, b.scratch);
    for (int64_t p = first; p < last; p++) {
      run_row(d, b, band, b.scratch, p, y);
      finish_row(d, b, images, p, y);
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
