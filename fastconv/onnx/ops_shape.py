"""ONNX operators that move elements without computing: reshape, transpose, slice, concat, pad, expand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv.graph import Value
from fastconv.onnx.builder import MAX_TABLE, Builder
from fastconv.onnx.checks import MAX_INT, MAX_RANK
from fastconv.onnx.registry import Ints, operator

_MAX_SPLITS = 4096


# -- reshape and its kin --------------------------------------------------------------------------------------------
@operator
def Reshape(b: Builder, x: Value, shape: Value, *, allowzero: int = 0) -> Value:
    target = b.ints(shape, "shape")
    if any(d < -1 for d in target) or target.count(-1) > 1:
        b.fail(f"shape {target}: expected numbers from 0 and one -1 at most")
    if allowzero:
        b.check(not (-1 in target and 0 in target), f"shape {target} has both 0 and -1 with allowzero")
        copied: list[int] = []
    else:
        copied = [i for i, d in enumerate(target) if d == 0]
        b.check(not copied or copied[-1] < x.rank, f"shape {target} copies a dimension that {x.shape} does not have")
    out = [x.shape[i] if i in copied else d for i, d in enumerate(target)]
    if -1 in target:
        # Copied dims stand on both sides: without them -1 is known even for an empty batch.
        rest = math.prod(d for i, d in enumerate(x.shape) if i not in copied)
        known = math.prod(d for i, d in enumerate(out) if d != -1 and i not in copied)
        if known == 0 or rest % known:
            b.fail(f"shape {target} does not fit input {x.name!r} of shape {x.shape}")
        out[target.index(-1)] = rest // known
    if math.prod(out) != x.size:
        b.fail(f"shape {target} does not fit input {x.name!r} of shape {x.shape}")
    return b.reshape(x, out)


@operator
def Flatten(b: Builder, x: Value, *, axis: int = 1) -> Value:
    if axis != x.rank:
        axis = b.axis(axis, x.rank)
    return b.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _squeeze(b: Builder, x: Value, axes: Ints | None) -> Value:
    gone = [i for i, d in enumerate(x.shape) if d == 1] if axes is None else b.axes(axes, x.rank)
    for a in gone:
        if x.shape[a] != 1:
            b.fail(f"axis {a} of shape {x.shape} is not 1")
    return b.reshape(x, [d for i, d in enumerate(x.shape) if i not in gone])


@operator
def Squeeze(b: Builder, x: Value, *, axes: Ints | None = None) -> Value:
    return _squeeze(b, x, axes)


@operator
def Squeeze_13(b: Builder, x: Value, axes: Value | None = None) -> Value:
    return _squeeze(b, x, None if axes is None else b.ints(axes, "axes"))


def _unsqueeze(b: Builder, x: Value, axes: Ints) -> Value:
    rank = x.rank + len(axes)
    if rank > MAX_RANK:
        b.unsupported(f"output rank {rank} is above {MAX_RANK}")
    new = b.axes(axes, rank)
    old = iter(x.shape)
    return b.reshape(x, [1 if i in new else next(old) for i in range(rank)])


@operator
def Unsqueeze(b: Builder, x: Value, *, axes: Ints) -> Value:
    return _unsqueeze(b, x, axes)


@operator
def Unsqueeze_13(b: Builder, x: Value, axes: Value) -> Value:
    return _unsqueeze(b, x, b.ints(axes, "axes"))


@operator
def Identity(b: Builder, x: Value) -> Value:
    return x


@operator
def Dropout_7(b: Builder, x: Value, *, ratio: float = 0.5) -> list[Value]:
    return [x, _mask(b, x, x.dtype if b.node.opset < 10 else np.dtype(np.bool_))] if len(b.node.outputs) > 1 else [x]


def _mask(b: Builder, x: Value, dtype: np.dtype[Any]) -> Value:
    """Nothing is dropped."""
    return b.expand(b.const(np.ones((), dtype)), x.shape)


@operator
def Dropout_12(
    b: Builder, x: Value, ratio: Value | None = None, training_mode: Value | None = None, *, seed: int = 0
) -> list[Value]:
    if training_mode is not None and b.number(training_mode, "training_mode"):
        b.unsupported("training_mode")
    return [x, _mask(b, x, np.dtype(np.bool_))] if len(b.node.outputs) > 1 else [x]


@operator
def Transpose(b: Builder, x: Value, *, perm: Ints | None = None) -> Value:
    if perm is None:
        perm = tuple(reversed(range(x.rank)))
    if sorted(perm) != list(range(x.rank)):
        b.fail(f"perm {perm} is no permutation of the {x.rank} axes of {x.name!r}")
    return b.transpose(x, perm)


@operator
def Expand_8(b: Builder, x: Value, shape: Value) -> Value:
    target = b.ints(shape, "shape")
    if any(d < 0 for d in target):
        b.fail(f"shape {target} has a negative dimension")
    return b.expand(x, b.broadcast(x.shape, target))


# -- parts ----------------------------------------------------------------------------------------------------------
def _slice(b: Builder, x: Value, starts: Ints, ends: Ints, axes: Ints | None, steps: Ints | None) -> Value:
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        b.fail(f"starts {starts}, ends {ends}, axes {axes} and steps {steps} differ in length")
    axes = tuple(b.axis(a, x.rank) for a in axes)
    if len(set(axes)) != len(axes):
        b.fail(f"axes {axes} repeat an axis")
    first, step, shape = [0] * x.rank, [1] * x.rank, list(x.shape)
    for a, s, e, st in zip(axes, starts, ends, steps, strict=True):
        if st == 0:
            b.fail("a step is 0")
        d = x.shape[a]
        s, e = s + d if s < 0 else s, e + d if e < 0 else e
        if st > 0:
            r = range(min(max(s, 0), d), min(max(e, 0), d), st)
        else:  # ONNX clamps the start to the axis, where numpy would find nothing
            r = range(min(max(s, 0), d - 1), min(max(e, -1), d - 1), st)
        # A single element needs no step, and steps of 2^63 would not fit where they go.
        first[a], step[a], shape[a] = (r.start, r.step if len(r) > 1 else 1, len(r)) if len(r) else (0, 1, 0)
    return b.slice(x, first, step, shape)


@operator
def Slice(b: Builder, x: Value, *, starts: Ints, ends: Ints, axes: Ints | None = None) -> Value:
    return _slice(b, x, starts, ends, axes, None)


@operator
def Slice_10(
    b: Builder, x: Value, starts: Value, ends: Value, axes: Value | None = None, steps: Value | None = None
) -> Value:
    return _slice(
        b, x, b.ints(starts, "starts"), b.ints(ends, "ends"),
        None if axes is None else b.ints(axes, "axes"),
        None if steps is None else b.ints(steps, "steps"),
    )  # fmt: skip


def _split(b: Builder, x: Value, axis: int, sizes: Ints | None, count: int) -> list[Value]:
    axis = b.axis(axis, x.rank)
    length = x.shape[axis]
    if not 1 <= count <= _MAX_SPLITS:
        b.fail(f"{count} outputs: expected 1 to {_MAX_SPLITS}")
    if sizes is None:
        part = -(-length // count)
        sizes = tuple(min(part, max(0, length - i * part)) for i in range(count))
    if any(s < 0 for s in sizes) or sum(sizes) != length:
        b.fail(f"parts {sizes} do not add up to the {length} of axis {axis}")
    if len(sizes) != count:
        b.fail(f"{len(sizes)} parts, but {count} outputs")
    out, at = [], 0
    for size in sizes:
        starts = [at if i == axis else 0 for i in range(x.rank)]
        shape = [size if i == axis else d for i, d in enumerate(x.shape)]
        out.append(b.slice(x, starts if size else [0] * x.rank, [1] * x.rank, shape))
        at += size
    return out


def _even(b: Builder, x: Value, axis: int) -> None:
    count = len(b.node.outputs)
    if x.shape[b.axis(axis, x.rank)] % max(count, 1):
        b.fail(f"axis {axis} of shape {x.shape} does not divide into {count} equal parts")


@operator
def Split(b: Builder, x: Value, *, axis: int = 0, split: Ints | None = None) -> list[Value]:
    if split is None:
        _even(b, x, axis)
    return _split(b, x, axis, split, len(b.node.outputs))


@operator
def Split_13(b: Builder, x: Value, split: Value | None = None, *, axis: int = 0) -> list[Value]:
    if split is None:
        _even(b, x, axis)
    return _split(b, x, axis, None if split is None else b.ints(split, "split"), len(b.node.outputs))


@operator
def Split_18(
    b: Builder, x: Value, split: Value | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> list[Value]:
    if split is not None and num_outputs is not None:
        b.fail("both split and num_outputs are given")
    if split is None and num_outputs is None:
        _even(b, x, axis)
    if num_outputs is not None and num_outputs != len(b.node.outputs):
        b.fail(f"num_outputs is {num_outputs}, but there are {len(b.node.outputs)} outputs")
    return _split(b, x, axis, None if split is None else b.ints(split, "split"), len(b.node.outputs))


@operator
def Gather(b: Builder, x: Value, indices: Value, *, axis: int = 0) -> Value:
    axis = b.axis(axis, x.rank)
    b.constant(indices, "indices")
    if indices.dtype.kind not in "iu":
        b.fail(f"indices ({indices.name!r}) are {indices.dtype}, expected integers")
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    length = x.shape[axis]
    if indices.size > 1 << 20:
        b.unsupported(f"{indices.size} indices")
    index = b.array(indices)
    if index.size and not (-length <= int(index.min()) and int(index.max()) < length):
        b.fail(f"indices from {index.min()} to {index.max()} are out of range for {length} (axis {axis} of {x.name!r})")
    if x.is_const:
        return b.fold(("gather", axis), [x, indices], shape, x.dtype, lambda a, i: np.take(a, i, axis))
    flat = [int(i) % length for i in index.reshape(-1)]
    step = flat[1] - flat[0] if len(flat) > 1 else 1
    if not flat or step == 0 or flat != list(range(flat[0], flat[0] + step * len(flat), step)):
        return b.reshape(b.pick(x, axis, flat), shape)
    starts, steps, part = [0] * x.rank, [1] * x.rank, list(x.shape)
    starts[axis], steps[axis], part[axis] = flat[0], step, len(flat)
    return b.reshape(b.slice(x, starts, steps, part), shape)


@operator
def GatherND_11(b: Builder, x: Value, indices: Value, *, batch_dims: int = 0) -> Value:
    """Tuples of constant indices into the leading axes, which are joined into one."""
    b.constant(indices, "indices")
    if batch_dims:
        b.unsupported(f"batch_dims {batch_dims}")
    depth = indices.shape[-1] if indices.rank else 0
    if indices.dtype.kind not in "iu" or not 1 <= depth <= x.rank or indices.size > 1 << 20:
        b.fail(f"indices ({indices.name!r}) are {indices.dtype} {indices.shape}, input {x.name!r} has shape {x.shape}")
    lead, rest = x.shape[:depth], x.shape[depth:]
    index = b.array(indices).reshape(-1, depth).astype(np.int64)
    bounds = np.array(lead, np.int64)
    if index.size and ((index < -bounds) | (index >= bounds)).any():
        b.fail(f"indices ({indices.name!r}) are out of range for the axes {lead} of {x.name!r}")
    index %= np.maximum(bounds, 1)
    flat = np.ravel_multi_index(tuple(index.T), lead) if index.size else np.zeros(0, np.int64)
    joined = b.reshape(x, (math.prod(lead), *rest))
    return b.reshape(Gather(b, joined, b.const(flat)), (*indices.shape[:-1], *rest))  # type: ignore[arg-type]


@operator
def Concat(b: Builder, *xs: Value, axis: int) -> Value:
    axis = b.axis(axis, xs[0].rank)
    shape = list(xs[0].shape)
    for x in xs[1:]:
        same = x.rank == len(shape) and all(
            i == axis or d == e for i, (d, e) in enumerate(zip(x.shape, xs[0].shape, strict=True))
        )
        if not same:
            b.fail(f"input {x.name!r} has shape {x.shape}, which does not fit {xs[0].shape} on axis {axis}")
        shape[axis] += x.shape[axis]
    if len(xs) == 1:
        return xs[0]
    if all(x.is_const for x in xs):
        if len({x.dtype for x in xs}) > 1:
            b.fail(f"inputs are of types {', '.join(str(x.dtype) for x in xs)}")
        return b.fold(("concat", axis), xs, shape, xs[0].dtype, lambda *arrays: np.concatenate(arrays, axis))
    return b.emit("Concat", [b.f32(x) for x in xs], shape, axis=axis)


# -- padding --------------------------------------------------------------------------------------------------------
def _pad(b: Builder, x: Value, pads: Sequence[int], mode: str, value: float) -> Value:
    if mode not in ("constant", "edge", "reflect", "wrap"):
        b.fail(f"mode {mode!r} is unknown")
    if len(pads) != 2 * x.rank:
        b.fail(f"pads {tuple(pads)} has {len(pads)} numbers, expected {2 * x.rank}")
    if any(abs(p) > MAX_INT for p in pads):
        b.fail(f"pads {tuple(pads)}: expected numbers up to {MAX_INT}")
    pairs = list(zip(pads[: x.rank], pads[x.rank :], strict=True))
    if any(p < 0 for p in pads):
        if mode != "constant":
            b.unsupported(f"negative pads {tuple(pads)} with mode {mode!r}")
        cut = [d + min(lo, 0) + min(hi, 0) for d, (lo, hi) in zip(x.shape, pairs, strict=True)]
        if any(d <= 0 for d in cut):
            b.fail(f"pads {tuple(pads)} cut away more than input {x.name!r} of shape {x.shape} has")
        x = b.slice(x, [max(-lo, 0) for lo, _ in pairs], [1] * x.rank, cut)
        pairs = [(max(lo, 0), max(hi, 0)) for lo, hi in pairs]
    for d, (lo, hi) in zip(x.shape, pairs, strict=True):
        if (mode == "reflect" and max(lo, hi) >= max(d, 1)) or (mode != "constant" and max(lo, hi) and not d):
            b.fail(f"pads {tuple(pads)} with mode {mode!r} are too large for input {x.name!r} of shape {x.shape}")
    shape = b.shape([d + lo + hi for d, (lo, hi) in zip(x.shape, pairs, strict=True)], x.dtype.itemsize)
    if shape == x.shape:
        return x
    if x.is_const:
        if x.dtype.kind not in "fiu":
            b.unsupported(f"padding of {x.dtype}")
        extra = {"constant_values": value} if mode == "constant" else {}
        return b.fold(
            ("pad", tuple(pairs), mode, value), [x], shape, x.dtype,
            lambda a: np.pad(a, pairs, mode=mode, **extra),  # type: ignore[call-overload]
        )  # fmt: skip
    if mode == "wrap":
        for a, (lo, hi) in enumerate(pairs):
            if lo + x.shape[a] + hi > MAX_TABLE:
                b.unsupported(f"pads {tuple(pads)} with mode 'wrap'")
            if lo or hi:
                x = b.pick(x, a, [i % x.shape[a] for i in range(-lo, x.shape[a] + hi)])
        return x
    return b.emit("Pad", [x], shape, pads=tuple(pairs), value=value, mode=mode)


@operator
def Pad(b: Builder, x: Value, *, pads: Ints, mode: str = "constant", value: float = 0.0) -> Value:
    return _pad(b, x, pads, mode, value)


@operator
def Pad_11(
    b: Builder,
    x: Value,
    pads: Value,
    constant_value: Value | None = None,
    axes: Value | None = None,
    *,
    mode: str = "constant",
) -> Value:
    numbers = b.ints(pads, "pads")
    if axes is not None:
        given = [b.axis(a, x.rank) for a in b.ints(axes, "axes")]
        if len(set(given)) != len(given) or len(numbers) != 2 * len(given):
            b.fail(f"pads {numbers} and axes {given} do not fit together")
        full = [0] * (2 * x.rank)
        for i, a in enumerate(given):
            full[a], full[a + x.rank] = numbers[i], numbers[i + len(given)]
        numbers = tuple(full)
    value = 0.0 if constant_value is None or mode != "constant" else b.number(constant_value, "constant_value", x)
    return _pad(b, x, numbers, mode, value)
