"""Single operations on NCHW numpy arrays, with the names and arguments of torch.nn.functional.

Each call builds a one-node graph and runs it on the kernels that models use; weights are packed at each call. For many
calls with the same weights build a model. All arrays are float32 [N, C, H, W] unless said otherwise; arguments are
never changed; a wrong rank, dimension or dtype raises ShapeError. `threads=None` means all processors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from .compiler import WeightCache, compile_graph
from .errors import ShapeError
from .graph import Graph, Value
from .isa import resolve_isa

FloatArray = npt.NDArray[np.float32]
Pair = int | tuple[int, int]

_executors: dict[int, _core.Executor] = {}


def _executor(threads: int | None) -> _core.Executor:
    n = _core.usable_cpus() if threads is None else threads
    if n not in _executors:
        _executors[n] = _core.Executor(n)
    return _executors[n]


def _array(value: npt.ArrayLike, name: str, rank: int | None = None) -> FloatArray:
    x = np.asarray(value)
    if x.dtype != np.float32:
        raise ShapeError(f"{name}: expected dtype float32, got {x.dtype}")
    if rank is not None and x.ndim != rank:
        raise ShapeError(f"{name}: expected rank {rank}, got shape {list(x.shape)}")
    return np.require(x, requirements=["C", "A"])


def _pair(value: Pair | Sequence[int], name: str, least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or any(not isinstance(v, (int, np.integer)) or v < least for v in pair):
        raise ShapeError(f"{name}: expected one or two integers of at least {least}, got {value!r}")
    return int(pair[0]), int(pair[1])


def _execute(
    arrays: Sequence[FloatArray], build: Callable[[Graph, list[Value]], Value], threads: int | None
) -> FloatArray:
    """Run the graph that `build` makes of these inputs."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads={threads!r}: expected a positive int or None")
    g = Graph("ops")
    inputs = [g.add_input(f"x{i}", a.shape) for i, a in enumerate(arrays)]
    out = build(g, inputs)
    g.outputs = [out]
    if out.size == 0:
        return np.empty(out.shape, np.float32)
    compiled = compile_graph(g, resolve_isa(), WeightCache())
    result = np.empty(out.shape, np.float32)
    _executor(threads).run(compiled.plan, [*arrays, result])
    return result


# -- convolution, dense -------------------------------------------------------------------------------------------
def conv2d(
    input: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: Pair = 1,
    padding: Pair | str | tuple[int, int, int, int] = 0,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    threads: int | None = None,
) -> FloatArray:
    """Cross-correlation of input [N, C, H, W] with weight [K, C/groups, R, S], plus bias [K].

    padding: one or two integers, "same" (stride 1) or "valid" as in torch, or (top, left, bottom, right).
    Returns [N, K, P, Q] with P = floor((H + pads - dilation * (R - 1) - 1) / stride) + 1.
    """
    x, w = _array(input, "input", 4), _array(weight, "weight", 4)
    b = None if bias is None else _array(bias, "bias", 1)
    strides, dilations = _pair(stride, "stride", 1), _pair(dilation, "dilation", 1)
    N, C, H, W = x.shape
    K, Cg, R, S = w.shape
    if groups < 1 or C % groups or K % groups or Cg * groups != C:
        raise ShapeError(f"weight: {list(w.shape)} with groups={groups} does not fit {C} input channels")
    if b is not None and b.shape != (K,):
        raise ShapeError(f"bias: expected [{K}], got {list(b.shape)}")
    pads = _conv_pads(padding, (R, S), strides, dilations)
    P = (H + pads[0] + pads[2] - dilations[0] * (R - 1) - 1) // strides[0] + 1
    Q = (W + pads[1] + pads[3] - dilations[1] * (S - 1) - 1) // strides[1] + 1
    if min(H, W, C) < 1:
        raise ShapeError(f"input: expected a pixel and a channel at least, got shape {list(x.shape)}")
    if P < 1 or Q < 1 or min(R, S) < 1:
        raise ShapeError(f"weight: a {R}x{S} filter with dilation {dilations} is larger than the padded {H}x{W} input")

    def build(g: Graph, inputs: list[Value]) -> Value:
        constants = [g.constant(w)] + ([] if b is None else [g.constant(b)])
        attrs: dict[str, Any] = dict(strides=strides, dilations=dilations, pads=pads, group=groups)
        return g.add("Conv", [inputs[0], *constants], (N, K, P, Q), **attrs)

    return _execute([x], build, threads)


