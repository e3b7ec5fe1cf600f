// Tensor maps, conditions and launches of conv_wgmma.cuh.
#include <stdlib.h>
#include <string.h>

#include <atomic>

#include "conv_launch.h"
#include "conv_wgmma.cuh"

namespace fastconv {
namespace cuda {
namespace {

// x as the copies of a convolution see it: C, W, H, N with byte strides of the outer three; steps between output
// pixels, and how far the filter's first tap goes in each direction. Each copy takes `pixels` of them and 128 bytes of
// channels.
struct ImageMap {
  const void* address;
  int64_t size[4], stride[3];
  int lower[2], upper[2];  // w, h: corners of the first tap's box, relative to the image's
  int step[2], pixels;
};
// Filters as C, taps, K with byte strides of the outer two; each copy takes one tap of `rows` filters.
struct FilterMap {
  const void* address;
  int64_t size[3], stride[2];
  int rows;
};

#if defined(__CUDACC__)

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

// float is rounded to tf32 on its way into shared memory.
CUtensorMapDataType type_of(half_t) { return CU_TENSOR_MAP_DATA_TYPE_FLOAT16; }
CUtensorMapDataType type_of(bfloat_t) { return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16; }
CUtensorMapDataType type_of(float) { return CU_TENSOR_MAP_DATA_TYPE_TFLOAT32; }

void encoded(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) throw std::runtime_error(std::string(what) + ": CUresult " + std::to_string((int)result));
}

template <class T>
TensorMap image_map(const ImageMap& m) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  cuuint64_t size[4], stride[3];
  for (int i = 0; i < 4; i++) size[i] = (cuuint64_t)m.size[i];
  for (int i = 0; i < 3; i++) stride[i] = (cuuint64_t)m.stride[i];
  const cuuint32_t steps[4] = {1, (cuuint32_t)m.step[0], (cuuint32_t)m.step[1], 1};
  TensorMap map;
  encoded(encode(&map, type_of(T{}), 4, (void*)m.address, size, stride, m.lower, m.upper, hopper::CHANNELS<T>,
                 (cuuint32_t)m.pixels, steps, PLAIN, SWIZZLE, L2, ZEROS),
          "the tensor map of an image");
  return map;
}

template <class T>
TensorMap filter_map(const FilterMap& m) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  cuuint64_t size[3], stride[2];
  for (int i = 0; i < 3; i++) size[i] = (cuuint64_t)m.size[i];
  for (int i = 0; i < 2; i++) stride[i] = (cuuint64_t)m.stride[i];
  const cuuint32_t box[3] = {hopper::CHANNELS<T>, 1, (cuuint32_t)m.rows}, steps[3] = {1, 1, 1};
  TensorMap map;
  encoded(encode(&map, type_of(T{}), 3, (void*)m.address, size, stride, box, steps, PLAIN, SWIZZLE, L2, ZEROS),
          "the tensor map of filters");
  return map;
}

#else

uint32_t (*converted(float))(uint32_t) { return host::to_tf32; }
template <class Half>
uint32_t (*converted(Half))(uint32_t) {
  return nullptr;
}

template <class T>
TensorMap image_map(const ImageMap& m) {
  TensorMap t{};
  t.address = (const char*)m.address, t.rank = 4, t.image = true, t.rows = m.pixels;
  t.stride[0] = (int64_t)sizeof(T), t.convert = converted(T{});
  for (int i = 0; i < 4; i++) t.size[i] = m.size[i];
  for (int i = 0; i < 3; i++) t.stride[i + 1] = m.stride[i];
  for (int i = 0; i < 2; i++) t.lower[i] = m.lower[i], t.upper[i] = m.upper[i], t.step[i] = m.step[i];
  return t;
}

template <class T>
TensorMap filter_map(const FilterMap& m) {
  TensorMap t{};
  t.address = (const char*)m.address, t.rank = 3, t.rows = m.rows;
  t.stride[0] = (int64_t)sizeof(T), t.convert = converted(T{});
  for (int i = 0; i < 3; i++) t.size[i] = m.size[i];
  for (int i = 0; i < 2; i++) t.stride[i + 1] = m.stride[i];
  return t;
}

