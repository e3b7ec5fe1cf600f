// Weights in the order in which kernels read them. Any level can be packed anywhere: the best level here transposes.
#include <string.h>

#include "cpu/dispatch.h"
#include "cpu/select.h"
#include "cpu/winograd.h"

namespace fastconv {

static int64_t vectors(int64_t columns, int64_t V) { return (columns + V - 1) / V; }

int64_t packed_conv2d_size(int64_t K, int64_t C, int64_t R, int64_t S, int64_t groups, Isa isa) {
  const int64_t V = geometry(isa).vector_length;
  return groups * vectors(K / groups, V) * V * (C / groups) * R * S;
}

int64_t packed_depthwise_size(int64_t K, int64_t R, int64_t S, Isa isa) {
  const int64_t V = geometry(isa).vector_length;
  return vectors(K, V) * V * R * S;
}

int64_t packed_winograd_size(int64_t K, int64_t C, int64_t m, int64_t r, int64_t axes, Isa isa) {
  const int64_t V = geometry(isa).vector_length;
  const WinogradForm f = winograd_form(m, r, axes);
  return vectors(K, V) * V * f.parts * C * f.planes;
}

int64_t packed_linear_size(int64_t K, int64_t C, Isa isa) {
  const int64_t V = geometry(isa).vector_length;
  return vectors(K, V) * V * C;
}

int64_t linear_panel(int64_t M, int64_t C, int64_t K, Isa isa) {
  if (M > LINEAR_ROWS) return 0;
  return reads_far(M, C, K) ? far_panel(K) : (int64_t)geometry(isa).dense_panel * geometry(isa).vector_length;
}

// out[(tap * C + c) * ld + lane] = w[lane][c][tap] * scale[lane] for lane < columns, zero beyond and below width.
static void pack_panel(float* out, const float* w, const float* scale, int64_t columns, int64_t width, int64_t ld,
                       int64_t C, int64_t taps) {
  kernels(best_isa()).pack_panel({w, scale, out, C * taps, taps, columns, width, ld, C, taps, false});
}

int64_t panel_count(int64_t K, Isa isa) {
  const int64_t widest = geometry(isa).max_panel;
  return (vectors(K, geometry(isa).vector_length) + widest - 1) / widest;
}

// Nearly equal panels, the wider ones first.
int64_t panel_first(int64_t K, int64_t p, Isa isa) {
  const int64_t V = geometry(isa).vector_length, n = vectors(K, V), count = panel_count(K, isa);
  return p == count ? K : (n / count * p + (p < n % count ? p : n % count)) * V;
}

// fill(k, columns, width) for each panel of K outputs whose first one, k, lies in [first, first + rows).
template <class Fill>
static void for_panels(int64_t K, int64_t first, int64_t rows, Isa isa, const Fill& fill) {
  const int64_t V = geometry(isa).vector_length, count = panel_count(K, isa);
  for (int64_t p = 0; p < count; p++) {
    const int64_t k = panel_first(K, p, isa), columns = panel_first(K, p + 1, isa) - k;
    if (k >= first && k < first + rows) fill(k, columns, vectors(columns, V) * V);
  }
}

void pack_conv2d_rows(float* out, const float* w, const float* scale, int64_t first, int64_t rows, int64_t K, int64_t C,
                      int64_t R, int64_t S, Isa isa) {
  const int64_t depth = C * R * S;
  for_panels(K, first, rows, isa, [&](int64_t k, int64_t columns, int64_t width) {
    pack_panel(out + k * depth, w + (k - first) * depth, scale ? scale + (k - first) : nullptr, columns, width, width,
               C, R * S);
  });
}

void pack_conv2d(float* out, const float* w, const float* scale, int64_t K, int64_t C, int64_t R, int64_t S,
                 int64_t groups, Isa isa) {
  const int64_t Kg = K / groups, Cg = C / groups, depth = Cg * R * S;
  for (int64_t g = 0; g < groups; g++) {
    pack_conv2d_rows(out, w + g * Kg * depth, scale ? scale + g * Kg : nullptr, 0, Kg, Kg, Cg, R, S, isa);
    out += packed_conv2d_size(Kg, Cg, R, S, 1, isa);
  }
}

static WinogradFilter filter_transform(const WinogradForm& f, int64_t r, int64_t axes) {
  WinogradFilter G = {(int)f.edge, (int)winograd_taps(r), {}, axes != WINOGRAD_BOTH, 0};
  const double* points = G.edge == 4   ? WINOGRAD_POINTS_4
                         : G.edge == 5 ? WINOGRAD_POINTS_5
                         : G.edge == 6 ? WINOGRAD_POINTS_6
                                       : WINOGRAD_POINTS_8;
  for (int j = 0; j < G.edge - 1; j++) {
    double value = 1;
    for (int k = 0; k < G.edge - 1; k++) value /= k == j ? 1 : points[j] - points[k];
    for (int i = 0; i < G.taps; i++, value *= points[j]) G.g[j][i] = value;
  }
  G.g[G.edge - 1][G.taps - 1] = 1;
  return G;
}

void pack_winograd_rows(float* out, const float* w, const float* scale, int64_t first, int64_t rows, int64_t K,
                        int64_t C, int64_t m, int64_t r, int64_t axes, Isa isa) {
  constexpr int64_t L = 16;  // filters at a time
  const WinogradForm f = winograd_form(m, r, axes);
  WinogradFilter G = filter_transform(f, r, axes);
  const int64_t depth = f.parts * C, size = axes == WINOGRAD_BOTH ? r * r : r;
  for_panels(K, first, rows, isa, [&](int64_t k, int64_t columns, int64_t width) {
    float* o = out + k * f.planes * depth;
    const float *x = w + (k - first) * C * size, *s = scale ? scale + (k - first) : nullptr;
    if (columns < width) memset(o, 0, sizeof(float) * f.planes * depth * width);
    for (int64_t part = 0, tap = 0; part < f.parts; part++, tap += G.taps) {
      G.there = (int)(r - tap < G.taps ? r - tap : G.taps);
      for (int64_t c = 0; c < C; c++) {
        for (int64_t i = 0; i < columns; i += L) {
          kernels(best_isa())
              .winograd_filter(G, o + (part * C + c) * width + i, depth * width, x + (i * C + c) * size + tap, C * size,
                               s ? s + i : nullptr, columns - i < L ? columns - i : L);
        }
      }
    }
  });
}

void pack_winograd(float* out, const float* w, const float* scale, int64_t K, int64_t C, int64_t m, int64_t r,
                   int64_t axes, Isa isa) {
  pack_winograd_rows(out, w, scale, 0, K, K, C, m, r, axes, isa);
}

void pack_depthwise(float* out, const float* w, const float* scale, int64_t K, int64_t R, int64_t S, Isa isa) {
  const int64_t V = geometry(isa).vector_length;
  const int64_t width = vectors(K, V) * V;
  pack_panel(out, w, scale, K, width, width, 1, R * S);
}

void pack_linear_rows(float* out, const float* w, const float* scale, int64_t first, int64_t rows, int64_t K, int64_t C,
                      int64_t taps, int64_t panel, Isa isa) {
  const int64_t padded = packed_linear_size(K, 1, isa), end = first + rows;
  for (int64_t k = first, next; k < end; k = next) {
    const int64_t begin = k / panel * panel, width = begin + panel < padded ? panel : padded - begin;
    next = begin + panel < end ? begin + panel : end;
    pack_panel(out + begin * C + k - begin, w + (k - first) * C, scale ? scale + (k - first) : nullptr, next - k,
               (next == K ? padded : next) - k, width, C / taps, taps);
  }
}

void pack_linear_inputs(float* out, const float* w, const float* scale, int64_t first, int64_t rows, int64_t K,
                        int64_t C, int64_t taps, int64_t panel, Isa isa) {
  const int64_t channels = C / taps;
  const auto fill = [&](int64_t k, int64_t columns, int64_t width) {
    for (int64_t c = first; c < first + rows; c++) {
      const float* row = w + (c % channels * taps + c / channels - first) * K + k;
      float* o = out + k * C + c * width;
      for (int64_t i = 0; i < columns; i++) o[i] = row[i] * (scale ? scale[k + i] : 1.0f);
      for (int64_t i = columns; i < width; i++) o[i] = 0;
    }
  };
  if (panel == 0) return for_panels(K, 0, K, isa, fill);
  for (int64_t k = 0; k < K; k += panel) {
    const int64_t columns = K - k < panel ? K - k : panel;
    fill(k, columns, packed_linear_size(columns, 1, isa));
  }
}

}  // namespace fastconv
