"""Lowering of operations that only move numbers: copies with strides, and borders; see lowering.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import _core
from .errors import UnsupportedOpError
from .graph import Node
from .lowering import lowers
from .views import View, broadcast_strides, collapse, row_strides

if TYPE_CHECKING:
    from .compiler import Compiler


def copy(c: Compiler, node: Node, x: View, y: View, dims: Sequence[int], xs: Sequence[int], ys: Sequence[int]) -> None:
    """y[i] = x[i] over dims with these strides."""
    short, (sx, sy) = collapse(dims, xs, ys)
    desc = _core.Copy(rank=len(short), dims=short, x_stride=sx, y_stride=sy)
    c.emit("copy", desc, [c.tensor(x)], c.tensor(y), node, "copy")


@lowers("Copy")
def plain_copy(c: Compiler, node: Node) -> None:
    x, y = c.view(node.input(0)), c.view(node.output)
    copy(c, node, x, y, x.shape, x.strides, y.strides)


@lowers("Transpose")
def transpose(c: Compiler, node: Node) -> None:
    x, y, perm = c.view(node.input(0)), c.view(node.output), node.attrs["perm"]
    copy(c, node, x, y, y.shape, [x.strides[p] for p in perm], y.strides)


@lowers("Expand")
def expand(c: Compiler, node: Node) -> None:
    x, y = c.view(node.input(0)), c.view(node.output)
    copy(c, node, x, y, y.shape, broadcast_strides(x, y.shape), y.strides)


@lowers("Reshape")
def reshape(c: Compiler, node: Node) -> None:
    if 0 not in c.memory.copies.get(node, ()):
        return
    x, y = c.view(node.input(0)), c.view(node.output)
    shape = x.shape if y.dense else y.shape
    dense = row_strides(shape)
    copy(c, node, x, y, shape, x.strides if y.dense else dense, dense if y.dense else y.strides)


@lowers("Slice")
def slice_(c: Compiler, node: Node) -> None:
    if 0 not in c.memory.copies.get(node, ()):
        return
    x, y = c.view(node.input(0)), c.view(node.output)
    starts, steps = node.attrs["starts"], node.attrs["steps"]
    if any(s < 0 for s in steps):
        raise UnsupportedOpError(f"node {node.name!r} (Slice): negative steps {list(steps)} at run time")
    first = x.first + sum(s * t for s, t in zip(starts, x.strides, strict=True))
    part = View(x.kind, x.base, first, y.shape, tuple(s * t for s, t in zip(steps, x.strides, strict=True)))
    copy(c, node, part, y, y.shape, part.strides, y.strides)


@lowers("Concat")
def concat(c: Compiler, node: Node) -> None:
    y, axis, at = c.view(node.output), node.attrs["axis"], 0
    wanted = c.memory.copies.get(node, ())
    for i, value in enumerate(node.inputs):
        assert value is not None
        if i in wanted:
            part = View(y.kind, y.base, y.first + at * y.strides[axis], value.shape, y.strides)
            x = c.view(value)
            copy(c, node, x, part, value.shape, x.strides, part.strides)
        at += value.shape[axis]


@lowers("Pad")
def pad(c: Compiler, node: Node) -> None:
    x, y, a = c.view(node.input(0)), c.view(node.output), node.attrs
    desc = _core.Pad(
        rank=len(y.shape), dims=y.shape, x_dims=x.shape, before=[before for before, _ in a["pads"]], x_stride=x.strides,
        y_stride=y.strides, mode=getattr(_core.PadMode, a.get("mode", "constant")), value=float(a.get("value", 0.0)),
    )  # fmt: skip
    c.emit("pad", desc, [c.tensor(x)], c.tensor(y), node, "pad")
