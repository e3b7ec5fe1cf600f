# Made by `make stubs` from the compiled module.
"""fastconv's kernels, plans and ONNX scanner. Private: the package's Python modules are the interface."""

from __future__ import annotations

import collections.abc
import os
import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "DEFAULT_WINOGRAD",
    "LARGEST_WINOGRAD",
    "LINEAR_ROWS",
    "MAX_RANK",
    "PLAN_MAGIC",
    "PLAN_VERSION",
    "Activation",
    "Affine",
    "AffineSample",
    "BatchNorm",
    "Binary",
    "BinaryFunc",
    "Conv2d",
    "Conv2dBackwardInput",
    "Conv2dBackwardWeight",
    "ConvAlgorithm",
    "ConvShape",
    "Copy",
    "DepthwiseConv2d",
    "Dropout",
    "Executor",
    "FillMode",
    "Func",
    "Isa",
    "Linear",
    "Lrn",
    "LrnBackward",
    "MatMul",
    "ModelFile",
    "MovingAverage",
    "Normalize",
    "NormalizeBackward",
    "OnnxTensor",
    "Op",
    "Optimizer",
    "PackWeights",
    "PackedWeight",
    "Pad",
    "PadMode",
    "PanelLayout",
    "Plan",
    "PlanFile",
    "Pool2d",
    "Pool2dBackward",
    "Reduce",
    "ReduceFunc",
    "Resample",
    "SavedPlan",
    "Softmax",
    "SoftmaxBackward",
    "SoftmaxCrossEntropy",
    "SquaredNorm",
    "Suppress",
    "Take",
    "TopK",
    "Unary",
    "UnaryBackward",
    "WeightStore",
    "Where",
    "Winograd",
    "choose_conv2d",
    "conv2d_candidates",
    "conv2d_panels",
    "conv2d_seconds",
    "conv2d_terms",
    "depthwise_bands",
    "extent",
    "extent_more",
    "huge_pages",
    "isa_levels",
    "linear_panel",
    "linear_seconds",
    "linear_terms",
    "measure_peak",
    "measure_round_trip",
    "moved_seconds",
    "pack_conv2d_rows",
    "pack_linear_inputs",
    "pack_linear_rows",
    "pack_winograd_rows",
    "panels",
    "plan_checksum",
    "prepare",
    "row_run_group",
    "run_kernel",
    "usable_cpus",
    "vector_length",
    "weight_price",
    "winograd_axes",
    "winograd_workspace",
    "write_plan",
]

