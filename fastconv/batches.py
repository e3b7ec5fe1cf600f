"""Batches a few images at a time, so that what they compute stays in the caches and threads need not wait.

The plan is for a share of the batch and runs once for each share (`Executor.run(repeats=...)`): teams of threads take
them side by side. Only networks that keep the images of a batch apart can be run so; `keeps_apart` proves it node by
node, and what it does not know counts as mixing. How many images are a share follows from the graph alone, never from
the number of threads, so that results do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .errors import FastconvError
from .graph import Graph, Node, Shape, Value
from .passes.rewrite import BINARY, UNARY

# How large a share must be, by measurements (docs/performance.md):
LEAST = 2  # images: layers with few pixels fill their tiles
FLOATS = 1 << 20  # of activations: below these the whole batch stays in the second cache
WORTH = 0.33  # its activations are at least this times the weights, which each share reads anew, and of these
DENSE = 8  # those of dense layers count so often, since little is computed while they come,
WINOGRAD = 4  # and those of 3x3 filters that Winograd's transform makes larger
MOST = 1024  # images that are tried
SMALL = 4096  # elements of constants that are compared one by one

_LAYERS = frozenset(("Conv", "Gemm", "MatMul", "MaxPool", "AveragePool"))  # others are mostly fused into these


def share_of(graph: Graph, build: Callable[[Sequence[Shape]], Graph]) -> Graph | None:
    """The graph for a share of the batch, all of whose shares together are `graph`; None where the batch stays whole.

    `graph`: in ONNX axis order, before the passes. build: the graph of the same network for other input shapes.
    """
    images = images_at_once(graph)
    if not images:
        return None
    try:
        share = build([(images, *v.shape[1:]) for v in graph.inputs])
    except FastconvError:  # the file wants the batch as it is
        return None
    return share if keeps_apart(share) and same_but_for_batch(graph, share) else None


def images_at_once(graph: Graph) -> int:
    """Images of a share: the smallest divisor of the batch that is enough; where that is the batch, the next smaller
    one, down to half of what is enough. 0: the batch stays whole."""
    if not keeps_apart(graph):
        return 0
    batch = graph.inputs[0].shape[0]
    layers = [n for n in graph.nodes if n.op in _LAYERS]
    weights = {v.weight.key: v.size * _counts(n, batch) for n in layers for v in n.inputs if v is not None and v.weight}
    made = max(1, sum(n.output.size for n in layers) // batch)
    enough = max(LEAST, FLOATS / made, WORTH * sum(weights.values()) / made)
    divisors = [n for n in range(1, min(batch // 2, MOST) + 1) if batch % n == 0]
    few = [n for n in divisors if 2 * n >= enough and 2 * batch >= 3 * enough]
    return next((n for n in divisors if n >= enough), max(few, default=0))


def _counts(layer: Node, batch: int) -> int:
    if layer.op != "Conv":
        return DENSE if layer.output.shape[:-1] == (batch,) else 1
    plain = layer.attrs["group"] == 1 and tuple(layer.attrs["strides"]) == (1, 1)
    return WINOGRAD if plain and layer.input(1).shape[2:] == (3, 3) else 1


def keeps_apart(graph: Graph) -> bool:
    """Whether each image of a batch, along the first axis of all inputs, goes its way without the others.

    `graph`: in ONNX axis order, before the passes. Of the first axis of all that depends on the inputs each image then
    has an equal, contiguous share: one row, or several as after a Reshape to rows of a matrix. False also where this is
    not known.
    """
    if not graph.inputs or graph.states or any(v.shape[:1] != graph.inputs[0].shape[:1] for v in graph.inputs):
        return False
    apart = set(graph.inputs)
    for node in graph.nodes:
        rule = _RULES.get(node.op)
        if apart.isdisjoint(v for v in node.inputs if v is not None):
            continue  # of constants alone: the same for every image
        if rule is None or not rule(node, apart):
            return False
        apart.update(node.outputs)
    batch = graph.inputs[0].shape[0] if graph.inputs[0].shape else 0
    return batch > 0 and all(v.shape and v.shape[0] % batch == 0 for v in apart) and apart.issuperset(graph.outputs)


# -- one rule a kind of operation: whether its outputs keep images apart, if these inputs do --------------------------
_Rule = Callable[[Node, "set[Value]"], bool]


def _first(node: Node, apart: set[Value]) -> bool:
    """Input 0 has images, everything else is the same for all of them."""
    return node.input(0) in apart and apart.isdisjoint(v for v in node.inputs[1:] if v is not None)


def _off_axis(node: Node, apart: set[Value]) -> bool:
    """Works along axes, none of which is the images'."""
    axes = node.attrs["axes"] if "axes" in node.attrs else (node.attrs["axis"],)
    return _first(node, apart) and 0 not in axes


