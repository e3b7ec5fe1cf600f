"""Shape-level clean-up: nodes that do nothing vanish, chains of Reshape, Transpose and Clip become one, Pad joins Conv.

`channels_last` says where the image axes are: False for a logical graph (N C H W), True for a physical one (N H W C).
"""

from __future__ import annotations

import math

import numpy as np

from ..graph import Graph, Node, Value
from .rewrite import BINARY, Draft, is_float, scalar


def simplify(graph: Graph, channels_last: bool = False) -> Graph:
    """One forward sweep; each node meets its rules until none applies."""
    draft = Draft(graph)
    for node in draft:
        while draft.alive(node) and _step(draft, node, channels_last):
            pass
    return draft.finish()


def _step(draft: Draft, node: Node, channels_last: bool) -> bool:
    if _is_identity(node) and draft.bypass(node):
        return True
    rule = _RULES.get(node.op)
    if rule is not None and rule(draft, node):
        return True
    if node.op in ("Conv", "AveragePool", "MaxPool"):
        return _join_pad(draft, node, channels_last) or _global_pool(draft, node, channels_last)
    return node.op in BINARY and _skip_expand(draft, node)


def _is_identity(node: Node) -> bool:
    """True if the output equals the first input, shape and all."""
    at = node.attrs
    if "activation" in at or not node.outputs or not node.inputs or node.inputs[0] is None:
        return False
    x, y = node.inputs[0], node.output
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if node.op in ("Reshape", "Expand", "Copy"):
        return True
    if node.op == "Slice":
        return all(t == 1 or d == 1 for t, d in zip(at["steps"], y.shape, strict=True)) and not any(at["starts"])
    if node.op == "Transpose":
        return list(at["perm"]) == list(range(x.rank))
    if node.op == "Pad":
        return not any(p for pair in at["pads"] for p in pair)
    if node.op == "Concat":
        return len(node.inputs) == 1
    if node.op == "Clip":
        return _limits(node) == (-math.inf, math.inf)
    if node.op in ("MaxPool", "AveragePool"):
        return all(k == 1 for k in at["kernel_shape"]) and not any(at.get("pads", (0, 0, 0, 0)))
    if node.op in ("Mul", "Div"):
        return scalar(node.inputs[1]) == 1.0
    if node.op in ("Add", "Sub"):
        return scalar(node.inputs[1]) == 0.0
    if node.op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"):
        return all(x.shape[a] == 1 for a in at["axes"])
    return False


# -- chains -----------------------------------------------------------------------------------------------------
def _merge_reshape(draft: Draft, node: Node) -> bool:
    before = draft.producer(node.input(0), "Reshape")
    if before is None:
        return False
    draft.change(node, "Reshape", [before.input(0)], dict(node.attrs))
    return True


def _merge_transpose(draft: Draft, node: Node) -> bool:
    x, perm = node.input(0), tuple(node.attrs["perm"])
    long_axes = [a for a in perm if x.shape[a] != 1]
    if long_axes == sorted(long_axes):
        draft.change(node, "Reshape", [x], {})  # only axes of size 1 move
        return True
    before = draft.producer(x, "Transpose")
    if before is None:
        return False
    first = before.attrs["perm"]
    draft.change(node, "Transpose", [before.input(0)], {**node.attrs, "perm": tuple(first[a] for a in perm)})
    return True


def _limits(node: Node) -> tuple[float, float]:
    if node.op == "Relu":
        return 0.0, math.inf
    return float(node.attrs.get("min", -math.inf)), float(node.attrs.get("max", math.inf))


def _merge_clip(draft: Draft, node: Node) -> bool:
    """Clip(Clip(x)) is one Clip; Clip(x, 0, inf) is Relu."""
    low, high = _limits(node)
    before = draft.producer(node.input(0), "Clip", "Relu")
    if before is None or not is_float(node.output) or not draft.private(before.output):
        if node.op == "Clip" and (low, high) == (0.0, math.inf):
            draft.change(node, "Relu", [node.input(0)], {})
            return True
        return False
    first = [min(max(v, low), high) for v in _limits(before)]
    if first == [0.0, math.inf]:
        draft.change(node, "Relu", [before.input(0)], {})
    else:
        draft.change(node, "Clip", [before.input(0)], {"min": first[0], "max": first[1]})
    return True


def _extreme_to_clip(draft: Draft, node: Node) -> bool:
    """Max and Min with one number are Clip."""
    for x, c in ((node.input(0), node.input(1)), (node.input(1), node.input(0))):
        bound = scalar(c)
        if bound is not None and is_float(x) and x.shape == node.output.shape and "activation" not in node.attrs:
            limits = (bound, math.inf) if node.op == "Max" else (-math.inf, bound)
            draft.change(node, "Clip", [x], {"min": limits[0], "max": limits[1]})
            return True
    return False


def _swap_operands(draft: Draft, node: Node) -> bool:
    """The constant of a commutative operation comes second."""
    a, b = node.input(0), node.input(1)
    if a.is_const and not b.is_const:
        draft.change(node, node.op, [b, a], node.attrs)
        return True
    return False


def _prelu_to_leaky(draft: Draft, node: Node) -> bool:
    slope = scalar(node.input(1))
    if slope is None or node.input(0).shape != node.output.shape or "activation" in node.attrs:
        return False
    draft.change(node, "LeakyRelu", [node.input(0)], {"alpha": slope})
    return True


