// Plans without Python, for valgrind and for CPUs that only an emulator has: every kind of convolution, dense layers,
// pooling and element-wise operations on heap buffers of exactly the size that a plan asks for, against plain loops.
//
//   driver LEVEL         scalar, avx2, avx512; exit code 1 and one line for each case that is wrong
//   driver LEVEL CASE    one of the larger cases at the end of this file, for check_counts.py
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "conv_checks.h"
#include "cpu/select.h"
#include "plan.h"

using namespace fastconv;

namespace {

int failures = 0;
uint32_t state = 1;

float number() {
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / (1 << 23) - 1.0f;
}

std::unique_ptr<float[]> numbers(int64_t n) {
  std::unique_ptr<float[]> x(new float[n]);
  for (int64_t i = 0; i < n; i++) x[i] = number();
  return x;
}

void compare(const char* what, const float* got, const std::vector<double>& want, double scale) {
  for (size_t i = 0; i < want.size(); i++) {
    if (!(fabs(got[i] - want[i]) <= 2e-6 * scale)) {
      printf("%s: element %zu is %g, not %g\n", what, i, got[i], want[i]);
      failures++;
      return;
    }
  }
}

// callgrind counts the instructions of this function (check_counts.py): the second run, on a plan that is in use.
extern "C" __attribute__((noinline)) void driver_counted(Executor* executor, const Plan* plan, float* const* arrays) {
  executor->run(*plan, arrays);
}

// Runs one operation on exact buffers; add() appends it to the plan.
template <typename Add>
std::unique_ptr<float[]> run(Isa isa, const float* x, int64_t nx, int64_t ny, int threads, Add add) {
  Plan plan(isa, std::make_shared<WeightStore>());
  add(plan, plan.add_external(0, 0, nx), plan.add_external(1, 0, ny));
  std::unique_ptr<float[]> in(new float[nx]), out(new float[ny]);
  memcpy(in.get(), x, sizeof(float) * nx);
  for (int64_t i = 0; i < ny; i++) out[i] = NAN;
  float* arrays[] = {in.get(), out.get()};
  Executor executor(threads);
  executor.run(plan, arrays);
  driver_counted(&executor, &plan, arrays);
  return out;
}

struct Case {
  int64_t N, H, W, C, K, R, stride, pad, groups;
};

void convolution(Isa isa, const Case& c, const char* how, int threads) {
  const int64_t P = (c.H + 2 * c.pad - c.R) / c.stride + 1, Q = (c.W + 2 * c.pad - c.R) / c.stride + 1;
  const int64_t Cg = c.C / c.groups, Kg = c.K / c.groups;
  auto x = numbers(c.N * c.H * c.W * c.C), w = numbers(c.K * Cg * c.R * c.R), bias = numbers(c.K);
  std::vector<double> want;
  for (int64_t n = 0; n < c.N; n++) {
    for (int64_t pixel = 0; pixel < P * Q; pixel++) {
      for (int64_t k = 0; k < c.K; k++) {
        double sum = bias[k];
        for (int64_t r = 0; r < c.R; r++) {
          for (int64_t s = 0; s < c.R; s++) {
            const int64_t h = pixel / Q * c.stride + r - c.pad, v = pixel % Q * c.stride + s - c.pad;
            if (h < 0 || h >= c.H || v < 0 || v >= c.W) continue;
            for (int64_t i = 0; i < Cg; i++) {
              sum +=
                  (double)x[((n * c.H + h) * c.W + v) * c.C + k / Kg * Cg + i] * w[((k * Cg + i) * c.R + r) * c.R + s];
            }
          }
        }
        want.push_back(std::max(sum, 0.0));
      }
    }
  }
  auto out = run(isa, x.get(), c.N * c.H * c.W * c.C, (int64_t)want.size(), threads, [&](Plan& plan, int in, int y) {
    WeightStore store;  // the driver packs into its own exact buffers instead
    static std::vector<std::unique_ptr<float[]>> kept;
    const bool depthwise = !strcmp(how, "depthwise"), wino = !strcmp(how, "winograd");
    const int64_t size = depthwise ? packed_depthwise_size(c.K, c.R, c.R, isa)
                         : wino    ? packed_winograd_size(c.K, c.C, 4, 3, 0, isa)
                                   : packed_conv2d_size(c.K, c.C, c.R, c.R, c.groups, isa);
    kept.emplace_back(new float[size]);
    float* packed = kept.back().get();
    if (depthwise)
      pack_depthwise(packed, w.get(), nullptr, c.K, c.R, c.R, isa);
    else if (wino)
      pack_winograd(packed, w.get(), nullptr, c.K, c.C, 4, 3, 0, isa);
    else
      pack_conv2d(packed, w.get(), nullptr, c.K, c.C, c.R, c.R, c.groups, isa);
    const std::vector<int> inputs = {in, plan.add_weight(packed, size), plan.add_weight(bias.get(), c.K)};
    const Activation relu = {Func::clip, 0, INFINITY};
    if (depthwise) {
      DepthwiseConv2d d{};
      d.N = c.N, d.H = c.H, d.W = c.W, d.C = c.C, d.K = c.K, d.P = P, d.Q = Q, d.R = d.S = c.R;
      d.multiplier = c.K / c.C, d.stride_h = d.stride_w = c.stride, d.dilation_h = d.dilation_w = 1;
      d.pad_t = d.pad_l = c.pad, d.x_ld = c.C, d.x_row = c.W * c.C, d.x_image = c.H * d.x_row, d.y_ld = c.K;
      d.act = relu;
      plan.depthwise_conv2d(d, inputs, y);
    } else if (wino) {
      Winograd d{};
      d.N = c.N, d.H = c.H, d.W = c.W, d.C = c.C, d.K = c.K, d.P = P, d.Q = Q, d.pad_t = d.pad_l = c.pad;
      d.x_ld = c.C, d.x_row = c.W * c.C, d.x_image = c.H * d.x_row, d.y_ld = c.K, d.act = relu;
      d.m = 4, d.r = 3;
      plan.winograd_conv2d(d, inputs, y);
    } else {
      Conv2d d{};
      d.N = c.N, d.H = c.H, d.W = c.W, d.C = c.C, d.K = c.K, d.P = P, d.Q = Q, d.R = d.S = c.R, d.groups = c.groups;
      d.stride_h = d.stride_w = c.stride, d.dilation_h = d.dilation_w = 1, d.pad_t = d.pad_l = c.pad;
      d.x_ld = c.C, d.x_row = c.W * c.C, d.x_image = c.H * d.x_row, d.y_ld = c.K, d.act = relu;
      d.algorithm = !strcmp(how, "gemm")      ? ConvAlgorithm::gemm
                    : !strcmp(how, "row_run") ? ConvAlgorithm::row_run
                    : !strcmp(how, "grouped") ? ConvAlgorithm::grouped
                                              : ConvAlgorithm::implicit;
      if (d.algorithm == ConvAlgorithm::grouped)
        plan.grouped_conv2d(d, inputs, y);
      else
        plan.conv2d(d, inputs, y);
    }
  });
  compare(how, out.get(), want, (double)(Cg * c.R * c.R) + 1);
}

void dense(Isa isa, int64_t M, int64_t C, int64_t K, int threads) {
  auto x = numbers(M * C), w = numbers(K * C), bias = numbers(K);
  std::vector<double> want;
  for (int64_t m = 0; m < M; m++) {
    for (int64_t k = 0; k < K; k++) {
      double sum = bias[k];
      for (int64_t i = 0; i < C; i++) sum += (double)x[m * C + i] * w[k * C + i];
      want.push_back(sum);
    }
  }
  const int64_t size = packed_linear_size(K, C, isa);
  std::unique_ptr<float[]> packed(new float[size]);
  const int64_t panel = linear_panel(M, C, K, isa);
  if (panel) {
    pack_linear_rows(packed.get(), w.get(), nullptr, 0, K, K, C, 1, panel, isa);
  } else {
    pack_conv2d(packed.get(), w.get(), nullptr, K, C, 1, 1, 1, isa);
  }
  auto out = run(isa, x.get(), M * C, M * K, threads, [&](Plan& plan, int in, int y) {
    const std::vector<int> tensors = {in, plan.add_weight(packed.get(), size), plan.add_weight(bias.get(), K)};
    if (M <= LINEAR_ROWS) {
      Linear d{};
      d.M = M, d.C = C, d.K = K, d.x_ld = C, d.y_ld = K, d.act = {Func::identity, 0, 0};
      plan.linear(d, tensors, y);
    } else {
      Conv2d d{};
      d.N = d.H = d.P = d.R = d.S = d.groups = d.stride_h = d.stride_w = d.dilation_h = d.dilation_w = 1;
      d.W = d.Q = M, d.C = d.x_ld = C, d.K = d.y_ld = K, d.x_row = d.x_image = M * C;
      d.algorithm = ConvAlgorithm::gemm, d.act = {Func::identity, 0, 0};
      plan.conv2d(d, tensors, y);
    }
  });
  compare("linear", out.get(), want, (double)C + 1);
}

void pooling(Isa isa, int64_t H, int64_t C, int64_t R, int64_t stride, int64_t pad, int threads) {
  const int64_t P = (H + 2 * pad - R) / stride + 1;
  auto x = numbers(H * H * C);
  std::vector<double> most, mean;
  for (int64_t pixel = 0; pixel < P * P; pixel++) {
    for (int64_t c = 0; c < C; c++) {
      double best = -INFINITY, sum = 0, count = 0;
      for (int64_t r = 0; r < R * R; r++) {
        const int64_t h = pixel / P * stride - pad + r / R, w = pixel % P * stride - pad + r % R;
        if (h < 0 || h >= H || w < 0 || w >= H) continue;
        best = std::max(best, (double)x[(h * H + w) * C + c]);
        sum += x[(h * H + w) * C + c];
        count++;
      }
      most.push_back(best);
      mean.push_back(sum / count);
    }
  }
  for (int average = 0; average < 2; average++) {
    auto out = run(isa, x.get(), H * H * C, P * P * C, threads, [&](Plan& plan, int in, int y) {
      Pool2d d{};
      d.N = 1, d.H = d.W = H, d.C = C, d.P = d.Q = P, d.R = d.S = R, d.stride_h = d.stride_w = stride;
      d.dilation_h = d.dilation_w = 1, d.pad_t = d.pad_l = d.pad_b = d.pad_r = pad;
      d.x_ld = d.y_ld = C, d.x_row = H * C, d.x_image = H * d.x_row;
      if (average)
        plan.avg_pool2d(d, {in}, y);
      else
        plan.max_pool2d(d, {in}, y);
    });
    compare(average ? "avg_pool2d" : "max_pool2d", out.get(), average ? mean : most, 4);
  }
}

void swish(Isa isa, int64_t n, int threads) {
  auto x = numbers(n);
  std::vector<double> want;
  for (int64_t i = 0; i < n; i++) want.push_back(x[i] / (1 + ::exp(-(double)x[i])));
  auto out = run(isa, x.get(), n, n, threads, [&](Plan& plan, int in, int y) {
    Unary d{};
    d.rows = 1, d.n = d.x_ld = d.y_ld = n, d.act = {Func::swish, 0, 0};
    plan.unary(d, {in}, y);
  });
  compare("swish", out.get(), want, 1);
}

#include "driver_training.h"

struct Counted {
  const char* name;
  void (*run)(Isa);
};

// What the kernels do in real networks in little: whole tiles and a rest.
const Counted counted[] = {
    {"gemm", [](Isa isa) { convolution(isa, {1, 13, 13, 128, 144, 1, 1, 0, 1}, "gemm", 1); }},
    {"implicit_s2", [](Isa isa) { convolution(isa, {1, 17, 17, 64, 64, 3, 2, 1, 1}, "implicit", 1); }},
    {"row_run", [](Isa isa) { convolution(isa, {1, 34, 34, 3, 32, 3, 1, 0, 1}, "row_run", 1); }},
    {"winograd", [](Isa isa) { convolution(isa, {1, 18, 18, 64, 64, 3, 1, 1, 1}, "winograd", 1); }},
    {"depthwise_3x3", [](Isa isa) { convolution(isa, {1, 17, 17, 64, 64, 3, 1, 1, 64}, "depthwise", 1); }},
    {"depthwise_3x3_s2", [](Isa isa) { convolution(isa, {1, 17, 17, 64, 64, 3, 2, 1, 64}, "depthwise", 1); }},
    {"depthwise_5x5", [](Isa isa) { convolution(isa, {1, 17, 17, 64, 64, 5, 1, 2, 64}, "depthwise", 1); }},
    {"grouped_4", [](Isa isa) { convolution(isa, {1, 14, 14, 64, 64, 3, 1, 1, 16}, "grouped", 1); }},
    {"grouped_8", [](Isa isa) { convolution(isa, {1, 14, 14, 64, 64, 3, 1, 1, 8}, "grouped", 1); }},
    {"grouped_16_s2", [](Isa isa) { convolution(isa, {1, 28, 28, 64, 64, 3, 2, 1, 4}, "grouped", 1); }},
    {"dense_1", [](Isa isa) { dense(isa, 1, 512, 500, 1); }},
    {"dense_far", [](Isa isa) { dense(isa, 1, 1050, 2000, 1); }},
    {"dense_8", [](Isa isa) { dense(isa, 8, 256, 256, 1); }},
    {"pool", [](Isa isa) { pooling(isa, 17, 64, 3, 2, 1, 1); }},
    {"swish", [](Isa isa) { swish(isa, 8192, 1); }},
    {"images", [](Isa isa) { convolution(isa, {16, 12, 12, 4, 6, 5, 1, 0, 1}, "implicit", 1); }},
    {"weight_gradient", [](Isa isa) { weight_gradient(isa, {1, 14, 14, 32, 64, 3, 1, 1, 1}, "weight_gradient"); }},
    {"weight_images", [](Isa isa) { weight_gradient(isa, {16, 12, 12, 4, 6, 5, 1, 0, 1}, "weight_images"); }},
    {"input_gradient", [](Isa isa) { input_gradient(isa, {1, 14, 14, 32, 64, 3, 2, 1, 1}); }},
    {"pool_gradient", [](Isa isa) { pool_gradient(isa, 4, 28, 6); }},
    {"affine_sample", [](Isa isa) { shifted(isa, 2, 24, 3); }},
    {"dropout", [](Isa isa) { dropped(isa, 8192); }},
};

}  // namespace