def _conv_pads(
    padding: Pair | str | tuple[int, int, int, int],
    size: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
) -> tuple[int, int, int, int]:
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding != "same" or strides != (1, 1):
            raise ShapeError(f"padding: expected 'valid', or 'same' with stride 1; got {padding!r}, stride {strides}")
        total = [d * (n - 1) for d, n in zip(dilations, size, strict=True)]
        return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    if not isinstance(padding, int) and len(padding) == 4:
        if any(p < 0 for p in padding):
            raise ShapeError(f"padding: expected no negative number, got {padding!r}")
        top, left, bottom, right = padding
        return top, left, bottom, right
    h, w = _pair(padding, "padding", 0)
    return h, w, h, w


def linear(
    input: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, *, threads: int | None = None
) -> FloatArray:
    """input [..., C] times the transpose of weight [K, C], plus bias [K]: returns [..., K]."""
    x, w = _array(input, "input"), _array(weight, "weight", 2)
    b = None if bias is None else _array(bias, "bias", 1)
    K, C = w.shape
    if C < 1:
        raise ShapeError(f"weight: expected a column at least, got shape {list(w.shape)}")
    if x.ndim < 1 or x.shape[-1] != C:
        raise ShapeError(f"input: expected {C} elements in the last axis, got shape {list(x.shape)}")
    if b is not None and b.shape != (K,):
        raise ShapeError(f"bias: expected [{K}], got {list(b.shape)}")
    flat = x.reshape(math.prod(x.shape[:-1]), C)

    def build(g: Graph, inputs: list[Value]) -> Value:
        constants = [g.constant(w)] + ([] if b is None else [g.constant(b)])
        return g.add("Gemm", [inputs[0], *constants], (flat.shape[0], K), trans_b=True)

    return _execute([flat], build, threads).reshape(*x.shape[:-1], K)


