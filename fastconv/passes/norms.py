"""Normalisations that exporters spell out become one node again.

layer    (x - mean) / sqrt(mean((x - mean)^2) + epsilon) over one axis            -> LayerNormalization
group    PyTorch's GroupNorm: x as [N, G, rest], each of the G a channel, and back -> GroupNormalization of x
scale, shift    a Mul and an Add with vectors along the normalised axis behind either join the node
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ..graph import Array, Graph, Node, Value, Weight
from .rewrite import Draft, is_float, scalar


def restore_norms(graph: Graph) -> Graph:
    """One forward sweep; the graph is in ONNX order."""
    draft = Draft(graph)
    for node in draft:
        if not node.outputs or not is_float(node.output) or "activation" in node.attrs:
            continue
        if node.op == "Div":
            _layer(draft, node)
        elif node.op == "Reshape":
            _group(draft, node)
        elif node.op in ("Mul", "Add"):
            _join(draft, node)
    return draft.finish()


def _mean_of(draft: Draft, v: Value) -> tuple[Value, int] | None:
    """(x, axis) if v is the mean of x over one axis that is kept."""
    node = draft.producer(v, "ReduceMean")
    if node is None or not node.attrs.get("keepdims", 1) or len(node.attrs["axes"]) != 1:
        return None
    return node.input(0), int(node.attrs["axes"][0])


def _is_square(draft: Draft, v: Value, of: Value) -> bool:
    node = draft.producer(v, "Pow", "Mul")
    if node is None or node.input(0) is not of or "activation" in node.attrs:
        return False
    return node.input(1) is of if node.op == "Mul" else scalar(node.input(1)) == 2.0


def _layer(draft: Draft, node: Node) -> None:
    centred = node.input(0)
    root, sub = draft.producer(node.input(1), "Sqrt"), draft.producer(centred, "Sub")
    if root is None or sub is None or "activation" in sub.attrs or centred.shape != node.output.shape:
        return
    shifted = draft.producer(root.input(0), "Add")
    if shifted is None or "activation" in shifted.attrs:
        return
    epsilon = scalar(shifted.input(1))
    variance, mean = _mean_of(draft, shifted.input(0)), _mean_of(draft, sub.input(1))
    if epsilon is None or epsilon < 0 or variance is None or mean is None or shifted.output.shape != root.output.shape:
        return
    x = sub.input(0)
    if mean != (x, variance[1]) or not _is_square(draft, variance[0], centred):
        return
    draft.change(node, "LayerNormalization", [x, None, None], {"axis": mean[1], "epsilon": epsilon})


def _group(draft: Draft, node: Node) -> None:
    """Reshape(GroupNormalization(Reshape(x))) where the inner shape is (N, G, 1, rest) and each of G a group."""
    norm = draft.producer(node.input(0), "GroupNormalization")
    if norm is None or not draft.private(norm.output):
        return
    before = draft.producer(norm.input(0), "Reshape")
    if before is None or before.input(0).shape != node.output.shape or node.output.rank != 4:
        return
    x, (n, groups, *_) = before.input(0), norm.output.shape
    channels = x.shape[1]
    if x.shape[0] != n or norm.attrs["groups"] != groups or channels % groups:
        return
    vectors: list[Value | None] = []
    for i in (1, 2):
        v = norm.optional(i)
        if v is not None:
            if v.weight is None:
                return
            repeats = channels // groups
            w = v.weight.derive((channels,), v.dtype, partial(np.repeat, repeats=repeats), ("repeat", repeats))
            v = Value(draft.graph.fresh(v.name), (channels,), v.dtype, w)
        vectors.append(v)
    draft.change(node, "GroupNormalization", [x, *vectors], {**norm.attrs, "groups": groups})


def _join(draft: Draft, node: Node) -> None:
    """y * scale or y + shift behind a normalisation that has room for it."""
    for y, c in ((node.input(0), node.input(1)), (node.input(1), node.input(0))):
        norm = draft.producer(y, "LayerNormalization", "GroupNormalization")
        if norm is None or not draft.private(y) or c.weight is None or y.shape != node.output.shape:
            continue
        axis = norm.attrs.get("axis", 1)
        vector = _along(c, y.rank, axis, y.shape[axis])
        if vector is None:
            return
        scale, shift = norm.optional(1), norm.optional(2)
        if any(v is not None and v.weight is None for v in (scale, shift)):
            return
        old_scale = np.ones(y.shape[axis]) if scale is None else scale.numpy().astype(np.float64)
        old_shift = np.zeros(y.shape[axis]) if shift is None else shift.numpy().astype(np.float64)
        by, add = (vector, 0.0) if node.op == "Mul" else (1.0, vector)
        new = [_constant(draft, norm, old_scale * by), _constant(draft, norm, old_shift * by + add)]
        draft.change(norm, norm.op, [norm.input(0), *new], norm.attrs)
        draft.take_over(norm, node)
        return


def _along(c: Value, rank: int, axis: int, size: int) -> Array | None:
    """The constant as a vector along one axis, None if it varies along another."""
    shape = (1,) * (rank - c.rank) + c.shape
    if c.rank > rank or any(d != 1 for i, d in enumerate(shape) if i != axis) or size > 65536:
        return None
    return np.broadcast_to(c.numpy().astype(np.float64).reshape(-1), (size,))


def _constant(draft: Draft, node: Node, array: Array) -> Value:
    """A vector known by its contents, so that plans for several shapes share it."""
    vector = np.ascontiguousarray(array, np.float32)
    weight = Weight.of(vector)
    weight.key = ("small", vector.dtype.str, vector.shape, vector.tobytes())
    return draft.graph.constant(weight, draft.graph.fresh(f"{node.name}.vector"))
