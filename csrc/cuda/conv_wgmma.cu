// Tensor maps, conditions and launches of conv_wgmma.cuh.
#include <type_traits>

#include "conv_launch.h"
#include "conv_wgmma.cuh"

namespace fastconv {
namespace cuda {

#if defined(__CUDACC__)
namespace {

// The driver's functions, without linking to it.
template <class Function>
Function driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
  check(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result), name);
#else
  check(cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &result), name);
#endif
  if (result != cudaDriverEntryPointSuccess || !found)
    throw std::runtime_error(std::string(name) + " is not in the driver");
  return (Function)found;
}

constexpr CUtensorMapInterleave PLAIN = CU_TENSOR_MAP_INTERLEAVE_NONE;
constexpr CUtensorMapSwizzle SWIZZLE = CU_TENSOR_MAP_SWIZZLE_128B;
constexpr CUtensorMapL2promotion L2 = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
constexpr CUtensorMapFloatOOBfill ZEROS = CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;

CUtensorMapDataType type_of(bool bfloat) {
  return bfloat ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

void encoded(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) throw std::runtime_error(std::string(what) + ": CUresult " + std::to_string((int)result));
}

}  // namespace

TensorMap image_map(const ImageMap& m, bool bfloat) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  cuuint64_t size[4], stride[3];
  for (int i = 0; i < 4; i++) size[i] = (cuuint64_t)m.size[i];
  for (int i = 0; i < 3; i++) stride[i] = (cuuint64_t)m.stride[i];
  const cuuint32_t steps[4] = {1, (cuuint32_t)m.step[0], (cuuint32_t)m.step[1], 1};
  TensorMap map;
  encoded(encode(&map, type_of(bfloat), 4, (void*)m.address, size, stride, m.lower, m.upper, hopper::CHANNELS,
                 (cuuint32_t)m.pixels, steps, PLAIN, SWIZZLE, L2, ZEROS),
          "the tensor map of an image");
  return map;
}

TensorMap filter_map(const FilterMap& m, bool bfloat) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  cuuint64_t size[3], stride[2];
  for (int i = 0; i < 3; i++) size[i] = (cuuint64_t)m.size[i];
  for (int i = 0; i < 2; i++) stride[i] = (cuuint64_t)m.stride[i];
  const cuuint32_t box[3] = {hopper::CHANNELS, 1, (cuuint32_t)m.rows}, steps[3] = {1, 1, 1};
  TensorMap map;
  encoded(encode(&map, type_of(bfloat), 3, (void*)m.address, size, stride, box, steps, PLAIN, SWIZZLE, L2, ZEROS),
          "the tensor map of filters");
  return map;
}

#else

TensorMap image_map(const ImageMap& m, bool) {
  TensorMap t{};
  t.address = (const char*)m.address, t.rank = 4, t.image = true, t.rows = m.pixels;
  t.stride[0] = 2;
  for (int i = 0; i < 4; i++) t.size[i] = m.size[i];
  for (int i = 0; i < 3; i++) t.stride[i + 1] = m.stride[i];
  for (int i = 0; i < 2; i++) t.lower[i] = m.lower[i], t.upper[i] = m.upper[i], t.step[i] = m.step[i];
  return t;
}

TensorMap filter_map(const FilterMap& m, bool) {
  TensorMap t{};
  t.address = (const char*)m.address, t.rank = 3, t.rows = m.rows;
  t.stride[0] = 2;
  for (int i = 0; i < 3; i++) t.size[i] = m.size[i];
  for (int i = 0; i < 2; i++) t.stride[i + 1] = m.stride[i];
  return t;
}

#endif

