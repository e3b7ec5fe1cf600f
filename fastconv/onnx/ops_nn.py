"""ONNX operators with weights or windows: convolution, pooling, matrix products, LRN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv.graph import MAX_EXACT, Value
from fastconv.onnx.builder import MAX_WINDOW, Builder
from fastconv.onnx.checks import MAX_INT
from fastconv.onnx.geometry import Windows, windows
from fastconv.onnx.registry import Ints, operator


def spatial(b: Builder, x: Value, ranks: tuple[int, ...] = (3, 4)) -> Value:
    """A float runtime input with a batch, channels and as many spatial axes as `ranks` allow."""
    b.runtime(x)
    if x.rank < 3:
        b.fail(f"input {x.name!r} has shape {x.shape}, expected N, C and spatial dims")
    if x.rank not in ranks:
        b.unsupported(f"input {x.name!r} has {x.rank - 2} spatial dims")
    return x


def as_4d(b: Builder, x: Value) -> Value:
    """N, C and the rest as two spatial axes."""
    n, c, *rest = x.shape
    return b.reshape(
        x, (n, c, 1, *rest) if len(rest) == 1 else (n, c, 1, 1) if not rest else (n, c, math.prod(rest[:-1]), rest[-1])
    )


def channel_vector(b: Builder, v: Value, channels: int, what: str) -> Value:
    """A constant float32 vector of `channels` numbers."""
    v = b.f32(b.constant(v, what), what)
    if v.shape != (channels,):
        b.fail(f"{what} ({v.name!r}) has shape {v.shape}, expected ({channels},)")
    return v


def filters(b: Builder, x: Value, w: Value, kernel_shape: Ints | None) -> Value:
    """The weight of a convolution of x as float32: constant, of x's rank, with the kernel that the attribute says."""
    spatial(b, x)
    w = b.f32(b.constant(w, "the weight"), "the weight")
    if w.rank != x.rank:
        b.fail(f"weight {w.name!r} has shape {w.shape}, expected rank {x.rank} as input {x.name!r} has")
    if kernel_shape is not None and kernel_shape != w.shape[2:]:
        b.fail(f"kernel_shape {kernel_shape} contradicts weight {w.name!r} of shape {w.shape}")
    return w