#endif

// item: bytes of an element
ImageMap image_of(const ConvArguments& d, int64_t item) {
  ImageMap m{};
  const int64_t images = d.M / ((int64_t)d.P * d.Q);
  m.address = d.x;
  m.size[0] = d.C, m.size[1] = d.W, m.size[2] = d.H, m.size[3] = images;
  m.stride[0] = item * d.x_ld, m.stride[1] = item * d.x_row, m.stride[2] = item * d.x_image;
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
  constexpr int64_t item = sizeof(T);
  const int taps = d.depth / d.C;
  const FilterMap filters{d.w, {d.C, taps, d.K}, {item * d.C, item * d.w_ld}, BN};
  const int64_t across = ceil_div(d.K, BN);
  const dim3 grid((unsigned)narrow(across * ceil_div(d.M, hopper::ROWS)), 1, (unsigned)slices);
  const hopper::Depth depth{(int)across, (int)ceil_div(d.C, hopper::CHANNELS<T>), d.S, d.dilation_h, d.dilation_w};
  launch(conv_wgmma<T, BN, STAGES>, grid, dim3(hopper::THREADS), (size_t)hopper::SHARED_BYTES<BN, STAGES>, stream, d,
         image_map<T>(image_of(d, item)), filter_map<T>(filters), depth);
  if (slices > 1) launch_join<T>(d, slices, stream);
}

template <class T>
void launch_type(const ConvArguments& d, const ConvChoice& choice, cudaStream_t stream) {
  switch (choice.tile - TILES) {
    case 0:
      return launch_wgmma<T, 256, 4>(d, choice.slices, stream);
    case 1:
      return launch_wgmma<T, 128, 3>(d, choice.slices, stream);
    default:
      return launch_wgmma<T, 64, 4>(d, choice.slices, stream);
  }
}

bool small(int v) { return v >= -128 && v <= 127; }

}  // namespace

bool hopper_built() {
  const char* given = getenv("FASTCONV_CUDA_HOPPER");
  if (given && !strcmp(given, "0")) return false;
#if defined(__CUDACC__)
  // compiled for sm_90a, and not by the driver from the PTX of an older one
  static const bool built = [] {
    cudaFuncAttributes a;
    if (cudaFuncGetAttributes(&a, (const void*)conv_wgmma<half_t, 128, 3>) == cudaSuccess)
      return a.ptxVersion == 90 && a.binaryVersion == 90;
    cudaGetLastError();
    return false;
  }();
  return built;
#else
  return true;
#endif
}

bool hopper_can(const ConvArguments& d) {
  if (d.groups != 1 || d.depth == 0 || !d.dense_y) return false;
  const int taps = d.depth / d.C, R = taps / d.S;
  const ImageMap m = image_of(d, 1);
  return d.stride_h <= 8 && d.stride_w <= 8 && small(m.lower[0]) && small(m.lower[1]) && small(m.upper[0]) &&
         small(m.upper[1]) && (R - 1) * d.dilation_h <= 255 && (d.S - 1) * d.dilation_w <= 255;
}

static std::atomic<int64_t> launches{0};  // models run on threads of their own
int64_t hopper_launches() { return launches; }

void launch_conv_hopper(const ConvArguments& d, const ConvChoice& choice, Precision precision, cudaStream_t stream) {
  launches++;
  switch (precision) {
    case Precision::fp32:
      throw std::logic_error("warpgroups have no products of float32");
    case Precision::tf32:
      return launch_type<float>(d, choice, stream);
    case Precision::fp16:
      return launch_type<half_t>(d, choice, stream);
    case Precision::bf16:
      return launch_type<bfloat_t>(d, choice, stream);
  }
}

}  // namespace cuda
}  // namespace fastconv
