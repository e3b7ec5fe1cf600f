// Cases of driver.cpp that only training has: gradients of convolutions and pooling, dropout, moved images.
#pragma once

// dw of x and g: N images, padding and stride as in Case, groups = 1; both operations.
void weight_gradient(Isa isa, const Case& c, const char* what) {
  const int64_t P = (c.H + 2 * c.pad - c.R) / c.stride + 1, Q = (c.W + 2 * c.pad - c.R) / c.stride + 1;
  auto x = numbers(c.N * c.H * c.W * c.C), g = numbers(c.N * P * Q * c.K);
  std::vector<double> want(c.K * c.C * c.R * c.R, 0.0);
  for (int64_t i = 0; i < c.N * P * Q; i++) {
    for (int64_t t = 0; t < c.R * c.R; t++) {
      const int64_t h = i / Q % P * c.stride - c.pad + t / c.R, w = i % Q * c.stride - c.pad + t % c.R;
      if (h < 0 || h >= c.H || w < 0 || w >= c.W) continue;
      const float *px = x.get() + ((i / Q / P * c.H + h) * c.W + w) * c.C, *pg = g.get() + i * c.K;
      for (int64_t k = 0; k < c.K; k++)
        for (int64_t j = 0; j < c.C; j++) want[(k * c.C + j) * c.R * c.R + t] += (double)pg[k] * px[j];
    }
  }
  auto out = run(isa, x.get(), c.N * c.H * c.W * c.C, (int64_t)want.size(), 1, [&](Plan& plan, int in, int y) {
    Conv2dBackwardWeight d{};
    d.N = c.N, d.H = c.H, d.W = c.W, d.C = c.C, d.K = c.K, d.P = P, d.Q = Q, d.R = d.S = c.R, d.groups = 1;
    d.stride_h = d.stride_w = c.stride, d.dilation_h = d.dilation_w = 1, d.pad_t = d.pad_l = c.pad;
    d.x_ld = c.C, d.x_row = c.W * c.C, d.x_image = c.H * d.x_row, d.g_ld = c.K;
    d.dw_k = c.C * c.R * c.R, d.dw_c = c.R * c.R, d.dw_tap = 1;
    const int sums = plan.add_arena(0, extent(d, isa, Op::conv2d_backward_weight).out);
    plan.conv2d_backward_weight(d, {in, plan.add_weight(g.get(), c.N * P * Q * c.K)}, sums);
    plan.conv2d_backward_weight_sum(d, {sums}, y);
  });
  compare(what, out.get(), want, (double)(c.N * P * Q) + 1);
}

// dx of g by stride 2, with weights packed on the way.
void input_gradient(Isa isa, const Case& c) {
  const int64_t P = (c.H + 2 * c.pad - c.R) / c.stride + 1, Q = (c.W + 2 * c.pad - c.R) / c.stride + 1;
  const int64_t taps = c.R * c.R;
  auto g = numbers(c.N * P * Q * c.K), w = numbers(c.K * c.C * taps);
  std::vector<double> want(c.N * c.H * c.W * c.C, 0.0);
  for (int64_t i = 0; i < c.N * P * Q; i++) {
    for (int64_t t = 0; t < taps; t++) {
      const int64_t h = i / Q % P * c.stride - c.pad + t / c.R, column = i % Q * c.stride - c.pad + t % c.R;
      if (h < 0 || h >= c.H || column < 0 || column >= c.W) continue;
      double* dx = want.data() + ((i / Q / P * c.H + h) * c.W + column) * c.C;
      for (int64_t k = 0; k < c.K; k++)
        for (int64_t j = 0; j < c.C; j++) dx[j] += (double)g[i * c.K + k] * w[(k * c.C + j) * taps + t];
    }
  }
  auto out = run(isa, g.get(), c.N * P * Q * c.K, (int64_t)want.size(), 1, [&](Plan& plan, int in, int y) {
    PackWeights p{};
    p.K = c.C, p.C = c.K, p.taps = taps, p.groups = 1, p.w_k = taps, p.w_c = c.C * taps, p.w_tap = 1;
    const int packed = plan.add_arena(0, packed_conv2d_size(c.C, c.K, c.R, c.R, 1, isa));
    plan.pack_weights(p, {plan.add_weight(w.get(), c.K * c.C * taps)}, packed);
    Conv2dBackwardInput d{};
    d.N = c.N, d.H = c.H, d.W = c.W, d.C = c.C, d.K = c.K, d.P = P, d.Q = Q, d.R = d.S = c.R, d.groups = 1;
    d.stride_h = d.stride_w = c.stride, d.dilation_h = d.dilation_w = 1, d.pad_t = d.pad_l = c.pad;
    d.g_ld = c.K, d.x_ld = c.C, d.x_row = c.W * c.C, d.x_image = c.H * d.x_row;
    plan.conv2d_backward_input(d, {in, packed}, y);
  });
  compare("input_gradient", out.get(), want, (double)(c.K * taps) + 1);
}

