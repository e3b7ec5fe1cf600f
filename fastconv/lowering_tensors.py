"""Lowering of operations that pick, choose, sort and normalise; see lowering.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import _core
from .graph import Node
from .lowering import lowers
from .views import View, broadcast_strides, collapse

if TYPE_CHECKING:
    from .compiler import Compiler


@lowers("Where")
def where(c: Compiler, node: Node) -> None:
    views, y = [c.view(node.input(i)) for i in range(3)], c.view(node.output)
    dims, (dc, da, db, dy) = collapse(y.shape, *(broadcast_strides(v, y.shape) for v in views), y.strides)
    desc = _core.Where(rank=len(dims), dims=dims, c_stride=dc, a_stride=da, b_stride=db, y_stride=dy)
    c.emit("where", desc, [c.tensor(v) for v in views], c.tensor(y), node, "choose", math.prod(dims))


@lowers("Resample")
def resample(c: Compiler, node: Node) -> None:
    x, y, axis, taps = c.view(node.input(0)), c.view(node.output), node.attrs["axis"], node.attrs["taps"]
    n, P = x.shape[axis], y.shape[axis]
    outer = math.prod(x.shape[:axis])
    if axis == len(x.shape) - 1:  # dense, see prepare.py
        rows, C, x_n, y_p = 1, 1, 1, 1
    else:
        rows, C = math.prod(x.shape[axis + 1 : -1]), x.shape[-1]
        x_n, y_p = rows * x.ld, rows * y.ld
    desc = _core.Resample(
        outer=outer, n=n, P=P, taps=taps, rows=rows, C=C, x_outer=n * x_n, x_n=x_n, x_row=x.ld, y_outer=P * y_p,
        y_p=y_p, y_row=y.ld,
    )  # fmt: skip
    inputs = [c.tensor(x), c.constant(node.input(1)), c.constant(node.optional(2))]
    flops = 2 * outer * P * rows * C * taps if node.optional(2) else 0
    c.emit("resample", desc, inputs, c.tensor(y), node, f"{taps} taps", flops)


@lowers("AffineSample")
def affine_sample(c: Compiler, node: Node) -> None:
    x, y, a = c.view(node.input(0)), c.view(node.output), node.attrs
    (N, H, W, C), (_, P, Q, _) = x.shape, y.shape
    desc = _core.AffineSample(
        N=N, H=H, W=W, C=C, P=P, Q=Q, x_ld=x.ld, y_ld=y.ld, fill=getattr(_core.FillMode, a["fill_mode"]),
        bilinear=int(a["interpolation"] == "bilinear"), value=a["fill_value"],
    )  # fmt: skip
    inputs = [c.tensor(x), c.tensor(c.view(node.input(1)))]
    c.emit("affine_sample", desc, inputs, c.tensor(y), node, a["interpolation"], 8 * N * P * Q * C)


def _normalize(c: Compiler, node: Node, x: View, y: View, outer: int, rows: int, groups: int, width: int) -> None:
    desc = _core.Normalize(
        outer=outer, rows=rows, groups=groups, width=width, x_outer=rows * x.ld, x_row=x.ld, y_outer=rows * y.ld,
        y_row=y.ld, epsilon=node.attrs["epsilon"],
    )  # fmt: skip
    vectors = [c.tensor(c.view(v)) if v is not None else -1 for v in (node.optional(1), node.optional(2))]
    c.emit("normalize", desc, [c.tensor(x), *vectors], c.tensor(y), node, "normalize", 8 * x.rows * x.width)


@lowers("LayerNormalization")
def layer_normalization(c: Compiler, node: Node) -> None:
    x, y = c.view(node.input(0)), c.view(node.output)
    _normalize(c, node, x, y, x.rows, 1, 1, x.width)


@lowers("GroupNormalization")
def group_normalization(c: Compiler, node: Node) -> None:
    x, y, groups = c.view(node.input(0)), c.view(node.output), node.attrs["groups"]
    _normalize(c, node, x, y, x.shape[0], math.prod(x.shape[1:-1]), groups, x.width // groups)


@lowers("TopK")
def topk(c: Compiler, node: Node) -> None:
    x, y, axis, k = c.view(node.input(0)), c.view(node.output), node.attrs["axis"], node.attrs["k"]
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    desc = _core.TopK(outer=outer, n=n, inner=inner, k=k, largest=int(node.attrs["largest"]))
    c.emit("topk", desc, [c.tensor(x)], c.tensor(y), node, "heap", outer * n * inner)


@lowers("Take")
def take(c: Compiler, node: Node) -> None:
    x, index, y, axis = c.view(node.input(0)), c.view(node.input(1)), c.view(node.output), node.attrs["axis"]
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    desc = _core.Take(outer=outer, n=n, inner=inner, k=y.shape[axis])
    c.emit("take", desc, [c.tensor(x), c.tensor(index)], c.tensor(y), node, "gather")


@lowers("Suppress")
def suppress(c: Compiler, node: Node) -> None:
    a, (images, classes, boxes) = node.attrs, node.input(1).shape
    desc = _core.Suppress(
        images=images, boxes=boxes, classes=classes, most=a["most"], iou=a["iou"],
        score=0.0 if a["score"] is None else a["score"], center=int(a["center"]), has_score=int(a["score"] is not None),
    )  # fmt: skip
    inputs = [c.tensor(c.view(node.input(i))) for i in range(3)]
    c.emit("suppress", desc, inputs, c.tensor(c.view(node.output)), node, "greedy")