def _broadcasts(node: Node, apart: set[Value]) -> bool:
    """Element by element: images meet the same image, or what is the same for all."""
    rank = node.output.rank
    return all(v.rank == rank if v in apart else v.rank < rank or v.shape[0] == 1 for v in node.inputs if v is not None)


def _matmul(node: Node, apart: set[Value]) -> bool:
    a, b = node.input(0), node.input(1)
    if b not in apart:  # rows of a stay rows
        return a.rank >= max(b.rank, 2) and (b.rank < a.rank or b.rank == 2 or b.shape[0] == 1)
    return a in apart and a.rank == b.rank > 2


def _concat(node: Node, apart: set[Value]) -> bool:
    return node.attrs["axis"] != 0 and all(v in apart for v in node.inputs)


def _pad(node: Node, apart: set[Value]) -> bool:
    return _first(node, apart) and tuple(node.attrs["pads"][0]) == (0, 0)


def _same_rows(node: Node, apart: set[Value]) -> bool:
    x, y = node.input(0), node.output
    return _first(node, apart) and x.rank == y.rank and x.shape[:1] == y.shape[:1]


_RULES: dict[str, _Rule] = {
    **dict.fromkeys((*UNARY, "Conv", "Gemm", "MaxPool", "AveragePool", "BatchNormalization", "LRN"), _first),
    **dict.fromkeys((*BINARY, "Where"), _broadcasts),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ArgMax", "ArgMin"), _off_axis),
    **dict.fromkeys(("Softmax", "LogSoftmax", "LayerNormalization", "Resample", "TopK"), _off_axis),
    **dict.fromkeys(("Slice", "Expand"), _same_rows),
    "Reshape": _first,  # elements stay in order: equal shares of the first axis are whole images
    "GroupNormalization": _first,
    "MatMul": _matmul,
    "Concat": _concat,
    "Pad": _pad,
    "Transpose": lambda node, apart: _first(node, apart) and node.attrs["perm"][0] == 0,
}


# -- the same network for fewer images --------------------------------------------------------------------------------
def same_but_for_batch(graph: Graph, share: Graph) -> bool:
    """Whether both, which keep images apart, are one network: the same operations on the same constants, and shapes
    that differ in the number of images alone. Files may compute with that number, or expect it."""
    if len(graph.nodes) != len(share.nodes):
        return False
    batches = graph.inputs[0].shape[0], share.inputs[0].shape[0]
    pairs = [*zip(graph.inputs, share.inputs, strict=True), *zip(graph.outputs, share.outputs, strict=True)]
    for a, b in zip(graph.nodes, share.nodes, strict=True):
        if a.op != b.op or len(a.inputs) != len(b.inputs) or not _same_attributes(a, b):
            return False
        for v, w in zip([*a.inputs, *a.outputs], [*b.inputs, *b.outputs], strict=True):
            if (v is None) != (w is None):
                return False
            if v is not None and w is not None:
                pairs.append((v, w))
    partner: dict[Value, Value] = {}
    for v, w in pairs:
        if partner.setdefault(v, w) is not w and not v.is_const:
            return False
        if v.is_const != w.is_const or not (_same_constant(v, w) if v.is_const else _same_shape(v, w, batches)):
            return False
    return True


def _same_shape(v: Value, w: Value, batches: tuple[int, int]) -> bool:
    return v.shape == w.shape or (v.shape[1:] == w.shape[1:] and v.shape[0] * batches[1] == w.shape[0] * batches[0])


def _same_attributes(a: Node, b: Node) -> bool:
    return a.attrs.keys() == b.attrs.keys() and all(np.array_equal(a.attrs[k], b.attrs[k]) for k in a.attrs)


def _same_constant(v: Value, w: Value) -> bool:
    if v.weight is None or w.weight is None or v.shape != w.shape or v.dtype != w.dtype:
        return False
    return v.weight.key == w.weight.key or (v.size <= SMALL and np.array_equal(v.numpy(), w.numpy(), equal_nan=True))