// 2x2 windows that touch: averages.
void pool_gradient(Isa isa, int64_t N, int64_t H, int64_t C) {
  const int64_t P = H / 2;
  auto g = numbers(N * P * P * C);
  std::vector<double> want;
  for (int64_t i = 0; i < N * H * H; i++) {
    const int64_t from = (i / H / H * P + i / H % H / 2) * P + i % H / 2;
    for (int64_t c = 0; c < C; c++) want.push_back(g[from * C + c] / 4.0);
  }
  auto out = run(isa, g.get(), N * P * P * C, N * H * H * C, 1, [&](Plan& plan, int in, int y) {
    Pool2dBackward d{};
    d.N = N, d.H = d.W = H, d.C = C, d.P = d.Q = P, d.R = d.S = d.stride_h = d.stride_w = 2;
    d.dilation_h = d.dilation_w = 1, d.g_ld = d.x_ld = d.y_ld = d.dx_ld = C;
    plan.avg_pool2d_backward(d, {in}, y);
  });
  compare("pool_gradient", out.get(), want, 1);
}

// Images shifted by half a pixel in each direction, bilinear, zeros beyond.
void shifted(Isa isa, int64_t N, int64_t H, int64_t C) {
  auto x = numbers(N * H * H * C);
  std::vector<double> want;
  for (int64_t i = 0; i < N * H * H; i++) {
    for (int64_t c = 0; c < C; c++) {
      double sum = 0;
      for (int64_t t = 0; t < 4; t++) {
        const int64_t h = i / H % H + t / 2, w = i % H + t % 2;
        if (h < H && w < H) sum += 0.25 * x[((i / H / H * H + h) * H + w) * C + c];
      }
      want.push_back(sum);
    }
  }
  std::vector<float> matrix;
  for (int64_t n = 0; n < N; n++)
    for (const float m : {1.0f, 0.0f, 0.5f, 0.0f, 1.0f, 0.5f}) matrix.push_back(m);
  auto out = run(isa, x.get(), N * H * H * C, N * H * H * C, 1, [&](Plan& plan, int in, int y) {
    AffineSample d{};
    d.N = N, d.H = d.W = d.P = d.Q = H, d.C = d.x_ld = d.y_ld = C, d.fill = FillMode::constant, d.bilinear = 1;
    plan.affine_sample(d, {in, plan.add_weight(matrix.data(), (int64_t)matrix.size())}, y);
  });
  compare("affine_sample", out.get(), want, 2);
}

// What is kept must be twice x; tests/kernels/test_optimizer.py says how much that is.
void dropped(Isa isa, int64_t n) {
  auto x = numbers(n);
  const float seed = 7;
  auto out = run(isa, x.get(), n, n, 1, [&](Plan& plan, int in, int y) {
    Dropout d{};
    d.rows = 1, d.n = d.x_ld = d.y_ld = n, d.rate = 0.5f;
    plan.dropout(d, {in, plan.add_weight(&seed, 1)}, y);
  });
  std::vector<double> want;
  for (int64_t i = 0; i < n; i++) want.push_back(out[i] == 0 ? 0 : 2.0 * x[i]);
  compare("dropout", out.get(), want, 1);
}
