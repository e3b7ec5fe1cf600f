"""Backward rules of the operations that networks are made of. Formulas: the chain rule; g is dLoss/dy."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import UnsupportedOpError
from .grad import Gradient, Tape, backward
from .graph import Node, Value
from .passes.fuse import activation_of

FROM_OUTPUT = frozenset(
    ("Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "Tanh", "Exp", "Sqrt", "Reciprocal")
)
SMOOTH = FROM_OUTPUT | {"Gelu", "Swish", "HardSwish", "Mish", "Softplus", "Erf", "Log", "Abs"}


# -- products -------------------------------------------------------------------------------------------------------
@backward("Conv")
def conv(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x, w, bias = node.input(0), node.input(1), node.optional(2)
    return (
        t.add("ConvBackwardInput", [g, w], x.shape, **node.attrs) if t.needs(x) else None,
        t.add("ConvBackwardWeight", [x, g], w.shape, **node.attrs) if t.needs(w) else None,
        t.add("ReduceSum", [g], bias.shape, axes=(0, 2, 3), keepdims=0) if bias is not None and t.needs(bias) else None,
    )


@backward("Gemm")
def gemm(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x, w, bias = node.input(0), node.input(1), node.optional(2)
    trans_b = bool(node.attrs.get("trans_b"))
    return (
        t.add("Gemm", [g, w], x.shape, trans_b=not trans_b) if t.needs(x) else None,
        t.add("GemmBackwardWeight", [x, g], w.shape, trans_b=trans_b) if t.needs(w) else None,
        t.add("ReduceSum", [g], bias.shape, axes=(0,), keepdims=0) if bias is not None and t.needs(bias) else None,
    )


@backward("MatMul")
def matmul(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    a, b = node.input(0), node.input(1)
    if a.rank < 2 or b.rank < 2:
        raise UnsupportedOpError(f"node {node.name!r} (MatMul): no gradient for vectors {a.shape} and {b.shape}")
    batch = g.shape[:-2]
    da = db = None
    if t.needs(a):
        da = t.sum_to(t.add("MatMul", [g, _turned(t, b)], (*batch, *a.shape[-2:])), a.shape)
    if t.needs(b):
        db = t.sum_to(t.add("MatMul", [_turned(t, a), g], (*batch, *b.shape[-2:])), b.shape)
    return da, db


def _turned(t: Tape, x: Value) -> Value:
    perm = (*range(x.rank - 2), x.rank - 1, x.rank - 2)
    return t.add("Transpose", [x], [x.shape[p] for p in perm], perm=perm)


# -- pooling and normalisation --------------------------------------------------------------------------------------
@backward("MaxPool")
def max_pool(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x = node.input(0)
    return (t.add("MaxPoolBackward", [g, x, node.output], x.shape, **node.attrs),)


@backward("AveragePool")
def average_pool(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    return (t.add("AveragePoolBackward", [g], node.input(0).shape, **node.attrs),)


@backward("LRN")
def lrn(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x = node.input(0)
    return (t.add("LRNBackward", [g, x, node.output], x.shape, **node.attrs),)


@backward("BatchNormTrain")
def batch_norm_train(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x, scale, shift = (node.input(i) for i in range(3))
    _, mean, var = node.outputs
    return t.add_many("BatchNormBackward", [g, x, scale, mean, var], [x.shape, scale.shape, shift.shape], **node.attrs)


@backward("BatchNormalization", "Affine")
def affine(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    """Statistics that do not move: x * scale + shift, each channel by itself."""
    x, axis = node.input(0), node.attrs.get("axis", 1)
    along = [-1 if i == axis else 1 for i in range(x.rank)]
    others = tuple(i for i in range(x.rank) if i != axis)
    if node.op == "Affine":
        factor, centred = node.input(1), x
    else:
        if any(map(t.needs, node.inputs[3:5])):
            raise UnsupportedOpError(f"node {node.name!r} ({node.op}): no gradient for its statistics")
        scale, _, mean, var = (node.input(i) for i in range(1, 5))
        eps = t.number(node.attrs.get("epsilon", 1e-5), 1)
        deviation = t.add("Sqrt", [t.add("Add", [var, eps], var.shape)], var.shape)
        factor = _ratio(t, node, scale, deviation)
        centred = x
        if t.needs(scale):
            c = [d if i == axis else 1 for i, d in enumerate(x.shape)]
            moved = t.add("Sub", [x, t.reshape(mean, c)], x.shape)
            centred = t.add("Div", [moved, t.add("Reshape", [deviation], c)], x.shape)
    wide = [factor.size if d == -1 else d for d in along]
    dx = t.add("Mul", [g, t.reshape(factor, wide)], x.shape) if t.needs(x) else None
    dscale = dshift = None
    if t.needs(node.input(1)):
        product = t.add("Mul", [g, centred], x.shape)
        dscale = t.add("ReduceSum", [product], factor.shape, axes=others, keepdims=0)
    if t.needs(node.input(2)):
        dshift = t.add("ReduceSum", [g], factor.shape, axes=others, keepdims=0)
    return dx, dscale, dshift


def _ratio(t: Tape, node: Node, scale: Value, deviation: Value) -> Value:
    """scale / deviation, computed now where both are constant."""
    var = node.input(4)
    if scale.is_const and var.is_const:
        eps = node.attrs.get("epsilon", 1e-5)
        return t.constant(scale.numpy().astype("f8") / (var.numpy().astype("f8") + eps) ** 0.5)
    return t.add("Div", [scale, deviation], scale.shape)


@backward("LayerNormalization", "GroupNormalization")
def layer_norm(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x, scale, shift = node.input(0), node.optional(1), node.optional(2)
    size = x.shape[node.attrs["axis"]] if node.op == "LayerNormalization" else x.shape[1]
    dx, dscale, dshift = t.add_many(f"{node.op}Backward", [g, x, scale], [x.shape, (size,), (size,)], **node.attrs)
    return dx, dscale if scale is not None else None, dshift if shift is not None else None


# -- activations ----------------------------------------------------------------------------------------------------
@backward(*SMOOTH)
def unary(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x, y = node.input(0), node.output
    of = activation_of(node) or (node.op, float(node.attrs.get("alpha", 1.0)), 0.0)
    if node.op == "LeakyRelu" and of[1] < 0:
        below = t.add("Less", [x, t.number(0.0, x.rank)], x.shape, dtype=bool)
        return (t.add("Where", [below, t.scale(g, of[1]), g], x.shape),)
    if node.op == "Swish" and of[1] not in (0.0, 1.0):
        raise UnsupportedOpError(f"node {node.name!r} (Swish): no gradient for alpha {of[1]}")
    from_output = node.op in FROM_OUTPUT
    return (t.add("UnaryBackward", [g, y if from_output else x], x.shape, of=of, from_output=from_output),)


@backward("Neg")
def neg(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    return (t.add("Neg", [g], g.shape),)


@backward("RoundHalf", "Copy")
def same(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    return (g,)


@backward("Softmax", "LogSoftmax")
def softmax(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    return (t.add(f"{node.op}Backward", [g, node.output], g.shape, **node.attrs),)


@backward("SoftmaxCrossEntropy")
def softmax_cross_entropy(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    x, target = node.input(0), node.input(1)
    if t.needs(target):
        raise UnsupportedOpError(f"node {node.name!r} (SoftmaxCrossEntropy): no gradient for the targets")
    return t.add("SoftmaxCrossEntropyBackward", [g, x, target], x.shape, **node.attrs), None


@backward("Dropout")
def dropout(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    return t.add("Dropout", [g, node.input(1)], g.shape, **node.attrs), None


# -- steps: their derivative is zero wherever they have one ---------------------------------------------------------
@backward(
    "Floor", "Ceil", "Trunc", "Round", "Sign", "Less", "LessOrEqual", "Equal", "ArgMax", "ArgMin", "TopK",
    "MaxPoolIndex", "Suppress",
)  # fmt: skip
def step(t: Tape, node: Node, g: Value) -> Sequence[Gradient]:
    return [None] * len(node.inputs)
