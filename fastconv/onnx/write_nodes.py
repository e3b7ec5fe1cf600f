"""The nodes of a Graph as ONNX nodes: one function per operation that is not spelled alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv._version import __version__
from fastconv.cut import layer_names
from fastconv.errors import UnsupportedOpError
from fastconv.graph import Array, Graph, Node, Shape, Value, Weight

if TYPE_CHECKING:
    import onnx

OPSET = 17
LARGE = 1 << 12  # bytes of a weight that protobuf never sees
_SAME = {
    "Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Exp", "Log", "Sqrt",
    "Reciprocal", "Erf", "Neg", "Abs", "Floor", "Ceil", "Round", "Sign", "Add", "Sub", "Mul", "Div", "Max", "Min",
    "Pow", "PRelu", "Less", "LessOrEqual", "Equal", "Where", "Softmax", "LogSoftmax", "Concat", "Transpose", "LRN",
    "MatMul", "BatchNormalization",
}  # fmt: skip
Write = Callable[["NodeWriter", Node, Node], None]
_WRITERS: dict[str, Write] = {}


def writes(*ops: str) -> Callable[[Write], Write]:
    def register(fn: Write) -> Write:
        _WRITERS.update(dict.fromkeys(ops, fn))
        return fn

    return register


class NodeWriter:
    """Collects the nodes of `graph`; `other` is the same network for another batch size."""

    def __init__(self, graph: Graph, other: Graph) -> None:
        if [n.op for n in graph.nodes] != [n.op for n in other.nodes]:
            raise UnsupportedOpError(f"graph {graph.name!r}: its operations depend on the batch")
        self.graph, self.other = graph, other
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.large: list[tuple[str, Weight]] = []  # initializers that are written last, one at a time
        self.names: dict[Value, str] = {}
        self.weights: dict[object, str] = {}
        self.taken: set[str] = set()  # by values
        self.taken_by_nodes: set[str] = set()
        self.labels = {node: name for name, node in layer_names(graph).items()}

    def model(self, outputs: Sequence[str], metadata: Mapping[str, str]) -> onnx.ModelProto:
        from onnx import helper

        g = self.graph
        inputs = []
        for v, w in zip(g.inputs, self.other.inputs, strict=True):
            self.names[v] = self.unique(v.name)
            inputs.append(helper.make_tensor_value_info(self.names[v], _kind(v), _dims(v, w)))
        self.taken.update(outputs)  # an output may be an input, under its name
        ends: dict[Value, str] = {}
        produced = g.producers()
        for v, name in zip(g.outputs, outputs, strict=True):
            if v in produced and v not in ends:
                ends[v] = self.names[v] = name
        for node, twin in zip(g.nodes, self.other.nodes, strict=True):
            writer = _WRITERS.get(node.op, _plain if node.op in _SAME else None)
            if writer is None:
                raise UnsupportedOpError(f"node {node.name!r}: {node.op} cannot be written as ONNX yet")
            writer(self, node, twin)
        infos = []
        for v, w, name in zip(g.outputs, self.other.outputs, outputs, strict=True):
            if ends.get(v) != name and self.names.get(v) != name:
                self.node("Identity", [self.name(v)], name, name)
            infos.append(helper.make_tensor_value_info(name, _kind(v), _dims(v, w)))
        proto = helper.make_graph(self.nodes, g.name or "network", inputs, infos, self.initializers)
        made = helper.make_model(
            proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="fastconv",
            producer_version=__version__,
        )  # fmt: skip
        helper.set_model_props(made, dict(metadata))
        return made

    # -- names and constants ------------------------------------------------------------------------------------
    def unique(self, stem: str) -> str:
        return _unique(stem, self.taken)

    def name(self, v: Value) -> str:
        """The name of a value; constants are written when they are first needed."""
        if v.weight is not None:
            key = v.weight.key
            if key not in self.weights and v.weight.nbytes < LARGE:
                self.weights[key] = self.initializer(v.weight.numpy(), v.name)
            elif key not in self.weights:
                self.weights[key] = self.unique(v.name.replace("//", "_"))
                self.large.append((self.weights[key], v.weight))
            return self.weights[key]
        if v not in self.names:
            self.names[v] = self.unique(v.name.replace("//", "_"))
        return self.names[v]

    def initializer(self, array: Array, stem: str) -> str:
        """A small constant."""
        from onnx import numpy_helper

        name = self.unique(stem.replace("//", "_"))
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, values: Sequence[int], stem: str) -> str:
        return self.initializer(np.asarray(values, np.int64), stem)

    def vector(self, v: Value | None, size: int, default: float, node: Node) -> str:
        """The name of an optional vector, of a constant one where it is missing."""
        return (
            self.initializer(np.full(size, default, np.float32), f"{node.name}/vector") if v is None else self.name(v)
        )

    def number(self, value: float, stem: str) -> str:
        return self.initializer(np.asarray(value, np.float32), stem)

    # -- nodes ----------------------------------------------------------------------------------------------------
    def node(self, op: str, inputs: Sequence[str], output: str, stem: str, **attrs: Any) -> None:
        from onnx import helper

        name = _unique(stem or op, self.taken_by_nodes)
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attrs))

    def write(self, node: Node, op: str, more: Sequence[str] = (), count: int | None = None, **attrs: Any) -> None:
        """One node with the inputs of `node` (the first `count`) and `more`."""
        inputs = ["" if v is None else self.name(v) for v in node.inputs[:count]]
        self.node(op, [*inputs, *more], self.name(node.output), self.labels[node], **attrs)

    def between(self, node: Node, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        """A node on the way to what `node` computes."""
        name = self.unique(f"{node.name}/{op}_out")
        self.node(op, inputs, name, f"{self.labels[node]}/{op}", **attrs)
        return name


def _unique(stem: str, taken: set[str]) -> str:
    name, n = stem or "value", 0
    while name in taken:
        n += 1
        name = f"{stem}_{n}"
    taken.add(name)
    return name


def _kind(v: Value) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(v.dtype))


def _dims(v: Value, w: Value) -> list[int | str]:
    return [a if a == b else "N" for a, b in zip(v.shape, w.shape, strict=True)]


def _plain(w: NodeWriter, node: Node, twin: Node) -> None:
    if {"activation", "scale"} & set(node.attrs):
        raise UnsupportedOpError(f"node {node.name!r}: fused operations are not written")
    attrs: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in node.attrs.items()}
    w.write(node, node.op, **attrs)


@writes("Conv")
def _conv(w: NodeWriter, node: Node, twin: Node) -> None:
    a = node.attrs
    w.write(
        node, "Conv", kernel_shape=list(node.input(1).shape[2:]), strides=list(a["strides"]),
        dilations=list(a["dilations"]), group=a["group"], pads=list(a["pads"]),
    )  # fmt: skip


@writes("Gemm")
def _gemm(w: NodeWriter, node: Node, twin: Node) -> None:
    w.write(node, "Gemm", transB=int(bool(node.attrs.get("trans_b"))))


@writes("MaxPool", "AveragePool")
def _pool(w: NodeWriter, node: Node, twin: Node) -> None:
    a = node.attrs
    top, left, bottom, right = a["pads"]
    sizes = zip(node.input(0).shape[2:], (top + bottom, left + right), range(2), strict=True)
    reach = [(k - 1) * d + 1 for k, d in zip(a["kernel_shape"], a["dilations"], strict=True)]
    floors = tuple((size + pad - reach[i]) // a["strides"][i] + 1 for size, pad, i in sizes)
    attrs: dict[str, Any] = {"ceil_mode": int(floors != node.output.shape[2:])}
    if node.op == "AveragePool":
        attrs["count_include_pad"] = int(bool(a.get("count_include_pad")))
        if tuple(a["dilations"]) != (1, 1):
            raise UnsupportedOpError(f"node {node.name!r}: AveragePool with dilations")
    else:
        attrs["dilations"] = list(a["dilations"])
    w.write(
        node, node.op, kernel_shape=list(a["kernel_shape"]), strides=list(a["strides"]), pads=list(a["pads"]), **attrs
    )


@writes("ReduceMean", "ReduceMax", "ReduceMin")
def _reduce(w: NodeWriter, node: Node, twin: Node) -> None:
    w.write(node, node.op, axes=list(node.attrs["axes"]), keepdims=int(bool(node.attrs.get("keepdims", 1))))


@writes("ReduceSum")
def _reduce_sum(w: NodeWriter, node: Node, twin: Node) -> None:
    axes = w.ints(node.attrs["axes"], f"{node.name}/axes")
    w.write(node, "ReduceSum", [axes], keepdims=int(bool(node.attrs.get("keepdims", 1))))


@writes("Clip")
def _clip(w: NodeWriter, node: Node, twin: Node) -> None:
    limits = []
    for key in ("min", "max"):
        value = node.attrs.get(key)
        limits.append("" if value is None or math.isinf(value) else w.number(value, f"{node.name}/{key}"))
    w.write(node, "Clip", limits)


@writes("Swish")
def _swish(w: NodeWriter, node: Node, twin: Node) -> None:
    x = w.name(node.input(0))
    alpha = node.attrs.get("alpha", 1.0) or 1.0
    inner = x if alpha == 1.0 else w.between(node, "Mul", [x, w.number(alpha, f"{node.name}/alpha")])
    w.write(node, "Mul", [w.between(node, "Sigmoid", [inner])])


@writes("Mish")
def _mish(w: NodeWriter, node: Node, twin: Node) -> None:
    soft = w.between(node, "Softplus", [w.name(node.input(0))])
    w.write(node, "Mul", [w.between(node, "Tanh", [soft])])


@writes("Gelu")
def _gelu(w: NodeWriter, node: Node, twin: Node) -> None:
    x, stem = w.name(node.input(0)), node.name

    def times(a: str, factor: float) -> str:
        return w.between(node, "Mul", [a, w.number(factor, f"{stem}/factor")])

    if node.attrs.get("approximate") == "tanh":
        cube = w.between(node, "Mul", [w.between(node, "Mul", [x, x]), x])
        inner = w.between(node, "Add", [x, times(cube, 0.044715)])
        bent = w.between(node, "Tanh", [times(inner, math.sqrt(2 / math.pi))])
    else:
        bent = w.between(node, "Erf", [times(x, math.sqrt(0.5))])
    w.write(node, "Mul", [times(w.between(node, "Add", [bent, w.number(1.0, f"{stem}/one")]), 0.5)])


@writes("Pad")
def _pad(w: NodeWriter, node: Node, twin: Node) -> None:
    before, after = zip(*node.attrs["pads"], strict=True)
    more = [w.ints([*before, *after], f"{node.name}/pads")]
    if node.attrs.get("mode", "constant") == "constant":
        more.append(w.number(node.attrs.get("value", 0.0), f"{node.name}/value"))
    w.write(node, "Pad", more, mode=node.attrs.get("mode", "constant"))


@writes("Slice")
def _slice(w: NodeWriter, node: Node, twin: Node) -> None:
    x, y, other = node.input(0).shape, node.output.shape, twin.output.shape
    starts, ends, axes, steps = [], [], [], []
    for axis, (start, step) in enumerate(zip(node.attrs["starts"], node.attrs["steps"], strict=True)):
        if start == 0 and step == 1 and y[axis] == x[axis]:
            continue
        if y[axis] != other[axis]:
            raise UnsupportedOpError(f"node {node.name!r}: a Slice that depends on the batch")
        end = start + step * y[axis]
        starts.append(start)
        ends.append(end if end >= 0 else -(1 << 62))
        axes.append(axis)
        steps.append(step)
    if not axes:
        w.write(node, "Identity")
        return
    lists = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    w.write(node, "Slice", [w.ints(v, f"{node.name}/{k}") for k, v in lists.items()])


@writes("Reshape")
def _reshape(w: NodeWriter, node: Node, twin: Node) -> None:
    shape, free = [], 0
    x: tuple[Shape, Shape] = (node.input(0).shape, twin.input(0).shape)
    for i, (a, b) in enumerate(zip(node.output.shape, twin.output.shape, strict=True)):
        if a == b:
            shape.append(a)
        elif i < len(x[0]) and (x[0][i], x[1][i]) == (a, b):
            shape.append(0)
        else:
            shape.append(-1)
            free += 1
    if free > 1:
        raise UnsupportedOpError(f"node {node.name!r}: a Reshape whose sizes depend on the batch in two places")
    w.write(node, "Reshape", [w.ints(shape, f"{node.name}/shape")])


@writes("Expand")
def _expand(w: NodeWriter, node: Node, twin: Node) -> None:
    y, other = node.output.shape, twin.output.shape
    x = (1,) * (len(y) - node.input(0).rank) + node.input(0).shape
    shape = []
    for a, b, have in zip(y, other, x, strict=True):
        if a != b and have != a:
            raise UnsupportedOpError(f"node {node.name!r}: an Expand that depends on the batch")
        shape.append(1 if have == a else a)
    w.write(node, "Expand", [w.ints(shape, f"{node.name}/shape")])


# -- normalisation, choosing, resampling -----------------------------------------------------------------------------
@writes("ArgMax", "ArgMin")
def _arg(w: NodeWriter, node: Node, twin: Node) -> None:
    a = node.attrs
    keep, last = int(bool(a.get("keepdims", 1))), int(bool(a.get("last", 0)))
    w.write(node, node.op, axis=a["axes"][0], keepdims=keep, select_last_index=last)


@writes("LayerNormalization")
def _layer_norm(w: NodeWriter, node: Node, twin: Node) -> None:
    x, scale, shift = node.input(0), node.optional(1), node.optional(2)
    axis = node.attrs["axis"] % x.rank
    if axis != x.rank - 1:
        raise UnsupportedOpError(f"node {node.name!r}: LayerNormalization along axis {axis} of {x.rank}")
    d = x.shape[axis]
    inputs = [w.name(x), w.vector(scale, d, 1.0, node), w.vector(shift, d, 0.0, node)]
    w.node(node.op, inputs, w.name(node.output), w.labels[node], axis=axis, epsilon=node.attrs["epsilon"])


@writes("GroupNormalization")
def _group_norm(w: NodeWriter, node: Node, twin: Node) -> None:
    """Each group as one channel of an InstanceNormalization: opset 17 has no better word."""
    x, groups = node.input(0), node.attrs["groups"]
    c, *rest = x.shape[1:]
    stem = node.name
    split = w.between(node, "Reshape", [w.name(x), w.ints([0, groups, -1], f"{stem}/split")])
    ones, zeros = w.vector(None, groups, 1.0, node), w.vector(None, groups, 0.0, node)
    normal = w.between(node, "InstanceNormalization", [split, ones, zeros], epsilon=node.attrs["epsilon"])
    whole = w.between(node, "Reshape", [normal, w.ints([0, c, *rest], f"{stem}/whole")])
    along = w.ints([c, *(1 for _ in rest)], f"{stem}/along")
    scale = w.between(node, "Reshape", [w.vector(node.optional(1), c, 1.0, node), along])
    shift = w.between(node, "Reshape", [w.vector(node.optional(2), c, 0.0, node), along])
    scaled = w.between(node, "Mul", [whole, scale])
    w.node("Add", [scaled, shift], w.name(node.output), w.labels[node])


@writes("Resample")
def _resample(w: NodeWriter, node: Node, twin: Node) -> None:
    """Gather where each output is one input; else a product with the matrix of weights, along that axis."""
    x, taps = node.input(0), node.attrs["taps"]
    axis = node.attrs["axis"] % x.rank
    index = node.input(1).numpy().astype(np.int64).reshape(-1, taps)
    weights = node.optional(2)
    if node.output.shape != (*x.shape[:axis], len(index), *x.shape[axis + 1 :]):
        raise UnsupportedOpError(f"node {node.name!r}: a Resample to shape {node.output.shape}")
    if taps == 1 and weights is None:
        inputs = [w.name(x), w.ints(index[:, 0].tolist(), f"{node.name}/index")]
        w.node("Gather", inputs, w.name(node.output), w.labels[node], axis=axis)
        return
    matrix = np.zeros((x.shape[axis], len(index)), np.float32)
    shares = np.ones(index.shape, np.float32) if weights is None else weights.numpy().reshape(index.shape)
    np.add.at(matrix, (index, np.arange(len(index))[:, None]), shares)
    perm = [*(i for i in range(x.rank) if i != axis), axis]
    turned = w.between(node, "Transpose", [w.name(x)], perm=perm)
    product = w.between(node, "MatMul", [turned, w.initializer(matrix, f"{node.name}/weights")])
    w.node("Transpose", [product], w.name(node.output), w.labels[node], perm=np.argsort(perm).tolist())
