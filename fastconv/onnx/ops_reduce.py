"""ONNX operators that reduce along axes, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from fastconv.graph import MAX_EXACT, Value
from fastconv.onnx.builder import Builder
from fastconv.onnx.registry import Ints, operator

_REDUCE: Final[dict[str, Callable[..., Any]]] = {
    "ReduceMean": np.mean, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod,
}  # fmt: skip
_OF_NOTHING: Final = {"ReduceMean": math.nan, "ReduceMax": -math.inf, "ReduceMin": math.inf}


def _reduce(b: Builder, op: str, x: Value, axes: Ints | None, keepdims: int, noop: int = 0) -> Value:
    if not axes:
        if noop:
            return x
        axes = tuple(range(x.rank))
    axes = b.axes(axes, x.rank)
    shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape) if keepdims or i not in axes)
    if op in _OF_NOTHING and math.prod(x.shape[a] for a in axes) == 0 != math.prod(shape):
        if x.dtype == np.bool_:
            return b.expand(b.const(np.array(op == "ReduceMin")), shape)
        if x.dtype != np.float32:
            b.unsupported(f"input {x.name!r} of {x.dtype} {x.shape} is empty on axes {axes}")
        return b.expand(b.const(np.full((), _OF_NOTHING[op], np.float32)), shape)
    if x.is_const:
        if x.dtype.kind not in "fiu":
            b.fail(f"input {x.name!r} is {x.dtype}, expected numbers")
        fn, keep = _REDUCE[op], bool(keepdims)
        return b.fold((op, axes, keep), [x], shape, x.dtype, lambda a: fn(a, axis=axes, keepdims=keep))
    if op == "ReduceProd":
        b.unsupported("this reduction works on constants only")
    if not axes:
        return x
    if op == "ReduceSum" and x.dtype in (np.int32, np.int64):
        count = math.prod(x.shape[a] for a in axes)
        low, high = (bound * count for bound in b.bounds(x))
        if max(-low, high) > MAX_EXACT:
            b.unsupported(f"{x.dtype} sums that may reach {low} to {high}: beyond 2^24 they are not exact")
        return b.integer(op, [x], shape, x.dtype, (low, high), axes=axes, keepdims=bool(keepdims))
    chosen = op in ("ReduceMax", "ReduceMin") and x.dtype.kind in "iub"
    return b.emit(op, [x], shape, dtype=x.dtype if chosen else None, axes=axes, keepdims=bool(keepdims))


def _axes_input(b: Builder, axes: Value | None) -> Ints | None:
    return None if axes is None else b.ints(axes, "axes")


@operator
def ReduceMean(b: Builder, x: Value, *, axes: Ints | None = None, keepdims: int = 1) -> Value:
    return _reduce(b, "ReduceMean", x, axes, keepdims)


@operator
def ReduceMean_18(
    b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    return _reduce(b, "ReduceMean", x, _axes_input(b, axes), keepdims, noop_with_empty_axes)


@operator
def ReduceSum(b: Builder, x: Value, *, axes: Ints | None = None, keepdims: int = 1) -> Value:
    return _reduce(b, "ReduceSum", x, axes, keepdims)


@operator
def ReduceSum_13(
    b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    return _reduce(b, "ReduceSum", x, _axes_input(b, axes), keepdims, noop_with_empty_axes)


@operator
def ReduceMax(b: Builder, x: Value, *, axes: Ints | None = None, keepdims: int = 1) -> Value:
    return _reduce(b, "ReduceMax", x, axes, keepdims)


@operator
def ReduceMax_18(
    b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    return _reduce(b, "ReduceMax", x, _axes_input(b, axes), keepdims, noop_with_empty_axes)


@operator
def ReduceMin(b: Builder, x: Value, *, axes: Ints | None = None, keepdims: int = 1) -> Value:
    return _reduce(b, "ReduceMin", x, axes, keepdims)


@operator
def ReduceMin_18(
    b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    return _reduce(b, "ReduceMin", x, _axes_input(b, axes), keepdims, noop_with_empty_axes)


@operator
def ReduceProd(b: Builder, x: Value, *, axes: Ints | None = None, keepdims: int = 1) -> Value:
    return _reduce(b, "ReduceProd", x, axes, keepdims)


@operator
def ReduceProd_18(
    b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    return _reduce(b, "ReduceProd", x, _axes_input(b, axes), keepdims, noop_with_empty_axes)


# What is made of these.
def _l1(b: Builder, x: Value, *how: Any) -> Value:
    return _reduce(b, "ReduceSum", b.emit("Abs", [x], x.shape), *how)


def _sum_square(b: Builder, x: Value, *how: Any) -> Value:
    return _reduce(b, "ReduceSum", b.emit("Mul", [x, x], x.shape), *how)


def _l2(b: Builder, x: Value, *how: Any) -> Value:
    y = _sum_square(b, x, *how)
    return b.emit("Sqrt", [y], y.shape)


def _log_sum(b: Builder, x: Value, *how: Any) -> Value:
    y = _reduce(b, "ReduceSum", x, *how)
    return b.emit("Log", [y], y.shape)


def _log_sum_exp(b: Builder, x: Value, axes: Ints | None, keepdims: int, noop: int = 0) -> Value:
    if not axes and noop:
        return x
    most = _reduce(b, "ReduceMax", x, axes, 1)
    limit = float(np.finfo(np.float32).max)
    most = b.emit("Clip", [most], most.shape, min=-limit, max=limit)  # infinite: nothing to subtract
    power = b.emit("Exp", [b.emit("Sub", [x, most], x.shape)], x.shape)
    y = _log_sum(b, power, axes, 1)
    y = b.emit("Add", [y, most], y.shape)
    return y if keepdims else _reduce(b, "ReduceMax", y, axes, 0)


@operator
def ReduceL1(b: Builder, x: Value, *, axes: Ints | None = None, keepdims: int = 1) -> Value:
    return _l1(b, b.runtime(x), axes, keepdims)


@operator
def ReduceL1_18(
    b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    return _l1(b, b.runtime(x), _axes_input(b, axes), keepdims, noop_with_empty_axes)


@operator
def ReduceL2(b: Builder, x: Value, *, axes: Ints | None = None, keepdims: int = 1) -> Value:
    return _l2(b, b.runtime(x), axes, keepdims)


@operator
def ReduceL2_18(
    b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    return _l2(b, b.runtime(x), _axes_input(b, axes), keepdims, noop_with_empty_axes)


@operator
def ReduceSumSquare(b: Builder, x: Value, *, axes: Ints | None = None, keepdims: int = 1) -> Value:
    return _sum_square(b, b.runtime(x), axes, keepdims)


@operator
def ReduceSumSquare_18(
    b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    return _sum_square(b, b.runtime(x), _axes_input(b, axes), keepdims, noop_with_empty_axes)


@operator
def ReduceLogSum(b: Builder, x: Value, *, axes: Ints | None = None, keepdims: int = 1) -> Value:
    return _log_sum(b, b.runtime(x), axes, keepdims)


@operator
def ReduceLogSum_18(
    b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    return _log_sum(b, b.runtime(x), _axes_input(b, axes), keepdims, noop_with_empty_axes)


@operator
def ReduceLogSumExp(b: Builder, x: Value, *, axes: Ints | None = None, keepdims: int = 1) -> Value:
    return _log_sum_exp(b, b.runtime(x), axes, keepdims)


@operator
def ReduceLogSumExp_18(
    b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    return _log_sum_exp(b, b.runtime(x), _axes_input(b, axes), keepdims, noop_with_empty_axes)


# -- softmax --------------------------------------------------------------------------------------------------------
def _softmax(b: Builder, op: str, x: Value, axis: int) -> Value:
    return b.emit(op, [x], x.shape, axis=b.axis(axis, x.rank))


def _softmax_flat(b: Builder, op: str, x: Value, axis: int) -> Value:
    """Before opset 13: over all axes from `axis` on, together."""
    axis = b.axis(axis, x.rank)
    wide = [i for i in range(axis, x.rank) if x.shape[i] != 1]
    if len(wide) <= 1:
        return _softmax(b, op, x, wide[0] if wide else axis)
    flat = b.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
    return b.reshape(_softmax(b, op, flat, 1), x.shape)


@operator
def Softmax(b: Builder, x: Value, *, axis: int = 1) -> Value:
    return _softmax_flat(b, "Softmax", x, axis)


@operator
def Softmax_13(b: Builder, x: Value, *, axis: int = -1) -> Value:
    return _softmax(b, "Softmax", x, axis)


@operator
def LogSoftmax(b: Builder, x: Value, *, axis: int = 1) -> Value:
    return _softmax_flat(b, "LogSoftmax", x, axis)


@operator
def LogSoftmax_13(b: Builder, x: Value, *, axis: int = -1) -> Value:
    return _softmax(b, "LogSoftmax", x, axis)
