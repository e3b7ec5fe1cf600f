"""Arithmetic on integers that are computed at run time.

Plans hold them as float32, exact to 2^24. Every such value has bounds: those of its type, of the axis that it indexes,
or what follows from its operands. An operation is refused where its exact result might lie beyond 2^24; unsigned bytes
wrap as ONNX has it.
"""

from __future__ import annotations

import numpy as np

from fastconv.graph import MAX_EXACT, Shape, Value
from fastconv.onnx.builder import Bounds, Builder


def arithmetic(b: Builder, op: str, x: Value, y: Value, shape: Shape) -> Value:
    """x op y for Add, Sub, Mul, Div, Max and Min of one integer type."""
    (xl, xh), (yl, yh) = b.bounds(x), b.bounds(y)
    if op == "Add":
        bounds = xl + yl, xh + yh
    elif op == "Sub":
        bounds = xl - yh, xh - yl
    elif op == "Mul":
        products = [i * j for i in (xl, xh) for j in (yl, yh)]
        bounds = min(products), max(products)
    elif op == "Div":
        return divide(b, x, y, shape)
    else:
        return b.integer(op, [x, y], shape, x.dtype, (min(xl, yl), max(xh, yh)))
    if max(-bounds[0], bounds[1]) > MAX_EXACT:
        b.unsupported(f"{x.dtype} results that may reach {bounds[0]} to {bounds[1]}: beyond 2^24 they are not exact")
    return _wrapped(b, b.integer(op, [x, y], shape, x.dtype, bounds), bounds)


def _wrapped(b: Builder, y: Value, bounds: Bounds) -> Value:
    """y modulo the size of its type, where it may lie outside of it."""
    info = np.iinfo(y.dtype)
    if info.min <= bounds[0] and bounds[1] <= info.max:
        return y
    if info.min < 0:
        b.unsupported(f"{y.dtype} results that may reach {bounds[0]} to {bounds[1]}")
    return modulo(b, y, info.max + 1, (0, int(info.max)))


def divide(b: Builder, x: Value, y: Value, shape: Shape) -> Value:
    """Towards zero. The float32 quotient of whole numbers up to 2^24 never rounds up to a whole number it has not."""
    largest = max(map(abs, b.bounds(x)))
    quotient = b.emit("Div", [x, y], shape, dtype=np.float32)
    return b.integer("Trunc", [quotient], shape, x.dtype, (-largest if b.bounds(x)[0] < 0 else 0, largest))


def modulo(b: Builder, x: Value, divisor: int, bounds: Bounds | None = None) -> Value:
    """x modulo a positive constant, with the sign of the constant."""
    if not 1 <= divisor <= MAX_EXACT:
        b.unsupported(f"a remainder of division by {divisor}")
    d = b.const(np.array(divisor, np.float32))
    whole = b.emit("Floor", [b.emit("Div", [x, d], x.shape, dtype=np.float32)], x.shape)
    product = b.emit("Mul", [whole, d], x.shape)
    return b.integer("Sub", [x, product], x.shape, x.dtype, bounds or (0, divisor - 1))