@operator
def Conv(
    b: Builder,
    x: Value,
    w: Value,
    bias: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    w = filters(b, x, w, kernel_shape)
    n, c, *size = x.shape
    k, per_group, *kernel = w.shape
    if not 1 <= group <= MAX_INT:
        b.fail(f"group {group} is not positive")
    if k < 1 or k % group:
        b.fail(f"{k} output channels do not divide into {group} groups")
    if c < 1 or per_group * group != c:
        b.fail(f"input {x.name!r} has {c} channels, but weight {w.name!r} of shape {w.shape} with group {group} "
               f"expects {per_group * group}")  # fmt: skip
    if math.prod(kernel) > MAX_WINDOW:
        b.unsupported(f"weight {w.name!r} of shape {w.shape} has more than {MAX_WINDOW} positions")
    g = windows(b, size, kernel, strides, dilations, pads, auto_pad)
    inputs: list[Value | None] = [as_4d(b, x), as_4d(b, w)]
    if bias is not None:
        inputs.append(channel_vector(b, bias, k, "the bias"))
    h = g.as_2d()
    y = b.emit("Conv", inputs, (n, k, *h.output), strides=h.strides, dilations=h.dilations, group=group, pads=h.pads)
    return b.reshape(y, (n, k, *g.output))


def _pool(
    b: Builder,
    op: str,
    x: Value,
    kernel_shape: Ints,
    strides: Ints | None,
    dilations: Ints | None,
    pads: Ints | None,
    auto_pad: str,
    ceil_mode: int,
    **extra: Any,
) -> Value:
    spatial(b, x, (3, 4, 5))
    n, c, *size = x.shape
    g = windows(b, size, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode=bool(ceil_mode), pool=True)
    if x.rank == 5:
        return _pool_depth(b, op, x, g, **extra)
    h = g.as_2d()
    y = b.emit(
        op, [as_4d(b, x)], (n, c, *h.output),
        dtype=np.int64 if op == "MaxPoolIndex" else None,
        kernel_shape=h.kernel, strides=h.strides, dilations=h.dilations, pads=h.pads, **extra,
    )  # fmt: skip
    return b.reshape(y, (n, c, *g.output))


def _pool_depth(b: Builder, op: str, x: Value, g: Windows, **extra: Any) -> Value:
    """Windows of k x 1 x 1 pool along one axis: across the channels of an image, as PyTorch exports LRN."""
    n, c, depth, rows, columns = x.shape
    flat = g.kernel[1:] == g.strides[1:] == (1, 1) and not any(g.pads[i] for i in (1, 2, 4, 5))
    if not flat or op == "MaxPoolIndex":
        b.unsupported(f"input {x.name!r} has 3 spatial dims")
    count, pixels = g.output[0], rows * columns
    lines = b.transpose(b.reshape(x, (n, c, depth, pixels)), (0, 1, 3, 2))  # the pixels are the channels of the pool
    y = b.emit(
        op, [b.reshape(lines, (n, c * pixels, depth, 1))], (n, c * pixels, count, 1), kernel_shape=(g.kernel[0], 1),
        strides=(g.strides[0], 1), dilations=(g.dilations[0], 1), pads=(g.pads[0], 0, g.pads[3], 0), **extra,
    )  # fmt: skip
    y = b.transpose(b.reshape(y, (n, c, pixels, count)), (0, 1, 3, 2))
    return b.reshape(y, (n, c, count, rows, columns))


@operator
def MaxPool(
    b: Builder,
    x: Value,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
) -> Value | list[Value]:
    y = _pool(b, "MaxPool", x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    if len([o for o in b.node.outputs if o]) < 2:
        return y
    if x.size > MAX_EXACT:
        b.unsupported(f"indices into the {x.size} elements of input {x.name!r}")
    index = _pool(b, "MaxPoolIndex", x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode,
                  columns_first=bool(storage_order))  # fmt: skip
    b.bound(index, (0, x.size - 1))
    return [y, index]


@operator
def AveragePool(
    b: Builder,
    x: Value,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    return _pool(
        b, "AveragePool", x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode,
        count_include_pad=bool(count_include_pad),
    )  # fmt: skip


def _global(b: Builder, op: str, x: Value) -> Value:
    spatial(b, x, (3, 4, 5))
    if math.prod(x.shape[2:]) == 0:
        b.fail(f"input {x.name!r} of shape {x.shape} has no spatial positions")
    shape = x.shape[:2] + (1,) * (x.rank - 2)
    return b.emit(op, [x], shape, axes=tuple(range(2, x.rank)), keepdims=True)


@operator
def GlobalAveragePool(b: Builder, x: Value) -> Value:
    return _global(b, "ReduceMean", x)


@operator
def GlobalMaxPool(b: Builder, x: Value) -> Value:
    return _global(b, "ReduceMax", x)


# -- matrix products ------------------------------------------------------------------------------------------------
@operator
def Gemm_7(
    b: Builder,
    x: Value,
    w: Value,
    c: Value | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Value:
    return gemm(b, x, w, c, alpha, beta, transA, transB)


def gemm(b: Builder, x: Value, w: Value, c: Value | None, alpha: float, beta: float, transA: int, transB: int) -> Value:
    """alpha A' B' + beta C"""
    x, w = b.f32(x, "A"), b.f32(w, "B")
    if x.rank != 2 or w.rank != 2:
        b.fail(f"A has shape {x.shape} and B {w.shape}, expected matrices")
    if transA:
        x = b.transpose(x, (1, 0))
    (m, depth), (k, rows) = x.shape, w.shape if transB else w.shape[::-1]
    if depth != rows:
        b.fail(f"A' is {m} x {depth}, but B' is {rows} x {k}")
    if c is not None:
        c = b.f32(c, "C")
        if b.broadcast(c.shape, (m, k)) != (m, k):
            b.fail(f"C ({c.name!r}) of shape {c.shape} does not broadcast to {(m, k)}")
    if not w.is_const or x.is_const:
        y = b.emit("MatMul", [x, b.transpose(w, (1, 0)) if transB else w], (m, k))
        y = scaled(b, y, alpha)
        return y if c is None or beta == 0 else b.emit("Add", [y, scaled(b, c, beta)], (m, k))
    inputs: list[Value | None] = [x, scaled(b, w, alpha)]
    per_row = c is not None and c.rank == 2 and c.shape[0] != 1
    if c is not None and c.is_const and not per_row and beta != 0:
        bias = b.expand(b.reshape(c, (c.size,)), (k,))
        inputs.append(scaled(b, bias, beta))
        c = None
    y = b.emit("Gemm", inputs, (m, k), trans_b=bool(transB))
    return y if c is None or beta == 0 else b.emit("Add", [y, scaled(b, c, beta)], (m, k))


def scaled(b: Builder, v: Value, factor: float) -> Value:
    """v * factor: folded where v is constant."""
    if factor == 1.0:
        return v
    f = np.float32(factor)
    if v.is_const:
        return b.fold(("scale", float(f)), [v], v.shape, np.float32, lambda a: a * f)
    return b.emit("Mul", [v, b.const(np.array(f))], v.shape)


@operator
def MatMul(b: Builder, x: Value, w: Value) -> Value:
    if x.is_const and w.is_const:
        return _fold_matmul(b, x, w)
    x, w = b.f32(x, "A"), b.f32(w, "B")
    if x.rank == 0 or w.rank == 0:
        b.fail(f"A has shape {x.shape} and B {w.shape}, expected no scalars")
    a = b.reshape(x, (1, *x.shape)) if x.rank == 1 else x
    m = b.reshape(w, (*w.shape, 1)) if w.rank == 1 else w
    if a.shape[-1] != m.shape[-2]:
        b.fail(f"A of shape {x.shape} and B of shape {w.shape} do not fit")
    batch = b.broadcast(a.shape[:-2], m.shape[:-2]) if a.rank > 2 or m.rank > 2 else ()
    k = m.shape[-1]
    shape = (*batch, a.shape[-2], k)
    if m.is_const and m.rank == 2:
        rows = math.prod(a.shape[:-1])
        y = b.emit("Gemm", [b.reshape(a, (rows, a.shape[-1])), m], (rows, k), trans_b=False)
    else:
        y = b.emit("MatMul", [a, m], shape)
    left = () if x.rank == 1 else (a.shape[-2],)
    right = () if w.rank == 1 else (k,)
    return b.reshape(y, (*batch, *left, *right))


def _fold_matmul(b: Builder, x: Value, w: Value) -> Value:
    if x.rank != 2 or w.rank != 2 or x.shape[1] != w.shape[0] or x.dtype != w.dtype:
        b.unsupported(f"a product of constants {x.dtype} {x.shape} and {w.dtype} {w.shape}")
    products = x.shape[0] * x.shape[1] * w.shape[1]
    if products > 1 << 36:
        b.unsupported(f"a product of constants as large as {x.shape} and {w.shape}")
    # Products of floats are many times as fast as those of integers, which numpy does one by one.
    work = products // 8 if x.dtype in (np.float32, np.float64) else 4 * products
    return b.fold(("matmul",), [x, w], (x.shape[0], w.shape[1]), x.dtype, np.matmul, work)


# -- across channels ------------------------------------------------------------------------------------------------
@operator
def LRN(b: Builder, x: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Value:
    b.runtime(x)
    if x.rank < 2:
        b.fail(f"input {x.name!r} has shape {x.shape}, expected N and C at least")
    if not 1 <= size <= MAX_INT:
        b.fail(f"size {size} is not positive")
    y = as_4d(b, x)
    return b.reshape(b.emit("LRN", [y], y.shape, size=size, alpha=alpha, beta=beta, bias=bias), x.shape)
