"""ONNX operators that normalise: batch, instance, group, layer."""

from __future__ import annotations

import math

import numpy as np

from fastconv.graph import Array, Value
from fastconv.onnx.builder import Builder
from fastconv.onnx.ops_nn import as_4d, channel_vector
from fastconv.onnx.registry import operator


def _epsilon(b: Builder, epsilon: float) -> None:
    if not math.isfinite(epsilon) or epsilon < 0:
        b.fail(f"epsilon {epsilon} is not a non-negative number")


def _channels(b: Builder, x: Value) -> int:
    if x.rank < 2:
        b.fail(f"input {x.name!r} has shape {x.shape}, expected N and C at least")
    return x.shape[1]


# -- batch ----------------------------------------------------------------------------------------------------------
def batch_norm(b: Builder, x: Value, params: list[Value], epsilon: float) -> Value:
    """With the statistics of training."""
    channels = _channels(b, x)
    _epsilon(b, epsilon)
    names = ("scale", "B", "mean", "var")
    checked = [channel_vector(b, p, channels, name) for p, name in zip(params, names, strict=True)]
    if x.is_const:
        return _fold_batch_norm(b, x, checked, epsilon)
    y = as_4d(b, x)
    return b.reshape(b.emit("BatchNormalization", [y, *checked], y.shape, epsilon=epsilon), x.shape)


def _fold_batch_norm(b: Builder, x: Value, params: list[Value], epsilon: float) -> Value:
    """Of a constant, in float64. Without mean and variance they are those of x: weights that a file standardises."""
    x = b.f32(x)
    axes = tuple(i for i in range(x.rank) if i != 1)
    shape = [-1 if i == 1 else 1 for i in range(x.rank)]

    def normalise(a: Array, *vectors: Array) -> Array:
        scale, shift, *rest = (v.astype(np.float64).reshape(shape) for v in vectors)
        z = a.astype(np.float64)
        mean = rest[0] if rest else z.mean(axis=axes, keepdims=True)
        var = rest[1] if rest else z.var(axis=axes, keepdims=True)
        return np.asarray(((z - mean) / np.sqrt(var + epsilon) * scale + shift).astype(np.float32))

    return b.fold(("batchnorm", epsilon), [x, *params], x.shape, np.float32, normalise)


@operator
def BatchNormalization_7(
    b: Builder, x: Value, scale: Value, bias: Value, mean: Value, var: Value,
    *, epsilon: float = 1e-5, momentum: float = 0.9, spatial: int = 1,
) -> Value:  # fmt: skip
    if not spatial:
        b.unsupported("statistics per position (spatial=0)")
    return batch_norm(b, x, [scale, bias, mean, var], epsilon)


@operator
def BatchNormalization_9(
    b: Builder, x: Value, scale: Value, bias: Value, mean: Value, var: Value,
    *, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0,
) -> Value:  # fmt: skip
    if training_mode:
        if not x.is_const:
            b.unsupported("training_mode")
        _epsilon(b, epsilon)
        channels = _channels(b, x)
        vectors = [channel_vector(b, v, channels, name) for v, name in ((scale, "scale"), (bias, "B"))]
        return _fold_batch_norm(b, x, vectors, epsilon)
    return batch_norm(b, x, [scale, bias, mean, var], epsilon)


# -- instance, group, layer -----------------------------------------------------------------------------------------
def _groups(b: Builder, x: Value, vectors: list[Value], groups: int, epsilon: float) -> Value:
    """Statistics over groups of channels and all positions, of each image."""
    b.runtime(x)
    _epsilon(b, epsilon)
    channels = _channels(b, x)
    if groups < 1 or channels % groups:
        b.fail(f"{channels} channels do not divide into {groups} groups")
    y = as_4d(b, x)
    return b.reshape(b.emit("GroupNormalization", [y, *vectors], y.shape, groups=groups, epsilon=epsilon), x.shape)


@operator
def InstanceNormalization(b: Builder, x: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5) -> Value:
    channels = _channels(b, x)
    vectors = [channel_vector(b, scale, channels, "scale"), channel_vector(b, bias, channels, "B")]
    return _groups(b, x, vectors, groups=channels, epsilon=epsilon)


@operator
def GroupNormalization_18(
    b: Builder, x: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5
) -> Value:
    channels = _channels(b, x)
    if num_groups < 1 or channels % num_groups:
        b.fail(f"{channels} channels do not divide into {num_groups} groups")
    vectors = []
    for v, name in ((scale, "scale"), (bias, "bias")):
        v = channel_vector(b, v, num_groups, name)  # one number for each group
        spread = b.expand(b.reshape(v, (num_groups, 1)), (num_groups, channels // num_groups))
        vectors.append(b.reshape(spread, (channels,)))
    return _groups(b, x, vectors, groups=num_groups, epsilon=epsilon)


@operator
def GroupNormalization_21(
    b: Builder, x: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Value:
    channels = _channels(b, x)
    vectors = [channel_vector(b, scale, channels, "scale"), channel_vector(b, bias, channels, "bias")]
    return _groups(b, x, vectors, groups=num_groups, epsilon=epsilon)


@operator
def LayerNormalization_17(
    b: Builder, x: Value, scale: Value, bias: Value | None = None,
    *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1,
) -> list[Value]:  # fmt: skip
    b.runtime(x)
    _epsilon(b, epsilon)
    axis = b.axis(axis, x.rank)
    if x.rank == 0:
        b.fail("the input is a scalar")
    part = x.shape[axis:]
    width = math.prod(part)
    vectors: list[Value] = []
    for v, name in ((scale, "scale"), (bias, "B")):
        if v is not None:
            v = b.f32(v, name)
            if b.broadcast(v.shape, part) != part:
                b.fail(f"{name} ({v.name!r}) of shape {v.shape} does not broadcast to {part}")
            vectors.append(b.reshape(b.expand(v, part), (width,)))
    y = x if axis == x.rank - 1 else b.reshape(x, (*x.shape[:axis], width))
    y = b.emit("LayerNormalization", [y, *vectors, *[None] * (2 - len(vectors))], y.shape, axis=axis, epsilon=epsilon)
    return [b.reshape(y, x.shape), *_statistics(b, x, axis, epsilon)]


def _statistics(b: Builder, x: Value, axis: int, epsilon: float) -> list[Value]:
    """Mean and 1 / standard deviation over the axes from `axis` on, where the node has these outputs."""
    if not any(b.node.outputs[1:]):
        return []
    axes = tuple(range(axis, x.rank))
    shape = (*x.shape[:axis], *[1] * (x.rank - axis))
    mean = b.emit("ReduceMean", [x], shape, axes=axes, keepdims=True)
    centred = b.emit("Sub", [x, mean], x.shape)
    var = b.emit("ReduceMean", [b.emit("Mul", [centred, centred], x.shape)], shape, axes=axes, keepdims=True)
    shifted = b.emit("Add", [var, b.const(np.array(epsilon, np.float32))], shape)
    return [mean, b.emit("Reciprocal", [b.emit("Sqrt", [shifted], shape)], shape)]