int main(int argc, char** argv) {
  Isa isa;
  if (argc < 2 || argc > 3 || !isa_from_name(argv[1], &isa)) {
    fprintf(stderr, "usage: driver LEVEL [CASE]\n");
    return 2;
  }
  if (!isa_supported(isa)) {
    fprintf(stderr, "this CPU lacks %s; it has %s\n", argv[1], isa_name(best_isa()));
    return 3;
  }
  if (argc == 3) {
    for (const Counted& c : counted) {
      if (strcmp(argv[2], c.name)) continue;
      c.run(isa);
      return failures ? 1 : 0;
    }
    fprintf(stderr, "no case %s\n", argv[2]);
    return 2;
  }
  for (int threads : {1, 2}) {
    for (int64_t c : {1, 5, 17}) {
      for (int64_t k : {1, 19, 70}) {
        convolution(isa, {2, 6, 5, c, k, 1, 1, 0, 1}, "gemm", threads);
        convolution(isa, {1, 7, 7, c, k, 3, 2, 1, 1}, "implicit", threads);
        convolution(isa, {1, 9, 8, c, k, 3, 1, 0, 1}, "row_run", threads);
        convolution(isa, {1, 9, 10, c, k, 3, 1, 1, 1}, "winograd", threads);
      }
    }
    convolution(isa, {1, 8, 8, 12, 24, 3, 1, 1, 3}, "implicit", threads);
    for (int64_t group : {3, 4, 8, 16, 20, 32}) {
      for (int64_t stride : {1, 2}) {
        convolution(isa, {2, 40, 33, 3 * group, 3 * group, 3, stride, 1, 3}, "grouped", threads);
        convolution(isa, {1, 7, 14, 5 * group, 5 * group, 3, stride, 1, 5}, "grouped", threads);
      }
    }
    for (int64_t r : {3, 5, 7}) {
      for (int64_t stride : {1, 2}) convolution(isa, {1, 15, 16, 21, 21, r, stride, r / 2, 21}, "depthwise", threads);
    }
    convolution(isa, {1, 6, 6, 5, 15, 3, 1, 1, 5}, "depthwise", threads);
    for (int64_t m : {1, 2, 3, 4, 13}) dense(isa, m, 33, 150, threads);
    for (int64_t m : {1, 2, 3}) dense(isa, m, 1030, 2051, threads);
    dense(isa, 1, 160000, 14, threads);
    pooling(isa, 9, 19, 3, 2, 1, threads);
    pooling(isa, 8, 33, 2, 2, 0, threads);
    swish(isa, 1003, threads);
  }
  printf("%s: %d failures\n", isa_name(isa), failures);
  return failures ? 1 : 0;
}
