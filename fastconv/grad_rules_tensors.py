"""Backward rules of operations that move, broadcast, choose and reduce numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .errors import UnsupportedOpError
from .grad import Gradient, Tape, backward
from .graph import Array, Node, Shape, Value


# -- arithmetic -----------------------------------------------------------------------------------------------------
@backward("Add", "Sub")
def add(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    a, b = node.input(0), node.input(1)
    db = None
    if t.needs(b):
        db = t.sum_to(g, b.shape)
        db = db if node.op == "Add" else t.add("Neg", [db], b.shape)
    return t.sum_to(g, a.shape) if t.needs(a) else None, db


@backward("Mul")
def mul(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    a, b = node.input(0), node.input(1)
    return (
        t.sum_to(t.mul(g, b), a.shape) if t.needs(a) else None,
        t.sum_to(t.mul(g, a), b.shape) if t.needs(b) else None,
    )


@backward("Div")
def div(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    a, b = node.input(0), node.input(1)
    share = t.add("Div", [g, b], g.shape)
    db = None
    if t.needs(b):
        product = t.add("Mul", [share, node.output], g.shape)
        db = t.sum_to(t.add("Neg", [product], g.shape), b.shape)
    return t.sum_to(share, a.shape) if t.needs(a) else None, db


@backward("Pow")
def power(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    a, b = node.input(0), node.input(1)
    da = db = None
    if t.needs(a):
        less = t.constant(b.numpy() - 1.0) if b.is_const else t.add("Sub", [b, t.number(1.0, b.rank)], b.shape)
        slope = t.add("Mul", [t.add("Pow", [a, less], g.shape), b], g.shape)
        da = t.sum_to(t.add("Mul", [g, slope], g.shape), a.shape)
    if t.needs(b):
        slope = t.add("Mul", [node.output, t.add("Log", [a], a.shape)], g.shape)
        db = t.sum_to(t.add("Mul", [g, slope], g.shape), b.shape)
    return da, db


@backward("Max", "Min")
def extreme(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    """The larger (smaller) one gets the gradient; equal ones share it."""
    a, b = node.input(0), node.input(1)
    half, zero = t.scale(g, 0.5), t.number(0.0, g.rank)
    equal = t.add("Equal", [a, b], g.shape, dtype=bool)
    found: list[Gradient] = []
    for mine, other in ((a, b), (b, a)):
        order = [other, mine] if node.op == "Max" else [mine, other]
        wins = t.add("Less", order, g.shape, dtype=bool)
        part = t.add("Where", [wins, g, t.add("Where", [equal, half, zero], g.shape)], g.shape)
        found.append(t.sum_to(part, mine.shape) if t.needs(mine) else None)
    return found


@backward("PRelu")
def prelu(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x, slope = node.input(0), node.input(1)
    zero = t.number(0.0, g.rank)
    below = t.add("Less", [x, zero], x.shape, dtype=bool)
    dx = dslope = None
    if t.needs(x):
        dx = t.add("Where", [below, t.add("Mul", [g, slope], g.shape), g], g.shape)
    if t.needs(slope):
        product = t.add("Mul", [g, x], g.shape)
        dslope = t.sum_to(t.add("Where", [below, product, zero], g.shape), slope.shape)
    return dx, dslope


@backward("Where")
def where(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    condition, a, b = (node.input(i) for i in range(3))
    zero = t.number(0.0, g.rank)
    return (
        None,
        t.sum_to(t.add("Where", [condition, g, zero], g.shape), a.shape) if t.needs(a) else None,
        t.sum_to(t.add("Where", [condition, zero, g], g.shape), b.shape) if t.needs(b) else None,
    )


# -- reductions and broadcasting ------------------------------------------------------------------------------------
def _kept(t: Tape, node: Node, g: Value) -> Value:
    """g with the reduced axes as axes of size 1."""
    x, axes = node.input(0), node.attrs["axes"]
    return t.reshape(g, tuple(1 if i in axes else d for i, d in enumerate(x.shape)))


@backward("ReduceSum", "ReduceMean")
def reduce_sum(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x = node.input(0)
    wide = _kept(t, node, g)
    if node.op == "ReduceMean":
        wide = t.scale(wide, 1.0 / math.prod(x.shape[a] for a in node.attrs["axes"]))
    return (t.expand(wide, x.shape),)


@backward("ReduceMax", "ReduceMin")
def reduce_extreme(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    """Equal extremes share the gradient, as torch.amax does it."""
    x, axes = node.input(0), node.attrs["axes"]
    y = _kept(t, node, node.output)
    equal = t.add("Equal", [x, y], x.shape, dtype=bool)
    mask = t.add("Where", [equal, t.number(1.0, x.rank), t.number(0.0, x.rank)], x.shape)
    count = t.add("ReduceSum", [mask], y.shape, axes=axes, keepdims=1)
    share = t.add("Div", [_kept(t, node, g), count], y.shape)
    return (t.add("Mul", [mask, share], x.shape),)


@backward("Expand")
def expand(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    return (t.sum_to(g, node.input(0).shape),)


# -- moving ---------------------------------------------------------------------------------------------------------
@backward("Transpose")
def transpose(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    perm = node.attrs["perm"]
    back = tuple(list(perm).index(i) for i in range(len(perm)))
    return (t.add("Transpose", [g], node.input(0).shape, perm=back),)


@backward("Reshape")
def reshape(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    return (t.reshape(g, node.input(0).shape),)


@backward("Concat")
def concat(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    axis, at = node.attrs["axis"], 0
    found: list[Gradient] = []
    for v in node.inputs:
        assert v is not None
        starts = tuple(at if i == axis else 0 for i in range(g.rank))
        found.append(t.add("Slice", [g], v.shape, starts=starts, steps=(1,) * g.rank) if t.needs(v) else None)
        at += v.shape[axis]
    return found


@backward("Slice")
def slice_(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x, starts, steps = node.input(0), node.attrs["starts"], node.attrs["steps"]
    for axis, step in enumerate(steps):  # zeros between the elements: an axis behind, padded and merged again
        if step > 1 and g.shape[axis] > 1:
            d = g.shape[axis]
            g = t.reshape(g, (*g.shape[: axis + 1], 1, *g.shape[axis + 1 :]))
            pads = tuple((0, step - 1) if i == axis + 1 else (0, 0) for i in range(g.rank))
            g = _pad(t, g, pads)
            g = t.reshape(g, (*g.shape[:axis], d * step, *g.shape[axis + 2 :]))
            if g.shape[axis] > x.shape[axis] - starts[axis]:
                kept = tuple((d - 1) * step + 1 if i == axis else s for i, s in enumerate(g.shape))
                g = t.add("Slice", [g], kept, starts=(0,) * g.rank, steps=(1,) * g.rank)
    pads = tuple((s, d - s - n) for s, d, n in zip(starts, x.shape, g.shape, strict=True))
    return (_pad(t, g, pads),)


def _pad(t: Tape, g: Value, pads: Sequence[tuple[int, int]]) -> Value:
    shape = tuple(before + d + after for (before, after), d in zip(pads, g.shape, strict=True))
    return t.add("Pad", [g], shape, pads=tuple(pads), value=0.0, mode="constant")


@backward("Pad")
def pad(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x, pads, mode = node.input(0), node.attrs["pads"], node.attrs.get("mode", "constant")
    if mode == "constant":
        grow = tuple((max(0, -before), max(0, -after)) for before, after in pads)
        starts = tuple(max(0, before) for before, _ in pads)
        ends = tuple(d - max(0, after) for d, (_, after) in zip(g.shape, pads, strict=True))
        if any(starts) or ends != g.shape:
            inner = tuple(e - s for s, e in zip(starts, ends, strict=True))
            g = t.add("Slice", [g], inner, starts=starts, steps=(1,) * g.rank)
        return (_pad(t, g, grow) if any(map(any, grow)) else g,)
    for axis, (before, after) in enumerate(pads):
        if before or after:
            index = np.pad(np.arange(x.shape[axis]), (before, after), mode=mode)
            g = _resample_back(t, g, axis, index[:, None], None, x.shape[axis])
    return (g,)


@backward("Resample")
def resample(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x, index, weight = node.input(0), node.input(1), node.optional(2)
    axis, taps = node.attrs["axis"], node.attrs["taps"]
    if not index.is_const or (weight is not None and not weight.is_const):
        raise UnsupportedOpError(f"node {node.name!r} (Resample): no gradient where the indices are computed")
    rows = index.numpy().astype(np.int64).reshape(-1, taps)
    weights = None if weight is None else weight.numpy().reshape(-1, taps)
    return (_resample_back(t, g, axis, rows, weights, x.shape[axis]),)


def _resample_back(t: Tape, g: Value, axis: int, index: Array, weight: Array | None, size: int) -> Value:
    """The sum over t of weight[p, t] g[p] at index[p, t]: a Resample with the transposed table."""
    wide = np.ones(index.shape) if weight is None else weight
    readers: list[list[tuple[int, float]]] = [[] for _ in range(size)]
    for (p, _), i, f in zip(np.ndindex(index.shape), index.reshape(-1), wide.reshape(-1), strict=True):
        readers[int(i)].append((p, float(f)))
    taps = max(1, max(map(len, readers)))
    rows, factors = np.zeros((size, taps), np.int64), np.zeros((size, taps), np.float32)
    for i, pairs in enumerate(readers):
        for k, (p, f) in enumerate(pairs):
            rows[i, k], factors[i, k] = p, f
    shape: Shape = tuple(size if i == axis else d for i, d in enumerate(g.shape))
    inputs = [g, t.graph.constant(rows.reshape(-1)), t.constant(factors.reshape(-1))]
    return t.add("Resample", inputs, shape, axis=axis, taps=taps)
