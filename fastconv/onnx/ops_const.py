"""ONNX operators that exporters use for shape arithmetic. Shapes are known, so all of these are folded; a value that is
computed at run time is refused (Shape and Size of it are fine, they read no elements)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fastconv.graph import Array, Value
from fastconv.onnx.builder import Builder
from fastconv.onnx.registry import Floats, Ints, operator
from fastconv.onnx.weights import DTYPES

if TYPE_CHECKING:
    from fastconv._core import OnnxTensor

_MAX_RANGE: Final = 1 << 24


@operator
def Constant(
    b: Builder,
    *,
    value: OnnxTensor | None = None,
    value_float: float | None = None,
    value_floats: Floats | None = None,
    value_int: int | None = None,
    value_ints: Ints | None = None,
) -> Value:
    forms = [v for v in (value, value_float, value_floats, value_int, value_ints) if v is not None]
    if len(forms) != 1:
        b.fail(f"expected one value, got {len(forms)}")
    if value is not None:
        name = b.node.outputs[0]
        return b.weight(b.store.tensor(value, ("constant", name)), name)
    floats = value_float is not None or value_floats is not None
    return b.const(np.array(forms[0], np.float32 if floats else np.int64))


@operator
def Shape(b: Builder, x: Value) -> Value:
    return b.const(np.array(x.shape, np.int64))


@operator
def Shape_15(b: Builder, x: Value, *, start: int = 0, end: int | None = None) -> Value:
    return b.const(np.array(x.shape[start:end], np.int64))


@operator
def Size(b: Builder, x: Value) -> Value:
    return b.const(np.array(x.size, np.int64))


def _target(b: Builder, to: int) -> np.dtype[Any]:
    name = DTYPES.get(to)
    if name is None:
        b.unsupported(f"data type {to}")
    return np.dtype(name)


def _cast(b: Builder, x: Value, to: int) -> Value:
    dtype = _target(b, to)
    if not x.is_const:
        if dtype.kind != "f":
            b.unsupported(f"a cast of computed {x.name!r} from {x.dtype} to {dtype}")
        return x  # computed tensors stay float32, also where the file asks for float16 or float64
    if x.dtype == dtype:
        return x
    return b.fold(("cast", dtype.str), [x], x.shape, dtype, lambda a: a.astype(dtype))


@operator
def Cast(b: Builder, x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    return _cast(b, x, to)


@operator
def CastLike_15(b: Builder, x: Value, like: Value, *, saturate: int = 1, round_mode: str = "up") -> Value:
    if x.is_const and x.dtype != like.dtype:
        dtype = like.dtype
        return b.fold(("cast", dtype.str), [x], x.shape, dtype, lambda a: a.astype(dtype))
    if not x.is_const and like.dtype.kind != "f":
        b.unsupported(f"a cast of computed {x.name!r} from {x.dtype} to {like.dtype}")
    return x


@operator
def Range_11(b: Builder, start: Value, limit: Value, delta: Value) -> Value:
    if not start.dtype == limit.dtype == delta.dtype:
        b.fail(f"start, limit and delta are {start.dtype}, {limit.dtype} and {delta.dtype}")
    s, e, d = (b.number(v, w) for v, w in ((start, "start"), (limit, "limit"), (delta, "delta")))
    if d == 0 or not all(map(math.isfinite, (s, e, d))):
        b.fail(f"the range from {s} to {e} by {d} is not finite")
    n = max(0, math.ceil((e - s) / d))
    if n > _MAX_RANGE:
        b.fail(f"a range of {n:.6g} elements is too long")
    dtype = start.dtype
    return b.fold(
        ("range",), [start, delta], (n,), dtype,
        lambda a, c: a.reshape(()) + np.arange(n).astype(dtype) * c.reshape(()),
    )  # fmt: skip


@operator
def ConstantOfShape_9(b: Builder, shape: Value, *, value: OnnxTensor | None = None) -> Value:
    target = b.ints(shape, "shape")
    if any(d < 0 for d in target):
        b.fail(f"shape {target} has a negative dimension")
    if value is None:
        one = b.const(np.zeros((), np.float32))
    else:
        one = b.weight(b.store.tensor(value, ("constant", b.node.outputs[0])), b.node.outputs[0])
        if one.size != 1:
            b.fail(f"value has shape {one.shape}, expected one element")
    out = b.reshape(one, ())
    return b.expand(out, target) if target else out


# -- comparisons and choices ----------------------------------------------------------------------------------------
def _two(b: Builder, op: str, x: Value, y: Value, fn: Callable[[Array, Array], Any], *, logical: bool = False) -> Value:
    b.constant(x, "input 0")
    b.constant(y, "input 1")
    if x.dtype != y.dtype or (logical and x.dtype != np.bool_):
        b.fail(f"inputs {x.name!r} and {y.name!r} are {x.dtype} and {y.dtype}")
    return b.fold((op,), [x, y], b.broadcast(x.shape, y.shape), np.bool_, fn)


@operator
def Equal(b: Builder, x: Value, y: Value) -> Value:
    return _two(b, "Equal", x, y, np.equal)


@operator
def Less(b: Builder, x: Value, y: Value) -> Value:
    return _two(b, "Less", x, y, np.less)


@operator
def Greater(b: Builder, x: Value, y: Value) -> Value:
    return _two(b, "Greater", x, y, np.greater)


@operator
def LessOrEqual_12(b: Builder, x: Value, y: Value) -> Value:
    return _two(b, "LessOrEqual", x, y, np.less_equal)


@operator
def GreaterOrEqual_12(b: Builder, x: Value, y: Value) -> Value:
    return _two(b, "GreaterOrEqual", x, y, np.greater_equal)


@operator
def And(b: Builder, x: Value, y: Value) -> Value:
    return _two(b, "And", x, y, np.logical_and, logical=True)


@operator
def Or(b: Builder, x: Value, y: Value) -> Value:
    return _two(b, "Or", x, y, np.logical_or, logical=True)


@operator
def Not(b: Builder, x: Value) -> Value:
    b.constant(x, "input 0")
    if x.dtype != np.bool_:
        b.fail(f"input {x.name!r} is {x.dtype}, expected bool")
    return b.fold(("Not",), [x], x.shape, np.bool_, np.logical_not)


@operator
def Where_9(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    b.constant(condition, "the condition")
    if condition.dtype != np.bool_:
        b.fail(f"the condition is {condition.dtype}, expected bool")
    shape = b.broadcast(condition.shape, x.shape, y.shape)
    if x.is_const and y.is_const:
        if x.dtype != y.dtype:
            b.fail(f"inputs {x.name!r} and {y.name!r} are {x.dtype} and {y.dtype}")
        return b.fold(("where",), [condition, x, y], shape, x.dtype, np.where)
    if condition.size and condition.size <= 1 << 16:
        picked = b.array(condition)
        if picked.all() or not picked.any():
            return b.expand(x if picked.all() else y, shape)
    b.unsupported("a choice between computed tensors by element")


@operator
def Mod_10(b: Builder, x: Value, y: Value, *, fmod: int = 0) -> Value:
    b.constant(x, "input 0")
    b.constant(y, "input 1")
    if x.dtype != y.dtype or x.dtype.kind not in "iu" or fmod:
        b.unsupported(f"{x.dtype} mod {y.dtype}, fmod={fmod}")
    return b.fold(("mod",), [x, y], b.broadcast(x.shape, y.shape), x.dtype, _mod)


def _mod(a: Array, c: Array) -> Any:
    if not np.all(c):
        raise ZeroDivisionError("integer division by zero")
    return np.mod(a, c)


@operator
def Tile(b: Builder, x: Value, repeats: Value) -> Value:
    times = b.ints(repeats, "repeats")
    if len(times) != x.rank or any(t < 0 for t in times):
        b.fail(f"repeats {times} do not fit input {x.name!r} of shape {x.shape}")
    if all(t == 1 for t in times):
        return x
    b.constant(x, "input 0")
    shape = [d * t for d, t in zip(x.shape, times, strict=True)]
    return b.fold(("tile", times), [x], shape, x.dtype, lambda a: np.tile(a, times))


@operator
def NonZero_9(b: Builder, x: Value) -> Value:
    b.constant(x, "input 0")
    if x.size > 1 << 16:
        b.unsupported(f"{x.size} elements")
    found = np.array(np.nonzero(np.atleast_1d(b.array(x))), np.int64)
    return b.const(found)
