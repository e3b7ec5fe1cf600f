"""ONNX operators that work element by element: unary, binary."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from fastconv.graph import Array, Value
from fastconv.onnx.builder import Builder
from fastconv.onnx.integers import arithmetic
from fastconv.onnx.registry import operator


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
    if op in _ANY_NUMBER and x.dtype.kind == "i":
        return b.emit(op, [x], x.shape, dtype=x.dtype, **attrs)
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
def Celu_12(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    """alpha * Elu(x / alpha)"""
    if alpha == 0.0 or not math.isfinite(alpha):
        b.fail(f"alpha {alpha}: expected a number other than 0")
    if alpha == 1.0:
        return _unary(b, "Elu", x, alpha=1.0)
    if alpha < 0:
        b.unsupported(f"alpha {alpha} is negative")
    y = b.emit("Div", [x, b.const(np.array(alpha, np.float32))], x.shape)
    y = b.emit("Elu", [y], x.shape, alpha=1.0)
    return b.emit("Mul", [y, b.const(np.array(alpha, np.float32))], x.shape)


@operator
def ThresholdedRelu_10(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    above = b.emit("Less", [b.const(np.array(alpha, np.float32)), x], x.shape, dtype=np.bool_)
    return b.emit("Where", [above, x, b.const(np.zeros((), np.float32))], x.shape)


@operator
def Softsign(b: Builder, x: Value) -> Value:
    size = b.emit("Add", [b.emit("Abs", [x], x.shape), b.const(np.ones((), np.float32))], x.shape)
    return b.emit("Div", [x, size], x.shape)


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


def _folded(b: Builder, op: str, x: Value) -> Value:
    """Of constants only: position tables that exporters leave in the graph."""
    return _unary(b, op, b.constant(x, "input 0"))


@operator
def Sin_7(b: Builder, x: Value) -> Value:
    return _folded(b, "Sin", x)


@operator
def Cos_7(b: Builder, x: Value) -> Value:
    return _folded(b, "Cos", x)


@operator
def Round_11(b: Builder, x: Value) -> Value:
    return _unary(b, "Round", x)


@operator
def Sign_9(b: Builder, x: Value) -> Value:
    return _unary(b, "Sign", x)


def _clip(b: Builder, x: Value, low: float, high: float) -> Value:
    if math.isnan(low) or math.isnan(high):
        b.fail(f"bounds {low} and {high}: expected numbers")
    if x.is_const:
        if x.dtype.kind not in "fiu":
            b.fail(f"input {x.name!r} is {x.dtype}, expected numbers")
        return b.fold(("clip", low, high), [x], x.shape, x.dtype, lambda a: np.minimum(np.maximum(a, low), high))
    return b.emit("Clip", [x], x.shape, dtype=x.dtype if x.dtype.kind in "iu" else None, min=low, max=high)


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
        x = binary(b, "Max", x, b.reshape(low, ()))
    return x if high is None else binary(b, "Min", x, b.reshape(high, ()))


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


def binary(b: Builder, op: str, x: Value, y: Value) -> Value:
    """Folded where both are constant."""
    shape = b.broadcast(x.shape, y.shape)
    if x.is_const and y.is_const and op in _BINARY:
        if (x.dtype != y.dtype and op != "Pow") or x.dtype.kind not in "fiu" or y.dtype.kind not in "fiu":
            b.fail(f"inputs {x.name!r} and {y.name!r} are {x.dtype} and {y.dtype}")
        return b.fold((op,), [x, y], shape, x.dtype, _BINARY[op])
    if op == "Pow" and x.dtype.kind == "f" and y.dtype.kind in "iu":
        if not y.is_const:
            return b.emit(op, [b.f32(x, "input 0"), y], shape, dtype=np.float32)
        y = b.fold(("cast", "f4"), [y], y.shape, np.float32, lambda a: a.astype(np.float32))
    if x.dtype == y.dtype and x.dtype.kind in "iub":
        if op in ("Add", "Sub", "Mul", "Div", "Max", "Min") and x.dtype.kind != "b":
            return arithmetic(b, op, x, y, shape)
        b.unsupported(f"{x.dtype} numbers that are computed at run time")
    return b.emit(op, [b.f32(x, "input 0"), b.f32(y, "input 1")], shape)


@operator
def Add_7(b: Builder, x: Value, y: Value) -> Value:
    return binary(b, "Add", x, y)


@operator
def Sub_7(b: Builder, x: Value, y: Value) -> Value:
    return binary(b, "Sub", x, y)


@operator
def Mul_7(b: Builder, x: Value, y: Value) -> Value:
    return binary(b, "Mul", x, y)


@operator
def Div_7(b: Builder, x: Value, y: Value) -> Value:
    return binary(b, "Div", x, y)


@operator
def Pow_7(b: Builder, x: Value, y: Value) -> Value:
    return binary(b, "Pow", x, y)


@operator
def PRelu_7(b: Builder, x: Value, slope: Value) -> Value:
    return prelu(b, x, slope)


def prelu(b: Builder, x: Value, slope: Value) -> Value:
    """A slope that numpy broadcasts to x."""
    b.runtime(x)
    if b.broadcast(x.shape, slope.shape) != x.shape:
        b.fail(f"slope of shape {slope.shape} does not broadcast to {x.shape}")
    return binary(b, "PRelu", x, slope)


def _chain(b: Builder, op: str, xs: tuple[Value, ...]) -> Value:
    out = xs[0]
    for x in xs[1:]:
        out = binary(b, op, out, x)
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
    return total if len(xs) == 1 else binary(b, "Mul", total, b.const(np.array(1 / len(xs), total.dtype)))
