"""Weights that a step of training changes: packed by an operation of the plan, in the workspace of the node that reads
them. `turned` weights are those of the gradient of a convolution's input: columns and depth change places, and at
stride 1 the filter is turned by half a circle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .graph import Array, Node, Weight
from .views import View

if TYPE_CHECKING:
    from .compiler import Compiler
    from .selection import Choice
    from .target import Target


def turn(w: Array, groups: int, flip: bool) -> Array:
    """w[K, C/groups, R, S] as [C, K/groups, R, S], each filter turned by half a circle where `flip`."""
    K, cg, R, S = w.shape
    turned = w.reshape(groups, K // groups, cg, R, S).swapaxes(1, 2).reshape(groups * cg, K // groups, R, S)
    return np.ascontiguousarray(turned[:, :, ::-1, ::-1] if flip else turned)


def turned_weight(node: Node, groups: int, flip: bool = True) -> Weight:
    """Input 1 of a gradient, a constant, turned."""
    w = node.input(1).weight
    assert w is not None
    K, cg, R, S = w.shape
    shape = (cg * groups, K // groups, R, S)
    return w.derive(shape, w.dtype, lambda x: turn(x, groups, flip), ("turn", groups, flip))


def _conv_desc(node: Node, turned: bool, flip: bool, depthwise: bool) -> Any:
    K, cg, R, S = node.input(1).shape
    groups, taps = node.attrs["group"], R * S
    layout = _core.PanelLayout.depthwise if depthwise else _core.PanelLayout.conv2d
    if depthwise:
        return _core.PackWeights(K=K, C=1, taps=taps, groups=1, w_k=taps, w_c=1, w_tap=1, flip=int(flip), layout=layout)
    whole = K // groups * cg * taps
    if turned:
        return _core.PackWeights(
            K=cg * groups, C=K, taps=taps, groups=groups, w_k=taps, w_c=cg * taps, w_tap=1, w_group=whole,
            flip=int(flip), layout=layout,
        )  # fmt: skip
    return _core.PackWeights(
        K=K, C=cg * groups, taps=taps, groups=groups, w_k=cg * taps, w_c=taps, w_tap=1, w_group=whole, layout=layout
    )


def linear_panel(node: Node, isa: _core.Isa, target: Target) -> int:
    """The columns of a panel of a dense layer's weights; 0: as a convolution's."""
    *rows, C = node.input(0).shape
    return target.linear_panel(math.prod(rows), C, node.output.shape[-1], isa)


def _linear_desc(node: Node, isa: _core.Isa, target: Target) -> Any:
    # `matmul` reads w as it lies and is slower: 49 ms where packing and a dense layer took 19 + 19 (16 rows, 12544 to
    # 4096, a Zen 5 core), as its rows of two vectors lie 16 KB apart.
    w = node.input(1)
    K, C = w.shape if node.attrs.get("trans_b") else w.shape[::-1]
    strides = (C, 1) if node.attrs.get("trans_b") else (1, K)
    panel = linear_panel(node, isa, target)
    layout = _core.PanelLayout.linear if panel else _core.PanelLayout.conv2d
    return _core.PackWeights(
        K=K, C=C, taps=1, groups=1, w_k=strides[0], w_c=strides[1], w_tap=1, panel=panel, layout=layout
    )


def _desc(node: Node, isa: _core.Isa, target: Target, choice: Choice | None) -> Any:
    if node.op == "Gemm":
        return _linear_desc(node, isa, target)
    if node.op == "ConvBackwardInput":
        C, K, groups = node.output.shape[-1], node.input(0).shape[-1], node.attrs["group"]
        return _conv_desc(node, True, False, groups > 1 and groups == C == K)
    assert choice is not None
    turned = bool(node.attrs.get("turned"))
    desc = _conv_desc(node, turned, turned, choice.algorithm == "depthwise")
    desc.m = choice.m
    return desc


def _kernel(choice: Choice | None) -> _core.Op:
    winograd = choice is not None and choice.algorithm == "winograd"
    return _core.Op.pack_winograd_weights if winograd else _core.Op.pack_weights


def packed_bytes(node: Node, isa: _core.Isa, target: Target, choice: Choice | None = None) -> int:
    """The bytes of the packed weights in the node's workspace; none for constants."""
    if node.input(1).is_const:
        return 0
    return 4 * target.extent(_desc(node, isa, target, choice), isa, _kernel(choice))[1]


def pack_at_run_time(c: Compiler, node: Node, choice: Choice | None = None) -> int:
    """The tensor of input 1, packed by an operation that is appended here."""
    desc = _desc(node, c.isa, c.target, choice)
    op = _kernel(choice)
    w, size = c.view(node.input(1)), c.target.extent(desc, c.isa, op)[1]
    first = (c.workspace(node) + node.attrs.get("packed_at", 0)) // 4
    packed = c.tensor(View("arena", None, first, (size,), (1,)))
    c.emit(op.name, desc, [c.tensor(w)], packed, node, "pack", 0, 4 * (math.prod(w.shape) + size))
    return packed


def pack_input_gradient(c: Compiler, node: Node, depthwise: bool) -> int:
    """Weights of ConvBackwardInput, where no forward convolution does it."""
    if not node.input(1).is_const:
        return pack_at_run_time(c, node)
    if depthwise:
        return c.pack_constant(node, ("depthwise",), c.packer.depthwise)
    groups = node.attrs["group"]
    source = turned_weight(node, groups, flip=False)
    return c.pack_constant(node, ("phases", groups), lambda w, s: c.packer.conv2d(w, s, groups), source)
