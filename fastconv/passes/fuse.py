"""Fusion: what follows a Conv, Gemm, Affine or binary element by element is done while its result is in registers.

    BatchNormalization, per-channel Mul Add Sub Div -> `scale` and bias of the Conv or Gemm in front, else one Affine
    Add of an equally shaped value                  -> input 3, `residual`, of Conv and Gemm
    an activation                                   -> attribute `activation` = (operator, alpha, beta)
    per-channel Mul in front of ConvBackwardInput   -> its weights, where they are constant

The order inside a kernel is: scale * product + bias, + residual, activation; so nothing but an activation follows a
residual, and nothing follows an activation. A weight is never touched: `scale` multiplies it while it is packed.

`Affine` is x * scale[C] + shift[C] along `axis`, with an optional `activation`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..graph import Array, Graph, Node, Value, Weight
from .rewrite import Draft, is_float

_PRODUCTS = ("Conv", "Gemm")
_ACTIVATED = ("Conv", "Gemm", "Affine", "Add", "Sub", "Mul", "Div", "Max", "Min")
Activation = tuple[str, float, float]


def fuse(graph: Graph, channels_last: bool = False) -> Graph:
    """One forward sweep: each node may vanish into the producer of its input."""
    draft = Draft(graph)
    for node in draft:
        if node.outputs and is_float(node.output):
            _fuse_node(draft, node, channels_last)
    return draft.finish()


def _fuse_node(draft: Draft, node: Node, channels_last: bool) -> None:
    if node.op == "ConvBackwardInput":
        _scale_gradient(draft, node, channels_last)
        return
    if node.op in ("BatchNormalization", "Affine", "Add", "Sub", "Mul", "Div"):
        found = per_channel(node, channels_last)
        if found is not None:
            if _fold(draft, node, *found, channels_last) or node.op == "Affine":
                return
            if node.op == "BatchNormalization":
                _to_affine(draft, node, *found)
            elif node.op in ("Add", "Sub"):
                _join_mul_add(draft, node, *found, channels_last)
        elif node.op == "Add":
            _fuse_residual(draft, node)
        return
    act = activation_of(node)
    if act is not None:
        target = draft.producer(node.input(0), *_ACTIVATED)
        if target is not None and "activation" not in target.attrs and draft.private(target.output):
            target.attrs["activation"] = act
            draft.take_over(target, node)


def activation_of(node: Node) -> Activation | None:
    """The fused form of a unary node, None for operators that do not fuse."""
    at = node.attrs
    if node.op in ("Relu", "Sigmoid", "HardSwish", "Tanh", "Softplus", "Mish"):
        return node.op, 0.0, 0.0
    if node.op == "Swish":
        return ("Swish", 0.0, 0.0) if at.get("alpha", 1.0) == 1.0 else None
    if node.op == "Clip":
        return "Clip", float(at.get("min", -math.inf)), float(at.get("max", math.inf))
    if node.op == "LeakyRelu":
        return node.op, float(at.get("alpha", 0.01)), 0.0
    if node.op == "Elu":
        return node.op, float(at.get("alpha", 1.0)), 0.0
    if node.op == "Selu":
        return node.op, float(at.get("alpha", 1.6732632423543772)), float(at.get("gamma", 1.0507009873554805))
    if node.op == "HardSigmoid":
        return node.op, float(at.get("alpha", 0.2)), float(at.get("beta", 0.5))
    if node.op == "Gelu":
        return node.op, float(at.get("approximate", "none") in ("tanh", True)), 0.0
    return None


# -- per-channel arithmetic -------------------------------------------------------------------------------------
def per_channel(node: Node, channels_last: bool) -> tuple[Value, int, Array, Array] | None:
    """(x, axis, scale, shift) if the node is x * scale + shift with constants along one axis, in float64.

    Constant numbers count for the usual channel axis of x.
    """
    at = node.attrs
    if node.op in ("BatchNormalization", "Affine"):
        vectors = node.inputs[1:]
        if any(v is None or not v.is_const for v in vectors):
            return None
        x, axis = node.input(0), at.get("axis", x_axis(node.input(0), channels_last))
        numbers = [v.numpy().astype(np.float64).reshape(-1) for v in vectors if v is not None]
        if node.op == "Affine":
            return x, axis, numbers[0], numbers[1]
        gamma, beta, mean, var = numbers
        with np.errstate(all="ignore"):
            scale = gamma / np.sqrt(var + float(at.get("epsilon", 1e-5)))
        return x, axis, scale, beta - mean * scale
    a, b = node.input(0), node.input(1)
    x, c = (b, a) if a.is_const else (a, b)
    if not c.is_const or x.is_const or x.rank == 0 or x.shape != node.output.shape:
        return None
    if (node.op == "Div" and c is a) or c.size > 65536:
        return None
    axis = x_axis(x, channels_last)
    if c.size != 1:
        extended = (1,) * (x.rank - c.rank) + c.shape
        long_axes = [i for i, d in enumerate(extended) if d != 1]
        if len(long_axes) != 1:
            return None
        axis = long_axes[0]
    if axis >= x.rank:
        return None
    number = np.broadcast_to(c.numpy().astype(np.float64).reshape(-1), (x.shape[axis],))
    one, zero = np.ones(x.shape[axis]), np.zeros(x.shape[axis])
    if node.op == "Add":
        return x, axis, one, number
    if node.op == "Sub":
        return (x, axis, -one, number) if c is a else (x, axis, one, -number)
    if node.op == "Mul":
        return x, axis, number, zero
    return (x, axis, 1.0 / number, zero) if np.all(number != 0.0) else None


def x_axis(x: Value, channels_last: bool) -> int:
    return x.rank - 1 if channels_last else 1


def _fold(draft: Draft, node: Node, x: Value, axis: int, scale: Array, shift: Array, channels_last: bool) -> bool:
    """Move x * scale + shift into the Conv, Gemm or Affine that makes x."""
    target = draft.producer(x, *_PRODUCTS, "Affine")
    if target is None or not draft.private(x) or "activation" in target.attrs or target.optional(3) is not None:
        return False
    if target.op == "Affine":
        if axis != target.attrs["axis"]:
            return False
        old_scale, old_shift = (target.input(i).numpy().astype(np.float64) for i in (1, 2))
        new: list[Value | None] = [*_constants(draft, target, old_scale * scale, old_shift * scale + shift)]
        attrs = dict(target.attrs)
    else:
        bias = target.optional(2)
        w = target.input(1)
        scaled = bool(np.any(scale != 1.0))
        if axis != x_axis(x, channels_last) or (bias is not None and not bias.is_const) or (scaled and not w.is_const):
            return False
        attrs = dict(target.attrs)
        total = shift if bias is None else bias.numpy().astype(np.float64).reshape(-1) * scale + shift
        if scaled:
            attrs["scale"] = (attrs.get("scale", np.float32(1.0)) * scale).astype(np.float32)
        new = [w, bias if not scaled and not np.any(shift) else _constant(draft, target, "bias", total)]
    if "activation" in node.attrs:
        attrs["activation"] = node.attrs["activation"]
    draft.change(target, target.op, [target.input(0), *new], attrs)
    draft.take_over(target, node)
    return True


def _constant(draft: Draft, node: Node, stem: str, array: Array) -> Value:
    """A vector known by its contents: the plans of a model for several shapes make it anew and share it."""
    vector = array.astype(np.float32)
    weight = Weight.of(vector)
    weight.key = ("small", vector.dtype.str, vector.shape, vector.tobytes())
    return draft.graph.constant(weight, draft.graph.fresh(f"{node.name}.{stem}"))


def _constants(draft: Draft, node: Node, scale: Array, shift: Array) -> list[Value]:
    return [_constant(draft, node, "scale", scale), _constant(draft, node, "shift", shift)]


def _to_affine(draft: Draft, node: Node, x: Value, axis: int, scale: Array, shift: Array) -> None:
    attrs: dict[str, Any] = {"axis": axis}
    if "activation" in node.attrs:
        attrs["activation"] = node.attrs["activation"]
    draft.change(node, "Affine", [x, *_constants(draft, node, scale, shift)], attrs)


def _join_mul_add(
    draft: Draft, node: Node, x: Value, axis: int, scale: Array, shift: Array, channels_last: bool
) -> None:
    """x * a + b, both per channel, that no Conv took, is one Affine."""
    before = draft.producer(x, "Mul", "Div")
    if before is None or not draft.private(x) or "activation" in before.attrs:
        return
    found = per_channel(before, channels_last)
    if found is None:
        return
    if all(_is_number(n) for n in (before, node)):
        if not channels_last:
            return  # two numbers fit any axis: the physical sweep knows which one is last
        axis = found[1]
    elif _is_number(node):
        axis, shift = found[1], np.broadcast_to(shift[:1], found[2].shape)
        scale = np.broadcast_to(scale[:1], found[2].shape)
    elif _is_number(before):
        found = (found[0], axis, np.broadcast_to(found[2][:1], scale.shape), found[3])
    elif found[1] != axis:
        return
    _to_affine(draft, node, found[0], axis, found[2] * scale, shift)


def _scale_gradient(draft: Draft, node: Node, channels_last: bool) -> None:
    """ConvBackwardInput(g * factor, w), as under a frozen batch normalisation: factors go into constant weights."""
    x, w = node.input(0), node.input(1).weight
    before = draft.producer(x, "Mul")
    if w is None or before is None or not draft.private(x) or "activation" in before.attrs:
        return
    found = per_channel(before, channels_last)
    if found is None or found[1] != x_axis(x, channels_last):
        return
    g, _, factor, _ = found
    rows = factor.astype(np.float32).reshape(-1, 1, 1, 1)
    scaled = w.derive(w.shape, w.dtype, lambda a: a * rows, ("rows", rows.tobytes()))
    weights = draft.graph.constant(scaled, draft.graph.fresh(f"{node.name}.weights"))
    draft.change(node, node.op, [g, weights, *node.inputs[2:]], node.attrs)


def _is_number(node: Node) -> bool:
    return any(v is not None and v.is_const and v.size == 1 for v in node.inputs)


# -- residuals --------------------------------------------------------------------------------------------------
def _fuse_residual(draft: Draft, node: Node) -> None:
    """Add(conv, other): the later product takes the other operand as its input 3."""
    a, b = node.input(0), node.input(1)
    if a is b or a.shape != b.shape or not (is_float(a) and is_float(b)):
        return
    candidates = []
    for x, other in ((a, b), (b, a)):
        target = draft.producer(x, *_PRODUCTS, "ConvBackwardInput")
        if target is None or not draft.private(x) or "activation" in target.attrs or target.optional(3) is not None:
            continue
        if target.op == "ConvBackwardInput" and "activation" in node.attrs:
            continue
        candidates.append((draft.position[target], target, other))
    if not candidates:
        return
    position, target, other = max(candidates, key=lambda c: c[0])
    inputs = [target.input(0), target.input(1), target.optional(2), other]
    maker = draft.producer(other)
    attrs = dict(target.attrs)
    if "activation" in node.attrs:
        attrs["activation"] = node.attrs["activation"]
    if maker is None or draft.position[maker] < position:
        draft.change(target, target.op, inputs, attrs)
        draft.take_over(target, node)
    else:  # `other` is computed after the convolution: that one moves to the place of the Add
        node.name = target.name
        draft.change(node, target.op, inputs, attrs)
