// dx = g f'(x), element by element, from y where f' is a function of y, else from x. Where f has a corner the
// derivative is the CPU's and torch's: 0 at relu's and at both ends of clip, alpha at leaky_relu's. Float storage only.
#include "pack.cuh"
#include "training.cuh"

namespace fastconv {
namespace cuda {
namespace {

__device__ inline float square(float x) { return x * x; }
__device__ inline float between(float low, float v, float high, float g) { return low < v && v < high ? g : 0.0f; }

// Written with v = y or v = x alike. Returns whether the function is one of these.
__device__ inline bool corner_slope(const Activation& act, float g, float v, float& dx) {
  switch (act.func) {
    case Func::clip:
      dx = between(act.alpha, v, act.beta, g);
      return true;
    case Func::leaky_relu:
      dx = 0 < v ? g : act.alpha * g;
      return true;
    case Func::neg:
      dx = -g;
      return true;
    case Func::identity:
    case Func::round_half:
      dx = g;
      return true;
    case Func::floor:
    case Func::ceil:
    case Func::trunc:
    case Func::round:
    case Func::sign:
      dx = 0;
      return true;
    default:
      return false;
  }
}

__device__ inline float output_slope(const Activation& act, float y) {
  const float a = act.alpha, b = act.beta;
  switch (act.func) {
    case Func::elu:
      return 0 < y ? 1.0f : y + a;
    case Func::selu:
      return 0 < y ? b : y + a * b;
    case Func::sigmoid:
      return y * (1.0f - y);
    case Func::hard_sigmoid:
      return between(0.0f, y, 1.0f, a);
    case Func::tanh:
      return 1.0f - y * y;
    case Func::exp:
      return y;
    case Func::sqrt:
      return 0.5f / y;
    default:  // reciprocal: nothing else passes the checks
      return -y * y;
  }
}

__device__ inline float gelu_tanh_slope(float x) {  // tanh(u) = 2 s - 1 with s = sigmoid(2 u), whose tails are exact
  const float c = clip_of(x, -30.0f, 30.0f), u = 1.595769122f * c * fmaf(c * c, 0.044715f, 1.0f);
  const float du = 1.595769122f * fmaf(c * c, 0.134145f, 1.0f), s = sigmoid_of(u);
  return s * fmaf(c * (1.0f - s), du, 1.0f);
}

__device__ inline float mish_slope(float x) {  // t + x (1 - t^2) sigmoid(x), t = tanh(softplus(x))
  const float c = clip_of(x, -80.0f, 20.0f), e = expf(c), n = e * (e + 2.0f), t = n / (n + 2.0f);
  return fmaf(c * (1.0f - t * t), sigmoid_of(c), t);
}

__device__ inline float input_slope(const Activation& act, float x) {
  const float a = act.alpha, b = act.beta;
  switch (act.func) {
    case Func::elu:
      return 0 < x ? 1.0f : a * expf(x);
    case Func::selu:
      return 0 < x ? b : a * b * expf(x);
    case Func::sigmoid:
      return sigmoid_of(x) * sigmoid_of(-x);
    case Func::hard_sigmoid:
      return between(0.0f, fmaf(a, x, b), 1.0f, a);
    case Func::hard_swish:
      return x < -3.0f ? 0.0f : 3.0f < x ? 1.0f : fmaf(x, 1.0f / 3.0f, 0.5f);
    case Func::swish: {
      const float c = clip_of(x, -80.0f, 80.0f), s = sigmoid_of(c);
      return s * fmaf(c, 1.0f - s, 1.0f);
    }
    case Func::tanh:
      return 1.0f - square(tanhf(x));
    case Func::gelu: {  // Phi(x) + x phi(x)
      const float c = clip_of(x, -20.0f, 20.0f);
      return fmaf(c, 0.398942280f * expf(-0.5f * c * c), 0.5f * erfcf(-0.707106781f * c));
    }
    case Func::gelu_tanh:
      return gelu_tanh_slope(x);
    case Func::softplus:
      return sigmoid_of(x);
    case Func::mish:
      return mish_slope(x);
    case Func::exp:
      return expf(x);
    case Func::log:
      return 1.0f / x;
    case Func::sqrt:
      return 0.5f / sqrtf(x);
    case Func::reciprocal:
      return -1.0f / (x * x);
    case Func::erf:
      return 1.12837917f * expf(-x * x);
    default:  // abs
      return 0 < x ? 1.0f : x < 0 ? -1.0f : 0.0f;
  }
}

__device__ inline float slope(const Activation& act, bool from_output, float g, float v) {
  float dx;
  if (corner_slope(act, g, v, dx)) return dx;
  return g * (from_output ? output_slope(act, v) : input_slope(act, v));
}

template <int V>
__global__ void unary_backward_kernel(const __grid_constant__ UnaryBackward d, uint32_t total, const float* g,
                                      const float* v, float* dx) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const uint32_t across = (uint32_t)d.n / V, row = i / across, column = (i - row * across) * V;
  float a[V], b[V];
  read<float, V>(g + row * d.g_ld + column, 1, a);
  read<float, V>(v + row * d.v_ld + column, 1, b);
  FASTCONV_UNROLL
  for (int e = 0; e < V; e++) a[e] = slope(d.act, d.from_output != 0, a[e], b[e]);
  write<float, V>(dx + row * d.y_ld + column, a);
}

}  // namespace

void unary_backward(const UnaryBackward& original, const Call& c) {
  UnaryBackward d = original;
  require_float(c);
  if (d.rows == 0 || d.n == 0) return;
  if (d.rows == 1 || (d.g_ld == d.n && d.v_ld == d.n && d.y_ld == d.n))
    d.n *= d.rows, d.rows = 1, d.g_ld = d.v_ld = d.y_ld = 0;
  const float *g = (const float*)c.in[0], *v = (const float*)c.in[1];
  const uint32_t total = count_of(d.rows * d.n);
  if (d.n % 4 == 0 && wide<float>(g, d.g_ld) && wide<float>(v, d.v_ld) && wide<float>(c.out, d.y_ld))
    launch(unary_backward_kernel<4>, grid_of(total / 4), dim3(BLOCK), 0, c.stream, d, total / 4, g, v, (float*)c.out);
  else
    launch(unary_backward_kernel<1>, grid_of(total), dim3(BLOCK), 0, c.stream, d, total, g, v, (float*)c.out);
}

}  // namespace cuda
}  // namespace fastconv