# -- pooling ------------------------------------------------------------------------------------------------------
def _pooled(n: int, k: int, stride: int, before: int, after: int, dilation: int, ceil_mode: bool) -> int:
    span = n + before + after - dilation * (k - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    out = -(-span // stride) + 1
    return out - 1 if (out - 1) * stride >= n + before else out  # no window starts in the right padding


def _pool(
    op: str, input: npt.ArrayLike, kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair,
    ceil_mode: bool, count_include_pad: bool, threads: int | None,
) -> FloatArray:  # fmt: skip
    x = _array(input, "input", 4)
    size = _pair(kernel_size, "kernel_size", 1)
    strides = size if stride is None else _pair(stride, "stride", 1)
    pads, dilations = _pair(padding, "padding", 0), _pair(dilation, "dilation", 1)
    if any(2 * p > k for p, k in zip(pads, size, strict=True)):
        raise ShapeError(f"padding: at most half of kernel_size {size}, got {pads}")
    N, C, H, W = x.shape
    P, Q = (
        _pooled(n, k, s, p, p, d, ceil_mode)
        for n, k, s, p, d in zip((H, W), size, strides, pads, dilations, strict=True)
    )
    if min(H, W, P, Q) < 1:
        raise ShapeError(f"input: {H}x{W} is smaller than the {size} window")
    attrs: dict[str, Any] = dict(kernel_shape=size, strides=strides, dilations=dilations, pads=pads + pads)
    if op == "AveragePool":
        attrs["count_include_pad"] = int(count_include_pad)
    return _execute([x], lambda g, v: g.add(op, v, (N, C, P, Q), **attrs), threads)


def max_pool2d(
    input: npt.ArrayLike,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    *,
    threads: int | None = None,
) -> FloatArray:
    """Largest value of each window; padding never wins. `stride` defaults to `kernel_size`."""
    return _pool("MaxPool", input, kernel_size, stride, padding, dilation, ceil_mode, False, threads)


def avg_pool2d(
    input: npt.ArrayLike,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    threads: int | None = None,
) -> FloatArray:
    """Mean of each window; padded cells count as zeros if `count_include_pad`."""
    return _pool("AveragePool", input, kernel_size, stride, padding, 1, ceil_mode, count_include_pad, threads)


def adaptive_avg_pool2d(
    input: npt.ArrayLike, output_size: int | tuple[int, int] = 1, *, threads: int | None = None
) -> FloatArray:
    """Mean over the image, [N, C, 1, 1]. Only output_size 1: others raise ShapeError."""
    x = _array(input, "input", 4)
    if output_size not in (1, (1, 1)):
        raise ShapeError(f"output_size: expected 1, got {output_size!r}")
    if min(x.shape[2:]) < 1:
        raise ShapeError(f"input: expected a pixel at least, got shape {list(x.shape)}")
    return _execute([x], lambda g, v: g.add("ReduceMean", v, (*x.shape[:2], 1, 1), axes=(2, 3), keepdims=1), threads)


# -- element by element -------------------------------------------------------------------------------------------
def _unary(op: str, input: npt.ArrayLike, threads: int | None, **attrs: Any) -> FloatArray:
    x = _array(input, "input")
    return _execute([x], lambda g, v: g.add(op, v, x.shape, **attrs), threads)


def relu(input: npt.ArrayLike, *, threads: int | None = None) -> FloatArray:
    """max(x, 0), any shape."""
    return _unary("Relu", input, threads)


def relu6(input: npt.ArrayLike, *, threads: int | None = None) -> FloatArray:
    """min(max(x, 0), 6), any shape."""
    return _unary("Clip", input, threads, min=0.0, max=6.0)


def hardtanh(
    input: npt.ArrayLike, min_val: float = -1.0, max_val: float = 1.0, *, threads: int | None = None
) -> FloatArray:
    """min(max(x, min_val), max_val), any shape."""
    return _unary("Clip", input, threads, min=min_val, max=max_val)


def leaky_relu(input: npt.ArrayLike, negative_slope: float = 0.01, *, threads: int | None = None) -> FloatArray:
    """x where x >= 0, negative_slope * x elsewhere, any shape."""
    return _unary("LeakyRelu", input, threads, alpha=negative_slope)


def elu(input: npt.ArrayLike, alpha: float = 1.0, *, threads: int | None = None) -> FloatArray:
    """x where x >= 0, alpha * (exp(x) - 1) elsewhere, any shape."""
    return _unary("Elu", input, threads, alpha=alpha)


def sigmoid(input: npt.ArrayLike, *, threads: int | None = None) -> FloatArray:
    """1 / (1 + exp(-x)), any shape."""
    return _unary("Sigmoid", input, threads)


def hardsigmoid(input: npt.ArrayLike, *, threads: int | None = None) -> FloatArray:
    """min(max(x / 6 + 1/2, 0), 1), any shape."""
    return _unary("HardSigmoid", input, threads, alpha=1.0 / 6.0, beta=0.5)


def hardswish(input: npt.ArrayLike, *, threads: int | None = None) -> FloatArray:
    """x * hardsigmoid(x), any shape."""
    return _unary("HardSwish", input, threads)


def silu(input: npt.ArrayLike, *, threads: int | None = None) -> FloatArray:
    """x * sigmoid(x), also called swish, any shape."""
    return _unary("Swish", input, threads)


def tanh(input: npt.ArrayLike, *, threads: int | None = None) -> FloatArray:
    """Hyperbolic tangent, any shape."""
    return _unary("Tanh", input, threads)


def gelu(input: npt.ArrayLike, approximate: str = "none", *, threads: int | None = None) -> FloatArray:
    """x * (1 + erf(x / sqrt 2)) / 2, or its approximation by "tanh", any shape."""
    if approximate not in ("none", "tanh"):
        raise ShapeError(f"approximate: expected 'none' or 'tanh', got {approximate!r}")
    return _unary("Gelu", input, threads, approximate=approximate)


def _along(op: str, input: npt.ArrayLike, dim: int, threads: int | None) -> FloatArray:
    x = _array(input, "input")
    if not -x.ndim <= dim < x.ndim:
        raise ShapeError(f"dim: {dim} is out of range for shape {list(x.shape)}")
    return _execute([x], lambda g, v: g.add(op, v, x.shape, axis=dim % x.ndim), threads)


def softmax(input: npt.ArrayLike, dim: int, *, threads: int | None = None) -> FloatArray:
    """exp(x) over its sum along `dim`, computed from differences to the maximum, any shape."""
    return _along("Softmax", input, dim, threads)


def log_softmax(input: npt.ArrayLike, dim: int, *, threads: int | None = None) -> FloatArray:
    """Logarithm of softmax, any shape."""
    return _along("LogSoftmax", input, dim, threads)


def add(input: npt.ArrayLike, other: npt.ArrayLike, *, threads: int | None = None) -> FloatArray:
    """Sum with numpy broadcasting."""
    return _binary("Add", input, other, threads)


def mul(input: npt.ArrayLike, other: npt.ArrayLike, *, threads: int | None = None) -> FloatArray:
    """Product with numpy broadcasting."""
    return _binary("Mul", input, other, threads)


def _binary(op: str, input: npt.ArrayLike, other: npt.ArrayLike, threads: int | None) -> FloatArray:
    a, b = _array(input, "input"), _array(other, "other")
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ShapeError(f"other: {list(b.shape)} does not broadcast with {list(a.shape)}") from None
    return _execute([a, b], lambda g, v: g.add(op, v, shape), threads)


# -- normalisation ------------------------------------------------------------------------------------------------
def batch_norm(
    input: npt.ArrayLike,
    running_mean: npt.ArrayLike,
    running_var: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    threads: int | None = None,
) -> FloatArray:
    """(x - mean) / sqrt(var + eps) * weight + bias per channel of [N, C, ...]; inference only."""
    x = _array(input, "input")
    if x.ndim < 2:
        raise ShapeError(f"input: expected at least rank 2, got shape {list(x.shape)}")
    C = x.shape[1]
    ones, zeros = np.ones(C, np.float32), np.zeros(C, np.float32)
    given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    params = [(ones if n == "weight" else zeros) if v is None else _array(v, n, 1) for n, v in given.items()]
    for n, p in zip(given, params, strict=True):
        if p.shape != (C,):
            raise ShapeError(f"{n}: expected [{C}], got {list(p.shape)}")

    def build(g: Graph, inputs: list[Value]) -> Value:
        return g.add("BatchNormalization", [inputs[0], *(g.constant(p) for p in params)], x.shape, epsilon=eps)

    return _execute([x], build, threads)


def local_response_norm(
    input: npt.ArrayLike,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    threads: int | None = None,
) -> FloatArray:
    """x / (k + alpha / size * sum of squares over `size` neighbouring channels)^beta, as in AlexNet."""
    x = _array(input, "input", 4)
    if size < 1:
        raise ShapeError(f"size: expected a positive integer, got {size}")
    # An even size reaches one channel further down in torch and one further up in ONNX and the kernel.
    x = x if size % 2 else np.ascontiguousarray(x[:, ::-1])
    y = _execute([x], lambda g, v: g.add("LRN", v, x.shape, size=size, alpha=alpha, beta=beta, bias=k), threads)
    return y if size % 2 else np.ascontiguousarray(y[:, ::-1])
