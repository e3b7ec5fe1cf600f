"""ONNX operators that exporters use for shape arithmetic. Shapes are known, so all of these are folded; most refuse a
value that is computed at run time (Shape and Size of it are fine, they read no elements)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fastconv.graph import Array, Value
from fastconv.onnx.builder import Builder
from fastconv.onnx.checks import MAX_RANK
from fastconv.onnx.integers import modulo
from fastconv.onnx.registry import Floats, Ints, operator
from fastconv.onnx.weights import BFLOAT16, DTYPES, FLOAT16

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
    b.closed(x)
    return b.const(np.array(x.shape, np.int64))


@operator
def Shape_15(b: Builder, x: Value, *, start: int = 0, end: int | None = None) -> Value:
    b.closed(x)
    return b.const(np.array(x.shape[start:end], np.int64))


@operator
def Size(b: Builder, x: Value) -> Value:
    b.closed(x)
    return b.const(np.array(x.size, np.int64))


def _target(b: Builder, to: int) -> np.dtype[Any]:
    name = DTYPES.get(to)
    if name is None:
        b.unsupported(f"data type {to}")
    return np.dtype(name)


def _cast(b: Builder, x: Value, dtype: np.dtype[Any], half: bool) -> Value:
    if x.is_const:
        if x.dtype == dtype:
            return x
        return b.fold(("cast", dtype.str), [x], x.shape, dtype, lambda a: a.astype(dtype))
    if half:  # the values of float16, held as float32
        if x.dtype.kind == "f":
            return b.emit("RoundHalf", [x], x.shape)
        dtype = np.dtype(np.float32)
    if dtype.kind == "f":
        if x.dtype.kind == "f":
            return x  # also where the file asks for float64
        return b.emit("Copy", [x], x.shape, dtype=np.float32)
    if dtype == x.dtype:
        return x
    if dtype.kind == "b":
        zero = b.const(np.zeros((), x.dtype))
        return _not(b, b.emit("Equal", [x, zero], x.shape, dtype=np.bool_))
    if dtype not in (np.int32, np.int64) and x.dtype.kind != "b" and not (x.dtype.kind == "f" and dtype == np.uint8):
        b.unsupported(f"a cast of computed {x.name!r} from {x.dtype} to {dtype}")
    if x.dtype.kind == "f":
        return b.emit("Trunc", [x], x.shape, dtype=dtype)
    return b.integer("Copy", [x], x.shape, dtype, b.bounds(x))


def _not(b: Builder, x: Value) -> Value:
    return b.emit("Equal", [x, b.const(np.zeros((), np.bool_))], x.shape, dtype=np.bool_)


@operator
def Cast_6(b: Builder, x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    if to == BFLOAT16 and not x.is_const:
        b.unsupported(f"a cast of computed {x.name!r} to bfloat16")
    return _cast(b, x, _target(b, to), to == FLOAT16)


@operator
def CastLike_15(b: Builder, x: Value, like: Value, *, saturate: int = 1, round_mode: str = "up") -> Value:
    return _cast(b, x, like.dtype, like.dtype == np.float16)


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


@operator
def Mod_10(b: Builder, x: Value, y: Value, *, fmod: int = 0) -> Value:
    if not x.is_const and y.is_const and y.size == 1 and x.dtype == y.dtype and x.dtype.kind in "iu" and not fmod:
        return modulo(b, x, int(b.number(y, "the divisor")))
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
def Tile_6(b: Builder, x: Value, repeats: Value) -> Value:
    times = b.ints(repeats, "repeats")
    if len(times) != x.rank or any(t < 0 for t in times):
        b.fail(f"repeats {times} do not fit input {x.name!r} of shape {x.shape}")
    if all(t == 1 for t in times):
        return x
    shape = [d * t for d, t in zip(x.shape, times, strict=True)]
    if not x.is_const:
        b.shape(shape)
        for a, t in enumerate(times):
            if t != 1:
                x = _repeat(b, x, a, t)
        return x
    return b.fold(("tile", times), [x], shape, x.dtype, lambda a: np.tile(a, times))


def _repeat(b: Builder, x: Value, a: int, t: int) -> Value:
    """x, t times along axis a."""
    before, d, after = x.shape[:a], x.shape[a], x.shape[a + 1 :]
    if x.rank == MAX_RANK:
        b.unsupported(f"repeats of a tensor of rank {x.rank}")
    return b.reshape(b.expand(b.reshape(x, (*before, 1, d, *after)), (*before, t, d, *after)), (*before, t * d, *after))


@operator
def CumSum_11(b: Builder, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Value:
    b.constant(x, "input 0")
    a = b.axis(int(b.number(axis, "axis")), x.rank)
    if x.dtype.kind not in "fiu" or x.rank == 0:
        b.fail(f"input {x.name!r} is {x.dtype} {x.shape}, expected numbers along an axis")

    def total(v: Array) -> Any:
        v = np.flip(v, a) if reverse else v
        y = np.cumsum(v, axis=a, dtype=v.dtype)
        y = y - v if exclusive else y
        return np.flip(y, a) if reverse else y

    return b.fold(("cumsum", a, bool(exclusive), bool(reverse)), [x], x.shape, x.dtype, total)


@operator
def NonZero_9(b: Builder, x: Value) -> Value:
    b.constant(x, "input 0")
    if x.size > 1 << 16:
        b.unsupported(f"{x.size} elements")
    found = np.array(np.nonzero(np.atleast_1d(b.array(x))), np.int64)
    return b.const(found)
