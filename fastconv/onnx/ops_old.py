"""Forms that operators had before operator set 7: explicit broadcasting, is_test, PRelu by channel."""

from __future__ import annotations

import numpy as np

from fastconv.graph import Value
from fastconv.onnx import ops_choose, ops_math, ops_nn
from fastconv.onnx.builder import Builder
from fastconv.onnx.ops_norm import batch_norm
from fastconv.onnx.registry import operator


def _aligned(b: Builder, x: Value, y: Value, axis: int | None, broadcast: int) -> Value:
    """y as an operand that numpy broadcasts to x: its axes are those of x from `axis` on, or the last ones."""
    if not broadcast:
        if x.shape != y.shape:
            b.fail(f"shapes {x.shape} and {y.shape} differ, and broadcast is 0")
        return y
    if axis is not None:
        axis = b.axis(axis, x.rank)
        if axis + y.rank > x.rank:
            b.fail(f"input {y.name!r} of shape {y.shape} does not fit {x.shape} from axis {axis} on")
        y = b.reshape(y, (*y.shape, *[1] * (x.rank - axis - y.rank)))
    if b.broadcast(x.shape, y.shape) != x.shape:
        b.fail(f"input {y.name!r} of shape {y.shape} does not broadcast to {x.shape}")
    return y


@operator
def Add(b: Builder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Value:
    return ops_math.binary(b, "Add", x, _aligned(b, x, y, axis, broadcast))


@operator
def Sub(b: Builder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Value:
    return ops_math.binary(b, "Sub", x, _aligned(b, x, y, axis, broadcast))


@operator
def Mul(b: Builder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Value:
    return ops_math.binary(b, "Mul", x, _aligned(b, x, y, axis, broadcast))


@operator
def Div(b: Builder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Value:
    return ops_math.binary(b, "Div", x, _aligned(b, x, y, axis, broadcast))


@operator
def Pow(b: Builder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Value:
    return ops_math.binary(b, "Pow", x, _aligned(b, x, y, axis, broadcast))


@operator
def Equal(b: Builder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Value:
    return ops_choose.compare(b, "Equal", x, _aligned(b, x, y, axis, broadcast), np.equal)


@operator
def Less(b: Builder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Value:
    return ops_choose.compare(b, "Less", x, _aligned(b, x, y, axis, broadcast), np.less)


@operator
def Greater(b: Builder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Value:
    return ops_choose.compare(b, "Less", x, _aligned(b, x, y, axis, broadcast), np.greater, swap=True)


@operator
def And(b: Builder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Value:
    return ops_choose.logical(b, "Min", x, _aligned(b, x, y, axis, broadcast), np.logical_and)


@operator
def Or(b: Builder, x: Value, y: Value, *, axis: int | None = None, broadcast: int = 0) -> Value:
    return ops_choose.logical(b, "Max", x, _aligned(b, x, y, axis, broadcast), np.logical_or)


@operator
def PRelu(b: Builder, x: Value, slope: Value) -> Value:
    if slope.rank == 1 and slope.size > 1 and x.rank > 1:  # one number for each channel
        slope = b.reshape(slope, (slope.size, *[1] * (x.rank - 2)))
    return ops_math.prelu(b, x, slope)


@operator
def Gemm(
    b: Builder, x: Value, w: Value, c: Value,
    *, alpha: float = 1.0, beta: float = 1.0, broadcast: int = 0, transA: int = 0, transB: int = 0,
) -> Value:  # fmt: skip
    return ops_nn.gemm(b, x, w, c, alpha, beta, transA, transB)


@operator
def BatchNormalization(
    b: Builder, x: Value, scale: Value, bias: Value, mean: Value, var: Value,
    *, epsilon: float = 1e-5, is_test: int = 0, momentum: float = 0.9, spatial: int = 1,
) -> Value:  # fmt: skip
    if not is_test:
        b.unsupported("training mode (is_test=0)")
    if not spatial:
        b.unsupported("statistics per position (spatial=0)")
    return batch_norm(b, x, [scale, bias, mean, var], epsilon)


@operator
def Dropout(b: Builder, x: Value, *, is_test: int = 0, ratio: float = 0.5) -> Value:
    if not is_test:
        b.unsupported("training mode (is_test=0)")
    return x
