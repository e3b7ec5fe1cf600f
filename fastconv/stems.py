"""Convolutions of few channels: each filter row is one run over the image, or over a copy that carries its padding.

Where the outputs of a pixel are less than half a vector, neighbouring pixels share one: to the kernel they are one
pixel of `group` times as many outputs and `group` times the stride, whose filters are zero where the others reach. The
result is the same sum in the same order, but for zeros; so an infinite pixel makes NaN of its neighbours too, and
precision "strict" does without.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .graph import Array, Node, Value, Weight
from .selection import Shape
from .views import View, round_up, row_strides

if TYPE_CHECKING:
    from .compiler import Compiler


def group_of(c: Compiler, node: Node, shape: Shape) -> int:
    """How many neighbouring outputs share a vector."""
    bias = node.optional(2)
    constant = node.input(1).is_const and (bias is None or bias.is_const) and not node.attrs.get("turned")
    views = [c.view(v) for v in (node.output, node.optional(3)) if v is not None]
    if not c.target.groups_pixels or c.selection.strict or not constant or any(v.ld != shape.K for v in views):
        return 1
    return _core.row_run_group(shape.core, c.isa)


def spread(w: Weight, group: int, stride: int) -> Weight:
    """w [K, C, R, S] as [group K, C, R, S + (group - 1) stride]: output i of a group is shifted by i strides."""
    K, C, R, S = w.shape
    wide = S + (group - 1) * stride

    def fill(x: Array) -> Array:
        y = np.zeros((group, K, C, R, wide), x.dtype)
        for i in range(group):
            y[i, ..., i * stride : i * stride + S] = x
        return y.reshape(group * K, C, R, wide)

    return w.derive((group * K, C, R, wide), w.dtype, fill, ("neighbours", group, stride))


def repeated(c: Compiler, bias: Value | None, group: int) -> int:
    """The tensor of a constant bias, `group` times one behind the other; -1 where it is absent."""
    if bias is None or bias.weight is None or group == 1:
        return c.constant(bias)
    weight = bias.weight.derive((group * bias.size,), bias.dtype, lambda x: np.tile(x, group), ("repeated", group))
    return c.constant(Value(f"{bias.name}//{group}", weight.shape, weight.dtype, weight))


def grouped(geometry: dict[str, Any], group: int, stride: int) -> dict[str, Any]:
    """The fields that `group` outputs as one pixel have."""
    g = geometry
    ld = {name: group * g[name] for name in ("y_ld", "res_ld")}
    return {**g, **ld, "K": group * g["K"], "Q": g["Q"] // group, "S": g["S"] + (group - 1) * stride,
            "stride_w": group * stride}  # fmt: skip


def padded(c: Compiler, node: Node, shape: Shape, x: View, seconds: float) -> tuple[int, dict[str, Any], float]:
    """Appends the copy of the image: its tensor, the fields of Conv2d that it changes, and what the cost model expects
    the copy to take out of `seconds` of both. A dense image that needs no padding is taken as it is."""
    N, H, W, C = shape[:4]
    top, left, bottom, right = shape.pads
    Hp, Wp, Cp = H + top + bottom, W + left + right, round_up(C, c.channel_unit(node))
    if not any(shape.pads) and "x_perm" not in node.attrs and x.ld == C == Cp:
        return c.tensor(x), {}, 0.0
    dims = (N, Hp, Wp, Cp)
    copy = View("arena", None, c.workspace(node) // 4, dims, row_strides(dims))
    source = x.strides
    if "x_perm" in node.attrs:  # straight from the planes of the model's input
        source = tuple(x.strides[i] for i in node.attrs["x_perm"])
    pad_desc = _core.Pad(
        rank=4, dims=dims, x_dims=(N, H, W, C), before=(0, top, left, 0), x_stride=source, y_stride=copy.strides,
        mode=_core.PadMode.constant, value=0.0,
    )  # fmt: skip
    moved = 4 * (N * H * W * C + math.prod(dims))
    border = min(seconds / 2, _core.moved_seconds(moved, c.isa))
    tensor = c.tensor(copy)
    c.emit("pad", pad_desc, [c.tensor(x)], tensor, node, "border", 0, moved, seconds=border)
    fields = dict(H=Hp, W=Wp, C=Cp, pad_t=0, pad_l=0, x_ld=Cp, x_row=Wp * Cp, x_image=Hp * Wp * Cp)
    return tensor, fields, border