class OnnxTensor:
    """A TensorProto whose payload is only located."""

    @property
    def data_type(self) -> int:
        """TensorProto.DataType"""

    @property
    def dims(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str:
        """numpy's name of the array that `read` makes (bfloat16 widens to float32), or ''"""

    @property
    def external(self) -> bool: ...
    @property
    def external_data(self) -> dict[str, typing.Any]: ...
    @property
    def name(self) -> str: ...
    @property
    def payload_bytes(self) -> int: ...

class ModelFile:
    """An open model or data file, or one in memory."""

    @staticmethod
    def from_bytes(data: bytes) -> ModelFile: ...
    def __init__(self, fd: int) -> None:
        """Takes over a descriptor, which must be a regular file."""

    def read(self, tensor: OnnxTensor) -> numpy.typing.NDArray[typing.Any]:
        """A tensor's payload as a fresh array."""

    def read_part(self, tensor: OnnxTensor, first: int, out: numpy.typing.NDArray[numpy.float32]) -> None:
        """Elements of a float32 tensor from the first-th on into an array."""

    def read_raw(
        self, offset: int, data_type: int, dims: collections.abc.Sequence[int]
    ) -> numpy.typing.NDArray[typing.Any]:
        """Little-endian elements that lie at `offset`, as a fresh array."""

    def read_raw_part(self, offset: int, out: numpy.typing.NDArray[numpy.float32]) -> None:
        """Little-endian float32 elements that lie at `offset` into an array."""

    def scan(self) -> dict[str, typing.Any]:
        """The structure of the ModelProto, without its large payloads."""

    @property
    def size(self) -> int: ...

class Isa:
    __members__: typing.ClassVar[dict[str, Isa]]
    avx2: typing.ClassVar[Isa]
    avx512: typing.ClassVar[Isa]
    neon: typing.ClassVar[Isa]
    scalar: typing.ClassVar[Isa]

    def __index__(self) -> int: ...
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Op:
    __members__: typing.ClassVar[dict[str, Op]]
    adam: typing.ClassVar[Op]
    affine: typing.ClassVar[Op]
    affine_sample: typing.ClassVar[Op]
    avg_pool2d: typing.ClassVar[Op]
    avg_pool2d_backward: typing.ClassVar[Op]
    batch_norm_apply: typing.ClassVar[Op]
    batch_norm_backward_apply: typing.ClassVar[Op]
    batch_norm_backward_finish: typing.ClassVar[Op]
    batch_norm_backward_stats: typing.ClassVar[Op]
    batch_norm_finish: typing.ClassVar[Op]
    batch_norm_stats: typing.ClassVar[Op]
    binary: typing.ClassVar[Op]
    conv2d: typing.ClassVar[Op]
    conv2d_backward_input: typing.ClassVar[Op]
    conv2d_backward_weight: typing.ClassVar[Op]
    conv2d_backward_weight_sum: typing.ClassVar[Op]
    copy: typing.ClassVar[Op]
    depthwise_backward_input: typing.ClassVar[Op]
    depthwise_backward_weight: typing.ClassVar[Op]
    depthwise_conv2d: typing.ClassVar[Op]
    dropout: typing.ClassVar[Op]
    grouped_conv2d: typing.ClassVar[Op]
    linear: typing.ClassVar[Op]
    lrn: typing.ClassVar[Op]
    lrn_backward: typing.ClassVar[Op]
    matmul: typing.ClassVar[Op]
    max_pool2d: typing.ClassVar[Op]
    max_pool2d_backward: typing.ClassVar[Op]
    max_pool2d_index: typing.ClassVar[Op]
    moving_average: typing.ClassVar[Op]
    normalize: typing.ClassVar[Op]
    normalize_backward: typing.ClassVar[Op]
    pack_weights: typing.ClassVar[Op]
    pack_winograd_weights: typing.ClassVar[Op]
    pad: typing.ClassVar[Op]
    reduce: typing.ClassVar[Op]
    resample: typing.ClassVar[Op]
    rmsprop: typing.ClassVar[Op]
    sgd: typing.ClassVar[Op]
    softmax: typing.ClassVar[Op]
    softmax_backward: typing.ClassVar[Op]
    softmax_cross_entropy: typing.ClassVar[Op]
    softmax_cross_entropy_backward: typing.ClassVar[Op]
    squared_norm: typing.ClassVar[Op]
    suppress: typing.ClassVar[Op]
    take: typing.ClassVar[Op]
    topk: typing.ClassVar[Op]
    unary: typing.ClassVar[Op]
    unary_backward: typing.ClassVar[Op]
    where: typing.ClassVar[Op]
    winograd_conv2d: typing.ClassVar[Op]
    winograd_input: typing.ClassVar[Op]
    winograd_product: typing.ClassVar[Op]

    def __index__(self) -> int: ...
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Func:
    __members__: typing.ClassVar[dict[str, Func]]
    abs: typing.ClassVar[Func]
    ceil: typing.ClassVar[Func]
    clip: typing.ClassVar[Func]
    elu: typing.ClassVar[Func]
    erf: typing.ClassVar[Func]
    exp: typing.ClassVar[Func]
    floor: typing.ClassVar[Func]
    gelu: typing.ClassVar[Func]
    gelu_tanh: typing.ClassVar[Func]
    hard_sigmoid: typing.ClassVar[Func]
    hard_swish: typing.ClassVar[Func]
    identity: typing.ClassVar[Func]
    leaky_relu: typing.ClassVar[Func]
    log: typing.ClassVar[Func]
    mish: typing.ClassVar[Func]
    neg: typing.ClassVar[Func]
    reciprocal: typing.ClassVar[Func]
    round: typing.ClassVar[Func]
    round_half: typing.ClassVar[Func]
    selu: typing.ClassVar[Func]
    sigmoid: typing.ClassVar[Func]
    sign: typing.ClassVar[Func]
    softplus: typing.ClassVar[Func]
    sqrt: typing.ClassVar[Func]
    swish: typing.ClassVar[Func]
    tanh: typing.ClassVar[Func]
    trunc: typing.ClassVar[Func]

    def __index__(self) -> int: ...
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class BinaryFunc:
    __members__: typing.ClassVar[dict[str, BinaryFunc]]
    add: typing.ClassVar[BinaryFunc]
    div: typing.ClassVar[BinaryFunc]
    equal: typing.ClassVar[BinaryFunc]
    less: typing.ClassVar[BinaryFunc]
    less_equal: typing.ClassVar[BinaryFunc]
    max: typing.ClassVar[BinaryFunc]
    min: typing.ClassVar[BinaryFunc]
    mul: typing.ClassVar[BinaryFunc]
    pow: typing.ClassVar[BinaryFunc]
    prelu: typing.ClassVar[BinaryFunc]
    sub: typing.ClassVar[BinaryFunc]

    def __index__(self) -> int: ...
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class ReduceFunc:
    __members__: typing.ClassVar[dict[str, ReduceFunc]]
    arg_max: typing.ClassVar[ReduceFunc]
    arg_min: typing.ClassVar[ReduceFunc]
    last_arg_max: typing.ClassVar[ReduceFunc]
    last_arg_min: typing.ClassVar[ReduceFunc]
    max: typing.ClassVar[ReduceFunc]
    mean: typing.ClassVar[ReduceFunc]
    min: typing.ClassVar[ReduceFunc]
    sum: typing.ClassVar[ReduceFunc]

    def __index__(self) -> int: ...
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class PadMode:
    __members__: typing.ClassVar[dict[str, PadMode]]
    constant: typing.ClassVar[PadMode]
    edge: typing.ClassVar[PadMode]
    reflect: typing.ClassVar[PadMode]

    def __index__(self) -> int: ...
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class FillMode:
    __members__: typing.ClassVar[dict[str, FillMode]]
    constant: typing.ClassVar[FillMode]
    nearest: typing.ClassVar[FillMode]
    reflect: typing.ClassVar[FillMode]
    wrap: typing.ClassVar[FillMode]

    def __index__(self) -> int: ...
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class ConvAlgorithm:
    __members__: typing.ClassVar[dict[str, ConvAlgorithm]]
    gemm: typing.ClassVar[ConvAlgorithm]
    grouped: typing.ClassVar[ConvAlgorithm]
    images: typing.ClassVar[ConvAlgorithm]
    implicit: typing.ClassVar[ConvAlgorithm]
    row_run: typing.ClassVar[ConvAlgorithm]

    def __index__(self) -> int: ...
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Activation:
    """An element-wise function and its parameters."""

    alpha: float
    beta: float
    func: Func

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Conv2d:
    """in: x, packed weights, bias, residual"""

    C: int
    H: int
    K: int
    N: int
    P: int
    Q: int
    R: int
    S: int
    W: int
    act: Activation
    algorithm: ConvAlgorithm
    chunks: int
    depth_parts: int
    dilation_h: int
    dilation_w: int
    groups: int
    pad_l: int
    pad_t: int
    panel_chunks: int
    panels_per_chunk: int
    res_ld: int
    row_chunks: int
    row_unit: int
    rows_per_chunk: int
    stride_h: int
    stride_w: int
    taps_per_slice: int
    x_image: int
    x_ld: int
    x_row: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Winograd:
    """in: x (or planes), packed weights, bias, residual"""

    C: int
    H: int
    K: int
    N: int
    P: int
    Q: int
    W: int
    act: Activation
    axes: int
    block: int
    chunks: int
    m: int
    pad_l: int
    pad_t: int
    pool: int
    r: int
    res_ld: int
    tiles_h: int
    tiles_w: int
    x_image: int
    x_ld: int
    x_row: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class DepthwiseConv2d:
    """in: x, packed weights, bias, residual; more: sums of bands"""

    C: int
    H: int
    K: int
    N: int
    P: int
    Q: int
    R: int
    S: int
    W: int
    act: Activation
    bands: int
    chunks: int
    dilation_h: int
    dilation_w: int
    line_chunks: int
    means: int
    multiplier: int
    pad_l: int
    pad_t: int
    res_ld: int
    stride_h: int
    stride_w: int
    x_image: int
    x_ld: int
    x_row: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Linear:
    """in: x, packed weights, bias, residual"""

    C: int
    K: int
    M: int
    act: Activation
    chunks: int
    res_ld: int
    x_ld: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class MatMul:
    """in: a, b"""

    K: int
    M: int
    N: int
    a_batch: int
    a_ld: int
    b_batch: int
    b_ld: int
    batch: int
    chunks: int
    y_batch: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Pool2d:
    """in: x"""

    C: int
    H: int
    N: int
    P: int
    Q: int
    R: int
    S: int
    W: int
    chunks: int
    columns_first: int
    count_include_pad: int
    dilation_h: int
    dilation_w: int
    pad_b: int
    pad_l: int
    pad_r: int
    pad_t: int
    stride_h: int
    stride_w: int
    x_image: int
    x_ld: int
    x_row: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Unary:
    """in: x"""

    act: Activation
    chunks: int
    n: int
    rows: int
    x_ld: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Binary:
    """in: a, b"""

    a_stride: collections.abc.Sequence[int]
    act: Activation
    b_stride: collections.abc.Sequence[int]
    chunks: int
    dims: collections.abc.Sequence[int]
    func: BinaryFunc
    rank: int
    y_stride: collections.abc.Sequence[int]

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Affine:
    """in: x, scale, shift"""

    act: Activation
    chunks: int
    n: int
    rows: int
    x_ld: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Reduce:
    """in: x"""

    chunks: int
    func: ReduceFunc
    inner: int
    n: int
    outer: int
    x_n: int
    x_outer: int
    y_outer: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Softmax:
    """in: x"""

    chunks: int
    inner: int
    log: int
    n: int
    outer: int
    x_n: int
    x_outer: int
    y_n: int
    y_outer: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Lrn:
    """in: x"""

    C: int
    alpha: float
    beta: float
    bias: float
    chunks: int
    rows: int
    size: int
    x_ld: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Copy:
    """in: x"""

    chunks: int
    dims: collections.abc.Sequence[int]
    rank: int
    x_stride: collections.abc.Sequence[int]
    y_stride: collections.abc.Sequence[int]

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Pad:
    """in: x"""

    before: collections.abc.Sequence[int]
    chunks: int
    dims: collections.abc.Sequence[int]
    mode: PadMode
    rank: int
    value: float
    x_dims: collections.abc.Sequence[int]
    x_stride: collections.abc.Sequence[int]
    y_stride: collections.abc.Sequence[int]

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Resample:
    """in: x, index, weight"""

    C: int
    P: int
    chunks: int
    n: int
    outer: int
    rows: int
    taps: int
    x_n: int
    x_outer: int
    x_row: int
    y_outer: int
    y_p: int
    y_row: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class AffineSample:
    """in: x, matrix"""

    C: int
    H: int
    N: int
    P: int
    Q: int
    W: int
    bilinear: int
    chunks: int
    fill: FillMode
    value: float
    x_ld: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Where:
    """in: condition, a, b"""

    a_stride: collections.abc.Sequence[int]
    b_stride: collections.abc.Sequence[int]
    c_stride: collections.abc.Sequence[int]
    chunks: int
    dims: collections.abc.Sequence[int]
    rank: int
    y_stride: collections.abc.Sequence[int]

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Normalize:
    """in: x, scale, shift"""

    chunks: int
    epsilon: float
    groups: int
    outer: int
    rows: int
    width: int
    x_outer: int
    x_row: int
    y_outer: int
    y_row: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class TopK:
    """in: x"""

    chunks: int
    inner: int
    k: int
    largest: int
    n: int
    outer: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Take:
    """in: x, index"""

    chunks: int
    inner: int
    k: int
    n: int
    outer: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Suppress:
    """in: boxes, scores, order"""

    boxes: int
    center: int
    chunks: int
    classes: int
    has_score: int
    images: int
    iou: float
    most: int
    score: float

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class PanelLayout:
    __members__: typing.ClassVar[dict[str, PanelLayout]]
    conv2d: typing.ClassVar[PanelLayout]
    depthwise: typing.ClassVar[PanelLayout]
    linear: typing.ClassVar[PanelLayout]

    def __index__(self) -> int: ...
    def __init__(self, value: int) -> None: ...
    def __int__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class UnaryBackward:
    """in: g, v"""

    act: Activation
    chunks: int
    from_output: int
    g_ld: int
    n: int
    rows: int
    v_ld: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class SoftmaxBackward:
    """in: g, y"""

    chunks: int
    g_n: int
    g_outer: int
    inner: int
    log: int
    n: int
    outer: int
    x_n: int
    x_outer: int
    y_n: int
    y_outer: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class SoftmaxCrossEntropy:
    """in: x, target; backward: g, x, target"""

    K: int
    M: int
    chunks: int
    dx_ld: int
    one_hot: int
    smoothing: float
    t_ld: int
    x_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Conv2dBackwardWeight:
    """in: x, g; sum: the parts"""

    C: int
    H: int
    K: int
    N: int
    P: int
    Q: int
    R: int
    S: int
    W: int
    chunks: int
    dilation_h: int
    dilation_w: int
    direct: int
    dw_c: int
    dw_k: int
    dw_tap: int
    g_ld: int
    groups: int
    images: int
    pad_l: int
    pad_t: int
    parts: int
    stride_h: int
    stride_w: int
    x_image: int
    x_ld: int
    x_row: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Conv2dBackwardInput:
    """in: g, packed weights, residual"""

    C: int
    H: int
    K: int
    N: int
    P: int
    Q: int
    R: int
    S: int
    W: int
    chunks: int
    dilation_h: int
    dilation_w: int
    g_ld: int
    groups: int
    pad_l: int
    pad_t: int
    panel_chunks: int
    panels_per_chunk: int
    res_ld: int
    row_chunks: int
    stride_h: int
    stride_w: int
    x_image: int
    x_ld: int
    x_row: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class PackWeights:
    """in: w"""

    C: int
    K: int
    chunks: int
    flip: int
    groups: int
    layout: PanelLayout
    m: int
    panel: int
    taps: int
    w_c: int
    w_group: int
    w_k: int
    w_tap: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Pool2dBackward:
    """in: g, x, y (average: g)"""

    C: int
    H: int
    N: int
    P: int
    Q: int
    R: int
    S: int
    W: int
    chunks: int
    count_include_pad: int
    dilation_h: int
    dilation_w: int
    dx_ld: int
    g_ld: int
    pad_b: int
    pad_l: int
    pad_r: int
    pad_t: int
    stride_h: int
    stride_w: int
    x_ld: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class BatchNorm:
    """see csrc/training_ops.h"""

    C: int
    chunks: int
    epsilon: float
    g_ld: int
    parts: int
    rows: int
    x_ld: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class NormalizeBackward:
    """in: g, x, scale"""

    chunks: int
    dx_outer: int
    dx_row: int
    epsilon: float
    g_outer: int
    g_row: int
    groups: int
    outer: int
    rows: int
    width: int
    x_outer: int
    x_row: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class LrnBackward:
    """in: g, x, y"""

    C: int
    alpha: float
    beta: float
    bias: float
    chunks: int
    dx_ld: int
    g_ld: int
    rows: int
    size: int
    x_ld: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Dropout:
    """in: x, seed"""

    chunks: int
    n: int
    rate: float
    rows: int
    x_ld: int
    y_ld: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class Optimizer:
    """in: g, hyper, factor; out: w; more: slots"""

    centered: int
    chunks: int
    decays: int
    momentum: int
    n: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class MovingAverage:
    """in: x; out: state"""

    chunks: int
    momentum: float
    n: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class SquaredNorm:
    """in: x"""

    chunks: int
    n: int

    def __bytes__(self) -> bytes: ...
    def __init__(self, **kwargs: typing.Any) -> None: ...

class PackedWeight:
    """Constant floats in the order in which a kernel reads them."""

    def numpy(self) -> numpy.typing.NDArray[numpy.float32]:
        """The floats themselves, not a copy: a writable vector that keeps them alive."""

    @property
    def size(self) -> int: ...

class WeightStore:
    """Memory of packed weights."""

    def __init__(self, patient: bool = False) -> None:
        """patient: wait for huge pages, however long the system takes for them."""

    def pack_conv2d(
        self,
        w: numpy.typing.NDArray[numpy.float32],
        scale: numpy.typing.NDArray[numpy.float32] | None,
        groups: int,
        isa: Isa,
    ) -> PackedWeight: ...
    def pack_depthwise_conv2d(
        self, w: numpy.typing.NDArray[numpy.float32], scale: numpy.typing.NDArray[numpy.float32] | None, isa: Isa
    ) -> PackedWeight: ...
    def pack_linear(
        self,
        w: numpy.typing.NDArray[numpy.float32],
        scale: numpy.typing.NDArray[numpy.float32] | None,
        trans_b: bool,
        panel: int,
        isa: Isa,
        taps: int = 1,
    ) -> PackedWeight:
        """panel: see linear_panel."""

    def pack_winograd(
        self,
        w: numpy.typing.NDArray[numpy.float32],
        scale: numpy.typing.NDArray[numpy.float32] | None,
        m: int,
        isa: Isa,
    ) -> PackedWeight: ...
    def put(self, array: numpy.typing.NDArray[numpy.float32]) -> PackedWeight: ...
    def reserve_conv2d(self, K: int, C: int, R: int, S: int, isa: Isa) -> PackedWeight:
        """Room for a [K, C, R, S] weight of one group, to be filled by pack_conv2d_rows."""

    def reserve_linear(self, K: int, C: int, isa: Isa) -> PackedWeight:
        """Room for a [K, C] matrix, to be filled by pack_linear_rows or pack_linear_inputs."""

    def reserve_winograd(self, K: int, C: int, m: int, r: int, isa: Isa, axes: int = 0) -> PackedWeight:
        """Room for a [K, C, r, r] weight of F(m x m, r x r), to be filled by pack_winograd_rows."""

    @property
    def bytes(self) -> int: ...

class Plan:
    """A flat list of operations on fixed buffers."""

    def __init__(self, isa: Isa, weights: WeightStore) -> None: ...
    def __len__(self) -> int: ...
    def adam(
        self, desc: Optimizer, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def affine(
        self, desc: Affine, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def affine_sample(
        self,
        desc: AffineSample,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def arena(self, offset: int, size: int) -> int:
        """A tensor in the arena; returns its number."""

    def avg_pool2d(
        self, desc: Pool2d, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def avg_pool2d_backward(
        self,
        desc: Pool2dBackward,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def batch_norm_apply(
        self, desc: BatchNorm, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def batch_norm_backward_apply(
        self, desc: BatchNorm, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def batch_norm_backward_finish(
        self, desc: BatchNorm, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def batch_norm_backward_stats(
        self, desc: BatchNorm, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def batch_norm_finish(
        self, desc: BatchNorm, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def batch_norm_stats(
        self, desc: BatchNorm, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def binary(
        self, desc: Binary, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def conv2d(
        self, desc: Conv2d, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def conv2d_backward_input(
        self,
        desc: Conv2dBackwardInput,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def conv2d_backward_weight(
        self,
        desc: Conv2dBackwardWeight,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def conv2d_backward_weight_sum(
        self,
        desc: Conv2dBackwardWeight,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def copy(
        self, desc: Copy, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def depthwise_backward_input(
        self,
        desc: Conv2dBackwardInput,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def depthwise_backward_weight(
        self,
        desc: Conv2dBackwardWeight,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def depthwise_conv2d(
        self,
        desc: DepthwiseConv2d,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def dropout(
        self, desc: Dropout, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def external(self, index: int, first: int, size: int) -> int:
        """A tensor in the index-th array of a run."""

    def grouped_conv2d(
        self, desc: Conv2d, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def linear(
        self, desc: Linear, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def lrn(
        self, desc: Lrn, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def lrn_backward(
        self,
        desc: LrnBackward,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def matmul(
        self, desc: MatMul, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def max_pool2d(
        self, desc: Pool2d, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def max_pool2d_backward(
        self,
        desc: Pool2dBackward,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def max_pool2d_index(
        self, desc: Pool2d, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def moving_average(
        self,
        desc: MovingAverage,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def normalize(
        self, desc: Normalize, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def normalize_backward(
        self,
        desc: NormalizeBackward,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def pack_weights(
        self,
        desc: PackWeights,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def pack_winograd_weights(
        self,
        desc: PackWeights,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def pad(
        self, desc: Pad, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def reduce(
        self, desc: Reduce, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def resample(
        self, desc: Resample, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def rmsprop(
        self, desc: Optimizer, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def sgd(
        self, desc: Optimizer, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def softmax(
        self, desc: Softmax, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def softmax_backward(
        self,
        desc: SoftmaxBackward,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def softmax_cross_entropy(
        self,
        desc: SoftmaxCrossEntropy,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def softmax_cross_entropy_backward(
        self,
        desc: SoftmaxCrossEntropy,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def squared_norm(
        self,
        desc: SquaredNorm,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def state(self, state: PackedWeight, first: int, size: int) -> int:
        """A tensor that operations may write, in memory that outlives runs."""

    def suppress(
        self, desc: Suppress, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def take(
        self, desc: Take, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def topk(
        self, desc: TopK, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def unary(
        self, desc: Unary, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def unary_backward(
        self,
        desc: UnaryBackward,
        inputs: collections.abc.Sequence[int],
        out: int,
        more: collections.abc.Sequence[int] = [],
    ) -> None: ...
    def weight(self, weight: PackedWeight, first: int = 0) -> int:
        """A weight, from its first-th element on."""

    def where(
        self, desc: Where, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def winograd_conv2d(
        self, desc: Winograd, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def winograd_input(
        self, desc: Winograd, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    def winograd_product(
        self, desc: Winograd, inputs: collections.abc.Sequence[int], out: int, more: collections.abc.Sequence[int] = []
    ) -> None: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...

class Executor:
    """Arenas and threads for runs of plans."""

    def __init__(self, threads: int) -> None: ...
    def profile(
        self,
        plan: Plan,
        arrays: collections.abc.Sequence[numpy.typing.NDArray[typing.Any]],
        runs: int,
        repeats: int = 1,
    ) -> numpy.typing.NDArray[numpy.int64]:
        """Nanoseconds as int64[runs, operations], of all repeats together."""

    def run(
        self, plan: Plan, arrays: collections.abc.Sequence[numpy.typing.NDArray[typing.Any]], repeats: int = 1
    ) -> None:
        """Run with these float32 arrays as externals; the plan's outputs among them are overwritten. repeats: so many
        times, each on its share of each array; the shares are equal and lie one after the other."""

    @property
    def threads(self) -> int: ...

class ConvShape:
    """Sizes of a convolution: all that the choice of its algorithm looks at."""

    def __init__(
        self,
        *,
        N: int,
        H: int,
        W: int,
        C: int,
        K: int,
        P: int,
        Q: int,
        R: int,
        S: int,
        groups: int,
        strides: collections.abc.Sequence[int],
        dilations: collections.abc.Sequence[int],
        pads: collections.abc.Sequence[int],
    ) -> None: ...

class SavedPlan:
    """One variant of a plan file, checked."""

    @property
    def inputs(self) -> list[tuple[str, str, list[int], bool]]: ...
    @property
    def isa(self) -> Isa: ...
    @property
    def labels(self) -> list[str]: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def model(self) -> str: ...
    @property
    def operations(self) -> list[tuple[str, str, str, str, int, int, list[int]]]: ...
    @property
    def outputs(self) -> list[tuple[str, str, list[int], bool]]: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def weight_bytes(self) -> int: ...

class PlanFile:
    """An .fcplan file, mapped, or its bytes. Raises ValueError where it is broken."""

    @typing.overload
    def __init__(self, content: bytes) -> None: ...
    @typing.overload
    def __init__(self, path: os.PathLike[str] | str | bytes) -> None: ...
    def read(self, isa: Isa | None = None, verify: bool = False, look: bool = False) -> SavedPlan:
        """The variant of a level (None: the best that runs here); verify: check the sum of its weights; look: it need
        not run here. Raises ValueError for a broken file, RuntimeError where no such variant runs here."""

    @property
    def levels(self) -> list[str]: ...

def choose_conv2d(shape: ConvShape, isa: Isa, winograd: int = 4) -> tuple[str, int]:
    """The candidate that the cost model expects to be fastest; a function of these arguments alone."""

def conv2d_candidates(shape: ConvShape, isa: Isa, winograd: int = 4) -> list[tuple[str, int]]:
    """What can compute a shape, as (algorithm, m): gemm, implicit, row_run, depthwise, winograd or grouped, and
    the m of F(m x m, r x r), at most `winograd` (0: none)."""

def conv2d_panels(K: int, isa: Isa) -> list[int]:
    """Columns of each panel of packed convolution weights, filled up with zeros."""

def conv2d_seconds(shape: ConvShape, algorithm: str, m: int, isa: Isa) -> float:
    """What the cost model expects of a candidate on one thread of the CPU that it was fitted on."""

def conv2d_terms(shape: ConvShape, algorithm: str, m: int, isa: Isa) -> dict[str, float]:
    """The work of a candidate, by kind."""

def depthwise_bands(P: int) -> int:
    """Into how many bands of rows a depthwise convolution cuts the sums over an image of P rows."""

@typing.overload
def extent(desc: Conv2d, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]:
    """Elements that each input and the output must have: ((int, ...), int)."""

@typing.overload
def extent(desc: Winograd, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: DepthwiseConv2d, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Linear, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: MatMul, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Pool2d, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Unary, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Binary, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Affine, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Reduce, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Softmax, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Lrn, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Copy, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Pad, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Resample, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: AffineSample, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Where, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Normalize, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: TopK, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Take, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Suppress, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: UnaryBackward, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: SoftmaxBackward, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: SoftmaxCrossEntropy, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Conv2dBackwardWeight, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Conv2dBackwardInput, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: PackWeights, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Pool2dBackward, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: BatchNorm, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: NormalizeBackward, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: LrnBackward, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Dropout, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: Optimizer, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: MovingAverage, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent(desc: SquaredNorm, isa: Isa, op: Op | None = None) -> tuple[tuple[int, int, int, int], int]: ...
@typing.overload
def extent_more(desc: Conv2d, isa: Isa, op: Op | None = None) -> tuple[int, int]:
    """Elements that the further outputs of a kernel must have: (int, int)."""

@typing.overload
def extent_more(desc: Winograd, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: DepthwiseConv2d, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Linear, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: MatMul, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Pool2d, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Unary, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Binary, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Affine, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Reduce, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Softmax, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Lrn, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Copy, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Pad, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Resample, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: AffineSample, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Where, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Normalize, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: TopK, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Take, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Suppress, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: UnaryBackward, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: SoftmaxBackward, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: SoftmaxCrossEntropy, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Conv2dBackwardWeight, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Conv2dBackwardInput, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: PackWeights, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Pool2dBackward, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: BatchNorm, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: NormalizeBackward, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: LrnBackward, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Dropout, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: Optimizer, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: MovingAverage, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
@typing.overload
def extent_more(desc: SquaredNorm, isa: Isa, op: Op | None = None) -> tuple[int, int]: ...
def huge_pages() -> str:
    """What the system says of transparent huge pages."""

def isa_levels() -> list[str]:
    """The instruction set levels that this CPU and this build have, slowest first."""

def linear_panel(M: int, C: int, K: int, isa: Isa) -> int:
    """Columns of a panel of the weights of a dense layer of M rows; 0: panels are those of a convolution."""

def linear_seconds(M: int, C: int, K: int, isa: Isa) -> float:
    """The same for a dense layer."""

def linear_terms(M: int, C: int, K: int, isa: Isa) -> dict[str, float]: ...
def measure_peak(isa: Isa, seconds: float = 0.05) -> float:
    """The FMA rate of one core in GFLOP/s: independent chains in registers, best of many short runs."""

def measure_round_trip() -> float:
    """Nanoseconds that a flag takes from one core to another and back; 0 where only one CPU may be used."""

def moved_seconds(bytes: float, isa: Isa) -> float:
    """The same for an operation that reads and writes so many bytes."""

def pack_conv2d_rows(
    packed: PackedWeight,
    K: int,
    first: int,
    w: numpy.typing.NDArray[numpy.float32],
    scale: numpy.typing.NDArray[numpy.float32] | None,
    isa: Isa,
) -> None:
    """Fill in whole panels of K outputs from the first-th output on."""

def pack_linear_inputs(
    packed: PackedWeight,
    C: int,
    panel: int,
    first: int,
    w: numpy.typing.NDArray[numpy.float32],
    scale: numpy.typing.NDArray[numpy.float32] | None,
    isa: Isa,
) -> None:
    """Fill in what reads the inputs from the first-th on: w is [inputs, K] of C."""

def pack_linear_rows(
    packed: PackedWeight,
    K: int,
    panel: int,
    first: int,
    w: numpy.typing.NDArray[numpy.float32],
    scale: numpy.typing.NDArray[numpy.float32] | None,
    isa: Isa,
    taps: int = 1,
) -> None:
    """Fill in rows of K from the first-th on; where panel is 0, pack_conv2d_rows does it."""

def pack_winograd_rows(
    packed: PackedWeight,
    K: int,
    first: int,
    w: numpy.typing.NDArray[numpy.float32],
    scale: numpy.typing.NDArray[numpy.float32] | None,
    m: int,
    isa: Isa,
) -> None:
    """Fill in whole panels of K outputs from the first-th output on."""

def panels(K: int, isa: Isa) -> list[int]:
    """The first outputs of the panels of a convolution's weight."""

def plan_checksum(data: bytes) -> int:
    """The sum that plan files hold of their parts."""

@typing.overload
def prepare(desc: Conv2d, isa: Isa, op: Op | None = None) -> None:
    """Check the descriptor and set its chunks."""

@typing.overload
def prepare(desc: Winograd, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: DepthwiseConv2d, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Linear, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: MatMul, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Pool2d, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Unary, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Binary, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Affine, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Reduce, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Softmax, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Lrn, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Copy, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Pad, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Resample, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: AffineSample, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Where, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Normalize, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: TopK, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Take, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Suppress, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: UnaryBackward, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: SoftmaxBackward, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: SoftmaxCrossEntropy, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Conv2dBackwardWeight, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Conv2dBackwardInput, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: PackWeights, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Pool2dBackward, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: BatchNorm, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: NormalizeBackward, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: LrnBackward, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Dropout, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: Optimizer, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: MovingAverage, isa: Isa, op: Op | None = None) -> None: ...
@typing.overload
def prepare(desc: SquaredNorm, isa: Isa, op: Op | None = None) -> None: ...
def row_run_group(shape: ConvShape, isa: Isa) -> int:
    """How many neighbouring outputs of row_run make one vector."""

def run_kernel(
    isa: Isa,
    desc: typing.Any,
    inputs: collections.abc.Sequence[numpy.typing.NDArray[typing.Any] | None],
    out: numpy.typing.NDArray[typing.Any],
    chunks: tuple[int, int] | None = None,
    op: Op | None = None,
    more: collections.abc.Sequence[numpy.typing.NDArray[typing.Any]] = [],
) -> None:
    """Run a kernel, or its chunks [begin, end), on contiguous float32 arrays (None for an absent input); for tests.
    `op` is needed where a descriptor serves two kernels (Pool2d). A descriptor without chunks is prepared first."""

def usable_cpus() -> int:
    """Processors that this process may use, by affinity and cgroup quota."""

def vector_length(isa: Isa) -> int: ...
def weight_price(bytes: float) -> float:
    """Seconds that choose_conv2d adds for bytes of packed weights: loading transforms them, threads share memory."""

def winograd_axes(R: int, S: int) -> int:
    """Which axes a filter runs along: 0 both, 1 down (R x 1), 2 across (1 x S); the field `axes` of Winograd."""

def winograd_workspace(N: int, P: int, Q: int, C: int, K: int, m: int, r: int, axes: int = 0) -> int:
    """Floats of workspace between the two operations of a Winograd convolution; 0 where one does it all."""

def write_plan(
    path: os.PathLike[str] | str | bytes,
    model: str,
    labels: collections.abc.Sequence[str],
    metadata: collections.abc.Sequence[tuple[str, str]],
    variants: collections.abc.Sequence[
        tuple[
            Plan,
            collections.abc.Sequence[tuple[str, str, collections.abc.Sequence[int], bool]],
            collections.abc.Sequence[tuple[str, str, collections.abc.Sequence[int], bool]],
            collections.abc.Sequence[tuple[str, str, str, int, int, collections.abc.Sequence[int]]],
        ]
    ],
) -> None:
    """Write an .fcplan file. metadata: (key, value). variants: (plan, inputs, outputs, operations) with inputs and
    outputs as (name, dtype, shape, ragged) and operations as (name, op, algorithm, flops, bytes, shape). Raises
    OSError."""

DEFAULT_WINOGRAD: int = 4
LARGEST_WINOGRAD: int = 6
LINEAR_ROWS: int = 3
MAX_RANK: int = 8
PLAN_MAGIC: bytes
PLAN_VERSION: int = 8
__version__: str
