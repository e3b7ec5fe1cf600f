// The vocabulary that Python, the plan and the kernels share: one plain-data descriptor per operation.
//
// All sizes and strides are in elements (float32). Images are N H W C with contiguous channels; `ld` is the distance
// between two pixels (at least the channel count: larger inside a concatenation). Descriptors hold geometry only, so a
// plan can be written to a file; pointers come in Buffers when a kernel runs.
//
// Every kernel has the signature void name(const Descriptor&, const Buffers&, int64_t begin, int64_t end) and computes
// the chunks [begin, end) of descriptor.chunks. What a chunk is depends on the shape alone, never on the threads.
#pragma once
#include <stdint.h>

namespace fastconv {

enum class Isa : int32_t { scalar, avx2, avx512, neon };

enum class Op : int32_t {
#define KERNEL(name, Descriptor) name,
#include "cpu/kernels.def"
#undef KERNEL
};

// Element-wise functions; the comment gives alpha, beta.
enum class Func : int32_t {
  identity,
  clip,          // min(max(x, alpha), beta); relu is clip(0, inf)
  leaky_relu,    // x < 0 ? alpha x : x
  elu,           // x < 0 ? alpha (exp(x) - 1) : x
  selu,          // beta (x < 0 ? alpha (exp(x) - 1) : x)
  sigmoid,       // 1 / (1 + exp(-x))
  hard_sigmoid,  // max(0, min(1, alpha x + beta))
  hard_swish,    // x max(0, min(1, x / 6 + 1/2))
  swish,         // x sigmoid(x)
  tanh,
  gelu,       // x (1 + erf(x / sqrt 2)) / 2
  gelu_tanh,  // the approximation by tanh
  softplus,   // log(1 + exp(x))
  mish,       // x tanh(softplus(x))
  exp,
  log,
  sqrt,
  reciprocal,
  erf,
  neg,
  abs,
  floor,
  ceil,
  trunc,       // towards zero
  round,       // to the nearest integer, halves to the even one
  sign,        // -1, 0 or 1
  round_half,  // to the nearest number that float16 has; beyond its range infinite
};

// Comparisons give 1 or 0; where an operand is NaN, 0. prelu: x < 0 ? x y : x
enum class BinaryFunc : int32_t { add, sub, mul, div, max, min, pow, prelu, less, less_equal, equal };

// arg_max and arg_min give the index of the first extreme, last_arg_max and last_arg_min of the last one.
enum class ReduceFunc : int32_t { mean, sum, max, min, arg_max, arg_min, last_arg_max, last_arg_min };

struct Activation {
  Func func;
  float alpha, beta;
};

// in[] by operation: see each descriptor. out may alias an input where the memory plan says so; more[] are further
// outputs of a few operations. scratch is this thread's own, 64-byte aligned.
struct Buffers {
  const float* in[4];
  float* out;
  float* more[2];
  float* scratch;
  // Weights that this thread reads next, or null: to be fetched into L2 while it computes its chunks up to next_end;
  // from next_begin on where this operation's own weights need not be fetched, else with the last of them.
  const char* next;
  int64_t next_bytes, next_begin, next_end;
};

constexpr int MAX_RANK = 8;

enum class ConvAlgorithm : int32_t {
  gemm,      // 1x1, stride 1, no padding: rows of x are rows of the product
  implicit,  // one pointer per output pixel and tap; padding points at a row of zeros
  row_run,   // x carries its padding and few channels: each filter row is one run of S * C elements
  images,    // of implicit and row_run, set by prepare(): many images of few output channels, whose lanes are images
  grouped,   // of grouped_conv2d (grouped_checks.h), a kernel that FASTCONV_KERNELS can leave out
};

// y[n,p,q,k] = act(bias[k] + sum x[n, p*sh + r*dh - pt, q*sw + s*dw - pl, c] w[k,c,r,s] + residual[n,p,q,k])
// in: x, packed weights (cpu/pack.cpp), bias (K, or null), residual (or null)
struct Conv2d {
  int64_t chunks;
  int64_t N, H, W, C, K, P, Q, R, S, groups;  // C, K: all groups together
  int64_t stride_h, stride_w, dilation_h, dilation_w, pad_t, pad_l;
  int64_t x_image, x_row, x_ld;  // strides of x: image, row, pixel
  int64_t y_ld, res_ld;
  ConvAlgorithm algorithm;
  Activation act;
  int64_t rows_per_chunk;  // at most, see range_begin(); of images and grouped: rows of an image
  int64_t row_chunks, panels_per_chunk, panel_chunks;  // of grouped panel_chunks are ranges of groups
  int64_t row_unit;        // 2 where two rows can share the last vector of outputs (cpu/half_tile.h), else 1
  int64_t depth_parts;     // as so many taps the depth of a gemm counts, else 1
  int64_t taps_per_slice;  // the depth is cut where a panel of all taps would not stay in L2
};

static inline bool cuts_depth(const Conv2d& d) { return d.taps_per_slice < d.R * d.S * d.depth_parts; }

// The first row of range i of row_chunks; i = row_chunks: behind the last. One may have a unit more than another, and
// the last one the row that is left of an odd number in pairs.
static inline int64_t range_begin(const Conv2d& d, int64_t i) {
  const int64_t rows = d.N * d.P * d.Q;
  return i >= d.row_chunks ? rows : rows / d.row_unit * i / d.row_chunks * d.row_unit;
}

// Rows whose sums of a panel are held at once where the depth is cut: whole ranges that make up to ROWS_OF_SUMS (64
// kB), or one; 0 where it is not.
constexpr int64_t ROWS_OF_SUMS = 256;
static inline int64_t rows_of_sums(const Conv2d& d) {
  if (!cuts_depth(d)) return 0;
  return d.rows_per_chunk < ROWS_OF_SUMS ? ROWS_OF_SUMS / d.rows_per_chunk * d.rows_per_chunk : d.rows_per_chunk;
}

// Floats of the row that pixels of the padding point to.
static inline int64_t row_of_zeros(const Conv2d& d) {
  return d.algorithm == ConvAlgorithm::gemm ? 0 : (d.C / d.groups + 15) / 16 * 16;
}

// Pointers to rows that a kernel holds at once: those of each tap of a block, or up to RUNS_AT_ONCE of one tap.
constexpr int64_t RUNS_AT_ONCE = 1024;
static inline int64_t row_pointers(const Conv2d& d) {
  const int64_t block = d.R * d.S * d.depth_parts * 16;
  const bool runs = d.algorithm == ConvAlgorithm::row_run || (d.algorithm == ConvAlgorithm::implicit && d.R * d.S == 1);
  return runs && block < RUNS_AT_ONCE ? RUNS_AT_ONCE : block;
}

// r x r, stride 1, by F(m x m, r x r): tiles of m x m outputs, (m + r - 1)^2 products of [tiles x C] by [C x K]
// (cpu/winograd.cpp). winograd_conv2d does it all, a block of tiles at a time: in x, weights, bias, residual. Where
// there are few tiles and many weights (winograd_workspace), winograd_input (in: x; out: the planes of all tiles) and
// winograd_product (in: planes, weights, bias, residual) split the work.
struct Winograd {
  int64_t chunks;
  int64_t N, H, W, C, K, P, Q;
  int64_t m, r;
  int64_t axes;  // WinogradAxes (cpu/winograd.h): 0: r x r filters, 1: r x 1, 2: 1 x r
  int64_t pool;  // 1: y holds the maxima of 2x2 windows, [N, P / 2, Q / 2, K]; only with identity or clip, no residual
  int64_t pad_t, pad_l;
  int64_t x_image, x_row, x_ld;
  int64_t y_ld, res_ld;
  Activation act;
  int64_t tiles_h, tiles_w;  // of one image
  int64_t block;             // tiles of a block
};

// The same as Conv2d with groups == C and K = C * multiplier. in: x, weights [R*S][K rounded up to whole vectors],
// bias, residual. means: more holds sums of y over bands of rows of an image, divided by P Q, [N][bands][K]; added up
// they are the means over the image. Bands, and chunks then, are those of one image, whatever N.
struct DepthwiseConv2d {
  int64_t chunks;
  int64_t N, H, W, C, K, P, Q, R, S, multiplier;
  int64_t stride_h, stride_w, dilation_h, dilation_w, pad_t, pad_l;
  int64_t x_image, x_row, x_ld;
  int64_t y_ld, res_ld;
  Activation act;
  int64_t means;
  // A chunk is one of line_chunks parts of the lines of 16 channels in one of `bands` of rows; see depthwise_images().
  int64_t bands, line_chunks;
};

// Whose rows are cut into bands: each image's with means, else those of all images as one.
static inline int64_t depthwise_images(const DepthwiseConv2d& d) { return d.means ? d.N : 1; }

// y[m,k] = act(bias[k] + sum x[m,c] w[c,k] + residual[m,k])      in: x, packed weights, bias, residual
// Few rows with many weights leave out the weights of inputs that are zero: what an infinite weight or a NaN would make
// of them is lost, and the sign of a sum that is zero; nothing else.
struct Linear {
  int64_t chunks;
  int64_t M, C, K;
  int64_t x_ld, y_ld, res_ld;
  Activation act;
};

constexpr int64_t LINEAR_ROWS = 3;       // at most, on the CPU: more rows are the pixels of a 1x1 convolution
constexpr int64_t FAR_AHEAD = 16;        // inputs
constexpr int64_t MAX_FAR_PANEL = 1024;  // columns

// A dense layer that reads its weights from memory, once for all rows: no cache keeps them from run to run.
static inline bool reads_far(int64_t M, int64_t C, int64_t K) { return M <= LINEAR_ROWS && C * K > (int64_t(2) << 20); }
static inline bool reads_far(const Linear& d) { return reads_far(d.M, d.C, d.K); }

// Columns of a panel of its weights: rows of 4 KB, or what gives two threads, or four where K is large, nearly the
// same.
static inline int64_t far_panel(int64_t K) {
  const int64_t panels = K <= 2 * MAX_FAR_PANEL ? 2 : (K + 4 * MAX_FAR_PANEL - 1) / (4 * MAX_FAR_PANEL) * 4;
  return (K + 16 * panels - 1) / (16 * panels) * 16;
}

// y[b,m,n] = sum a[b,m,k] w[b,k,n], both operands computed at run time      in: a, b
// The strides of a and b over the batch may be zero (broadcast).
struct MatMul {
  int64_t chunks;
  int64_t batch, M, N, K;
  int64_t a_batch, a_ld, b_batch, b_ld, y_batch, y_ld;
};

// Windows may start in the padding and reach beyond it (ceil_mode). in: x
// Max: padding never wins; a window without any pixel gives -inf. Average: count_include_pad counts the padded cells,
// up to H + pad_b and W + pad_r; otherwise only pixels of the image. max_pool2d_index gives the place of each maximum
// among the elements of x in the order N C H W, or N C W H where columns_first.
struct Pool2d {
  int64_t chunks;
  int64_t N, H, W, C, P, Q, R, S;
  int64_t stride_h, stride_w, dilation_h, dilation_w, pad_t, pad_l, pad_b, pad_r;
  int64_t x_image, x_row, x_ld, y_ld;
  int32_t count_include_pad, columns_first;
};

// y = f(x) on `rows` rows of `n` contiguous elements. in: x
struct Unary {
  int64_t chunks;
  int64_t rows, n, x_ld, y_ld;
  Activation act;
};

// y = act(f(a, b)) over dims[rank]; strides are zero along broadcast axes. Dimensions are already collapsed where
// possible. y is dense but for y_stride. in: a, b
struct Binary {
  int64_t chunks;
  int64_t rank, dims[MAX_RANK], a_stride[MAX_RANK], b_stride[MAX_RANK], y_stride[MAX_RANK];
  BinaryFunc func;
  Activation act;
};

// y[r, c] = act(x[r, c] * scale[c] + shift[c]).  in: x, scale, shift
struct Affine {
  int64_t chunks;
  int64_t rows, n, x_ld, y_ld;
  Activation act;
};

// y[o, i] = f over j of x[o, j, i].  in: x.  Strides of x for o and j; i is contiguous in x and y.
struct Reduce {
  int64_t chunks;
  int64_t outer, n, inner;
  int64_t x_outer, x_n, y_outer;
  ReduceFunc func;
};

// Softmax over j of x[o, j, i], with the maximum subtracted; log: its logarithm. in: x
struct Softmax {
  int64_t chunks;
  int64_t outer, n, inner;
  int64_t x_outer, x_n, y_outer, y_n;
  int32_t log;
};

// y = x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels)^beta. in: x
struct Lrn {
  int64_t chunks;
  int64_t rows, C, x_ld, y_ld, size;
  float alpha, beta, bias;
};

// y[i...] = x[i...] over dims[rank] with any strides: transpose, slice, concat, expand. in: x
struct Copy {
  int64_t chunks;
  int64_t rank, dims[MAX_RANK], x_stride[MAX_RANK], y_stride[MAX_RANK];
};

enum class PadMode : int32_t { constant, edge, reflect };

// y has dims[rank]; the box of x (x_dims) lies at `before` in it, the rest is padding. Negative `before` crops.
// in: x
struct Pad {
  int64_t chunks;
  int64_t rank, dims[MAX_RANK], x_dims[MAX_RANK], before[MAX_RANK], x_stride[MAX_RANK], y_stride[MAX_RANK];
  PadMode mode;
  float value;
};

// y[o,p,r,c] = sum over t of weight[p,t] x[o, index[p,t], r, c]: picks, reverses, repeats and resizes along one axis.
// in: x, index (P * taps whole numbers, clamped to [0, n)), weight (P * taps, or null for taps = 1: x as it is)
struct Resample {
  int64_t chunks;
  int64_t outer, n, P, taps, rows, C;
  int64_t x_outer, x_n, x_row, y_outer, y_p, y_row;  // strides
};

// What lies outside of an image abcd, in Keras' words: kkkk abcd kkkk, aaaa abcd dddd, dcba abcd dcba, abcd abcd abcd.
enum class FillMode : int32_t { constant, nearest, reflect, wrap };

// y[n,p,q,c] = x[n] at column a q + b p + t, row d q + e p + u, with matrix[n] = (a, b, t, d, e, u); between pixels
// bilinear, else the nearest one.      in: x, matrix [N, 6]
struct AffineSample {
  int64_t chunks;
  int64_t N, H, W, C, P, Q;
  int64_t x_ld, y_ld;
  FillMode fill;
  int32_t bilinear;
  float value;  // of the constant
};

// y = condition != 0 ? a : b over dims[rank]; strides are zero along broadcast axes. in: condition, a, b
struct Where {
  int64_t chunks;
  int64_t rank, dims[MAX_RANK], c_stride[MAX_RANK], a_stride[MAX_RANK], b_stride[MAX_RANK], y_stride[MAX_RANK];
};

// y = (x - mean) / sqrt(variance + epsilon) * scale + shift, statistics over rows and width of x[o, r, g, w].
// Layer normalisation: rows = groups = 1; group: width = C / groups; instance: width = 1. scale, shift: [groups *
// width]. in: x, scale or null, shift or null
struct Normalize {
  int64_t chunks;
  int64_t outer, rows, groups, width;
  int64_t x_outer, x_row, y_outer, y_row;
  float epsilon;
};

// topk: y[o,j,i] = the index along n of the j-th largest (or smallest) of x[o,:,i]; of equal ones the lower index
// first. NaN counts as larger than all numbers. in: x, dense [outer, n, inner]; y is dense [outer, k, inner].
struct TopK {
  int64_t chunks;
  int64_t outer, n, inner, k;
  int32_t largest;
};

// y[o,j,i] = x[o, index[o,j,i], i], indices clamped to [0, n); all dense. in: x, index
struct Take {
  int64_t chunks;
  int64_t outer, n, inner, k;
};

// Greedy suppression for each image and class: boxes in the order given, dropped where they overlap a chosen one by
// more than iou of their union. y: rows (image, class, box), at most `most` for each class, -1 behind the last one.
// Boxes are two corners (y, x, y, x) in any order, or center (x, y, width, height).
// in: boxes [images, boxes, 4], scores [images, classes, boxes], their order from topk; dense
struct Suppress {
  int64_t chunks;
  int64_t images, boxes, classes, most;
  float iou, score;
  int32_t center, has_score;
};

}  // namespace fastconv

#include "training_ops.h"