def _skip_expand(draft: Draft, node: Node) -> bool:
    """A binary operation broadcasts by itself."""
    for i, v in enumerate(node.inputs):
        expand = draft.producer(v, "Expand")
        if expand is None:
            continue
        others = [u.shape for j, u in enumerate(node.inputs) if j != i and u is not None]
        if np.broadcast_shapes(expand.input(0).shape, *others) == node.output.shape:
            inputs: list[Value | None] = list(node.inputs)
            inputs[i] = expand.input(0)
            draft.change(node, node.op, inputs, node.attrs)
            return True
    return False


def _reduce_nothing(draft: Draft, node: Node) -> bool:
    """Without keepdims, reducing axes of size 1 is a Reshape (with keepdims it is nothing at all)."""
    if node.attrs.get("keepdims", 1) or any(node.input(0).shape[a] != 1 for a in node.attrs["axes"]):
        return False
    draft.change(node, "Reshape", [node.input(0)], {})
    return True


_RULES = {
    "ReduceMean": _reduce_nothing,
    "ReduceMax": _reduce_nothing,
    "ReduceMin": _reduce_nothing,
    "ReduceSum": _reduce_nothing,
    "Reshape": _merge_reshape,
    "Transpose": _merge_transpose,
    "Clip": _merge_clip,
    "Relu": _merge_clip,
    "Max": lambda d, n: _extreme_to_clip(d, n) or _swap_operands(d, n),
    "Min": lambda d, n: _extreme_to_clip(d, n) or _swap_operands(d, n),
    "Add": _swap_operands,
    "Mul": _swap_operands,
    "PRelu": _prelu_to_leaky,
}


# -- windows ----------------------------------------------------------------------------------------------------
def _image_axes(channels_last: bool) -> tuple[int, int]:
    return (1, 2) if channels_last else (2, 3)


def _overhang(node: Node, x: Value, axes: tuple[int, int]) -> bool:
    """True if a window reaches beyond the padding (ceil_mode)."""
    at = node.attrs
    pads, strides, dilations = at.get("pads", (0,) * 4), at.get("strides", (1, 1)), at.get("dilations", (1, 1))
    for i, a in enumerate(axes):
        reach = (node.output.shape[a] - 1) * strides[i] + (at["kernel_shape"][i] - 1) * dilations[i] + 1
        if reach > x.shape[a] + pads[i] + pads[i + 2]:
            return True
    return False


def _join_pad(draft: Draft, node: Node, channels_last: bool) -> bool:
    """Pad in front of a windowed operation becomes part of its own padding where that means exactly the same."""
    pad = draft.producer(node.inputs[0], "Pad")
    if pad is None or node.input(0).rank != 4 or pad.attrs.get("mode", "constant") != "constant":
        return False
    rows, cols = axes = _image_axes(channels_last)
    pads, value = pad.attrs["pads"], float(pad.attrs.get("value", 0.0))
    if any(p for a, pair in enumerate(pads) if a not in axes for p in pair) or min(*pads[rows], *pads[cols]) < 0:
        return False
    own, extra = node.attrs.get("pads", (0, 0, 0, 0)), {}
    if node.op == "MaxPool":
        if value != -math.inf and not (value == 0.0 and _zeros_lose(draft, node, pad, axes)):
            return False
    elif value != 0.0:
        return False
    if node.op == "AveragePool":
        if (any(own) and not node.attrs.get("count_include_pad", 0)) or _overhang(node, node.input(0), axes):
            return False
        extra = {"count_include_pad": 1}
    joined = (own[0] + pads[rows][0], own[1] + pads[cols][0], own[2] + pads[rows][1], own[3] + pads[cols][1])
    draft.change(node, node.op, [pad.input(0), *node.inputs[1:]], {**node.attrs, **extra, "pads": joined})
    return True


def _zeros_lose(draft: Draft, node: Node, pad: Node, axes: tuple[int, int]) -> bool:
    """True if zeros around x cannot win a maximum: x >= 0, and each window meets x (Keras pads ResNet's pool so)."""
    at, x = node.attrs, pad.input(0)
    if any(at.get("pads", (0,) * 4)) or any(d != 1 for d in at.get("dilations", (1, 1))):
        return False
    if _overhang(node, node.input(0), axes):
        return False
    if any(max(pad.attrs["pads"][a]) >= k for a, k in zip(axes, at["kernel_shape"], strict=True)):
        return False
    maker = draft.producer(x)
    if maker is None:
        return False
    act = maker.attrs.get("activation")
    if act is None:
        return maker.op in ("Relu", "Sigmoid") or (maker.op == "Clip" and _limits(maker)[0] >= 0.0)
    return act[0] in ("Relu", "Sigmoid") or (act[0] == "Clip" and act[1] >= 0.0)


def _global_pool(draft: Draft, node: Node, channels_last: bool) -> bool:
    """An average over the whole image is ReduceMean, which has one fast kernel."""
    x, y, axes = node.input(0), node.output, _image_axes(channels_last)
    if node.op != "AveragePool" or x.rank != 4 or any(node.attrs.get("pads", (0,) * 4)):
        return False
    if any(y.shape[a] != 1 or x.shape[a] != k for a, k in zip(axes, node.attrs["kernel_shape"], strict=True)):
        return False
    draft.change(node, "ReduceMean", [x], {"axes": axes, "keepdims": 1})
    return True