namespace {

ImageMap image_of(const ConvArguments& d) {
  ImageMap m{};
  const int64_t images = d.M / ((int64_t)d.P * d.Q);
  m.address = d.x;
  m.size[0] = d.C, m.size[1] = d.W, m.size[2] = d.H, m.size[3] = images;
  m.stride[0] = 2 * (int64_t)d.x_ld, m.stride[1] = 2 * (int64_t)d.x_row, m.stride[2] = 2 * d.x_image;
  m.step[0] = d.stride_w, m.step[1] = d.stride_h;
  m.lower[0] = -d.pad_l, m.lower[1] = -d.pad_t;
  // the last output's first tap, as a distance from the image's last pixel
  m.upper[0] = -d.pad_l + (d.Q - 1) * d.stride_w - (d.W - 1);
  m.upper[1] = -d.pad_t + (d.P - 1) * d.stride_h - (d.H - 1);
  m.pixels = hopper::ROWS;
  return m;
}

template <class T, int BN, int STAGES>
void launch_wgmma(const ConvArguments& d, int slices, cudaStream_t stream) {
  constexpr bool bfloat = std::is_same<T, bfloat_t>::value;
  const int taps = d.depth / d.C;
  const FilterMap filters{d.w, {d.C, taps, d.K}, {2 * (int64_t)d.C, 2 * (int64_t)d.w_ld}, BN};
  const int64_t across = ceil_div(d.K, BN);
  const dim3 grid((unsigned)narrow(across * ceil_div(d.M, hopper::ROWS)), 1, (unsigned)slices);
  const hopper::Depth depth{(int)across, (int)ceil_div(d.C, hopper::CHANNELS), d.S, d.dilation_h, d.dilation_w};
  launch(conv_wgmma<T, BN, STAGES>, grid, dim3(hopper::THREADS), (size_t)hopper::SHARED_BYTES<BN, STAGES>, stream, d,
         image_map(image_of(d), bfloat), filter_map(filters, bfloat), depth);
  if (slices == 1) return;
  const int64_t threads = d.M * ceil_div((int64_t)d.K, WIDTH<T>);
  launch(join_slices<T>, dim3((unsigned)ceil_div(threads, 128)), dim3(128), 0, stream, d, slices);
}

template <class T>
void launch_type(const ConvArguments& d, const ConvChoice& choice, cudaStream_t stream) {
  switch (choice.tile - TILES) {
    case 0:
      return launch_wgmma<T, 256, 4>(d, choice.slices, stream);
    case 1:
      return launch_wgmma<T, 128, 5>(d, choice.slices, stream);
    default:
      return launch_wgmma<T, 64, 6>(d, choice.slices, stream);
  }
}

bool small(int v) { return v >= -128 && v <= 127; }

}  // namespace

bool hopper_built() {
#if defined(__CUDACC__)
  // compiled for sm_90a, and not by the driver from the PTX of an older one
  static const bool built = [] {
    cudaFuncAttributes a;
    return cudaFuncGetAttributes(&a, (const void*)conv_wgmma<half_t, 128, 5>) == cudaSuccess && a.ptxVersion == 90 &&
           a.binaryVersion == 90;
  }();
  return built;
#else
  return true;
#endif
}

int64_t hopper_steps(const ConvArguments& d) { return d.depth / d.C * ceil_div(d.C, hopper::CHANNELS); }

bool hopper_can(const ConvArguments& d) {
  if (d.groups != 1 || d.C % 8 != 0 || d.depth == 0 || !d.dense_y) return false;
  const int taps = d.depth / d.C, R = taps / d.S;
  const ImageMap m = image_of(d);
  return d.stride_h <= 8 && d.stride_w <= 8 && small(m.lower[0]) && small(m.lower[1]) && small(m.upper[0]) &&
         small(m.upper[1]) && (R - 1) * d.dilation_h <= 255 && (d.S - 1) * d.dilation_w <= 255;
}

static int64_t launches = 0;  // counted by whoever plans run: a hint, no account
int64_t hopper_launches() { return launches; }

void launch_conv_hopper(const ConvArguments& d, const ConvChoice& choice, Precision precision, cudaStream_t stream) {
  launches++;
  if (precision == Precision::fp16)
    launch_type<half_t>(d, choice, stream);
  else
    launch_type<bfloat_t>(d, choice, stream);
}

}  // namespace cuda
}  // namespace fastconv
