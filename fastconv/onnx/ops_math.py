"""ONNX operators that work element by element or reduce: unary, binary, reductions, softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from fastconv.graph import Array, Value
from fastconv.onnx.builder import Builder
from fastconv.onnx.registry import Ints, operator


# -- unary ----------------------------------------------------------------------------------------------------------
def _erf(a: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[a.dtype])(a))


def _round(a: Array) -> Array:
    return np.asarray(np.rint(a))


_UNARY: Final[dict[str, Callable[[Array], Any]]] = {
    "Relu": lambda a: np.maximum(a, a.dtype.type(0)),
    "Sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "Tanh": np.tanh, "Exp": np.exp, "Log": np.log, "Sqrt": np.sqrt, "Reciprocal": np.reciprocal, "Erf": _erf,
    "Neg": np.negative, "Abs": np.abs, "Floor": np.floor, "Ceil": np.ceil, "Round": _round, "Sign": np.sign,
    "Sin": np.sin, "Cos": np.cos,
}  # fmt: skip
_ANY_NUMBER: Final = ("Neg", "Abs", "Relu", "Sign")


def _unary(b: Builder, op: str, x: Value, **attrs: Any) -> Value:
    if x.is_const and op in _UNARY and not attrs:
        if x.dtype.kind not in ("fiu" if op in _ANY_NUMBER else "f"):
            b.fail(f"input {x.name!r} is {x.dtype}, which {op} does not take")
        return b.fold((op,), [x], x.shape, x.dtype, _UNARY[op])
    return b.emit(op, [x], x.shape, **attrs)


@operator
def Relu(b: Builder, x: Value) -> Value:
    return _unary(b, "Relu", x)


@operator
def LeakyRelu(b: Builder, x: Value, *, alpha: float = 0.01) -> Value:
    return _unary(b, "LeakyRelu", x, alpha=alpha)


@operator
def Elu(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    return _unary(b, "Elu", x, alpha=alpha)


@operator
def Selu(
    b: Builder, x: Value, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Value:
    return _unary(b, "Selu", x, alpha=alpha, gamma=gamma)


@operator
def Sigmoid(b: Builder, x: Value) -> Value:
    return _unary(b, "Sigmoid", x)


@operator
def HardSigmoid(b: Builder, x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    return _unary(b, "HardSigmoid", x, alpha=alpha, beta=beta)


@operator
def HardSwish_14(b: Builder, x: Value) -> Value:
    return _unary(b, "HardSwish", x)


@operator
def Swish_24(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    if alpha == 1.0:
        return _unary(b, "Swish", x)
    gate = b.emit("Mul", [x, b.const(np.array(alpha, np.float32))], x.shape)
    return b.emit("Mul", [x, b.emit("Sigmoid", [gate], x.shape)], x.shape)


@operator
def Tanh(b: Builder, x: Value) -> Value:
    return _unary(b, "Tanh", x)


@operator
def Gelu_20(b: Builder, x: Value, *, approximate: str = "none") -> Value:
    if approximate not in ("none", "tanh"):
        b.fail(f"approximate {approximate!r} is unknown, expected 'none' or 'tanh'")
    return _unary(b, "Gelu", x, approximate=approximate)


@operator
def Softplus(b: Builder, x: Value) -> Value:
    return _unary(b, "Softplus", x)


@operator
def Mish_18(b: Builder, x: Value) -> Value:
    return _unary(b, "Mish", x)


@operator
def Exp(b: Builder, x: Value) -> Value:
    return _unary(b, "Exp", x)


@operator
def Log(b: Builder, x: Value) -> Value:
    return _unary(b, "Log", x)


@operator
def Sqrt(b: Builder, x: Value) -> Value:
    return _unary(b, "Sqrt", x)


@operator
def Reciprocal(b: Builder, x: Value) -> Value:
    return _unary(b, "Reciprocal", x)


@operator
def Erf_9(b: Builder, x: Value) -> Value:
    return _unary(b, "Erf", x)


@operator
def Neg(b: Builder, x: Value) -> Value:
    return _unary(b, "Neg", x)


@operator
def Abs(b: Builder, x: Value) -> Value:
    return _unary(b, "Abs", x)


@operator
def Floor(b: Builder, x: Value) -> Value:
    return _unary(b, "Floor", x)


@operator
def Ceil(b: Builder, x: Value) -> Value:
    return _unary(b, "Ceil", x)


def _clip(b: Builder, x: Value, low: float, high: float) -> Value:
    if math.isnan(low) or math.isnan(high):
        b.fail(f"bounds {low} and {high}: expected numbers")
    if x.is_const:
        if x.dtype.kind not in "fiu":
            b.fail(f"input {x.name!r} is {x.dtype}, expected numbers")
        return b.fold(("clip", low, high), [x], x.shape, x.dtype, lambda a: np.minimum(np.maximum(a, low), high))
    return b.emit("Clip", [x], x.shape, min=low, max=high)


@operator
def Clip(b: Builder, x: Value, *, max: float = math.inf, min: float = -math.inf) -> Value:
    return _clip(b, x, min, max)


@operator
def Clip_11(b: Builder, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    for v, what in ((low, "min"), (high, "max")):
        if v is not None and v.size != 1:
            b.fail(f"{what} ({v.name!r}) has shape {v.shape}, expected a scalar")
    if (low is None or low.is_const) and (high is None or high.is_const):
        return _clip(
            b, x,
            -math.inf if low is None else b.number(low, "min", x),
            math.inf if high is None else b.number(high, "max", x),
        )  # fmt: skip
    if low is not None:
        x = _binary(b, "Max", x, b.reshape(low, ()))
    return x if high is None else _binary(b, "Min", x, b.reshape(high, ()))


# -- binary ---------------------------------------------------------------------------------------------------------
def _divide(a: Array, c: Array) -> Any:
    if a.dtype.kind == "f":
        return a / c
    if not np.all(c):
        raise ZeroDivisionError("integer division by zero")
    if a.dtype.kind == "u":
        return a // c
    return np.where((a < 0) != (c < 0), -(np.abs(a) // np.abs(c)), np.abs(a) // np.abs(c))  # towards zero


_BINARY: Final[dict[str, Callable[[Array, Array], Any]]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "Max": np.maximum, "Min": np.minimum,
    "Pow": lambda a, c: np.power(a, c).astype(a.dtype),
}  # fmt: skip


def _binary(b: Builder, op: str, x: Value, y: Value) -> Value:
    shape = b.broadcast(x.shape, y.shape)
    if x.is_const and y.is_const and op in _BINARY:
        if (x.dtype != y.dtype and op != "Pow") or x.dtype.kind not in "fiu" or y.dtype.kind not in "fiu":
            b.fail(f"inputs {x.name!r} and {y.name!r} are {x.dtype} and {y.dtype}")
        return b.fold((op,), [x, y], shape, x.dtype, _BINARY[op])
    if op == "Pow" and y.is_const and y.dtype.kind in "iu":
        y = b.fold(("cast", "f4"), [y], y.shape, np.float32, lambda a: a.astype(np.float32))
    return b.emit(op, [b.f32(x, "input 0"), b.f32(y, "input 1")], shape)


@operator
def Add(b: Builder, x: Value, y: Value) -> Value:
    return _binary(b, "Add", x, y)


@operator
def Sub(b: Builder, x: Value, y: Value) -> Value:
    return _binary(b, "Sub", x, y)


@operator
def Mul(b: Builder, x: Value, y: Value) -> Value:
    return _binary(b, "Mul", x, y)


@operator
def Div(b: Builder, x: Value, y: Value) -> Value:
    return _binary(b, "Div", x, y)


@operator
def Pow(b: Builder, x: Value, y: Value) -> Value:
    return _binary(b, "Pow", x, y)


@operator
def PRelu(b: Builder, x: Value, slope: Value) -> Value:
    b.runtime(x)
    if b.broadcast(x.shape, slope.shape) != x.shape:
        b.fail(f"slope of shape {slope.shape} does not broadcast to {x.shape}")
    return _binary(b, "PRelu", x, slope)


def _chain(b: Builder, op: str, xs: tuple[Value, ...]) -> Value:
    out = xs[0]
    for x in xs[1:]:
        out = _binary(b, op, out, x)
    return out


@operator
def Sum(b: Builder, *xs: Value) -> Value:
    return _chain(b, "Add", xs)


@operator
def Max(b: Builder, *xs: Value) -> Value:
    return _chain(b, "Max", xs)


@operator
def Min(b: Builder, *xs: Value) -> Value:
    return _chain(b, "Min", xs)


@operator
def Mean(b: Builder, *xs: Value) -> Value:
    total = _chain(b, "Add", xs)
    return total if len(xs) == 1 else _binary(b, "Mul", total, b.const(np.array(1 / len(xs), total.dtype)))


# -- reductions -----------------------------------------------------------------------------------------------------
_REDUCE: Final[dict[str, Callable[..., Any]]] = {
    "ReduceMean": np.mean, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod,
}  # fmt: skip


def _reduce(b: Builder, op: str, x: Value, axes: Ints | None, keepdims: int, noop: int = 0) -> Value:
    if not axes:
        if noop:
            return x
        axes = tuple(range(x.rank))
    axes = b.axes(axes, x.rank)
    shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape) if keepdims or i not in axes)
    if op in ("ReduceMean", "ReduceMax", "ReduceMin") and math.prod(x.shape[a] for a in axes) == 0 != math.prod(shape):
        b.fail(f"input {x.name!r} of shape {x.shape} is empty on axes {axes}")
    if x.is_const:
        if x.dtype.kind not in "fiu":
            b.fail(f"input {x.name!r} is {x.dtype}, expected numbers")
        fn, keep = _REDUCE[op], bool(keepdims)
        return b.fold((op, axes, keep), [x], shape, x.dtype, lambda a: fn(a, axis=axes, keepdims=keep))
    if op in ("ReduceMin", "ReduceProd"):
        b.unsupported("this reduction works on constants only")
    if not axes:
        return x
    return b.emit(op, [x], shape, axes=axes, keepdims=bool(keepdims))


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
