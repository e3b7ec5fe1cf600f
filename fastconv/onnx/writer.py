"""Graph -> ONNX file, in opset 17, which nearly every runtime reads.

A Graph has concrete shapes. To leave the batch open, the source is built for two batch sizes, and what differs between
them is written as depending on the batch. Weights beyond EMBEDDED bytes go into a second file, NAME.onnx.data.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv._version import __version__
from fastconv.cut import layer_names
from fastconv.errors import ModelError, ShapeError, UnsupportedOpError
from fastconv.graph import Array, Graph, Node, Shape, Value, Weight

if TYPE_CHECKING:
    import onnx

    from fastconv.source import Source

OPSET = 17
EMBEDDED = 1 << 30  # bytes of weights; a protobuf ends at 2 GiB
LARGE = 1 << 12  # bytes of a weight that protobuf never sees
ALIGNMENT = 4096
_SAME = {
    "Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Exp", "Log", "Sqrt",
    "Reciprocal", "Erf", "Neg", "Abs", "Floor", "Ceil", "Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu",
    "Softmax", "LogSoftmax", "Concat", "Transpose", "LRN", "MatMul", "BatchNormalization",
}  # fmt: skip
Write = Callable[["_Writer", Node, Node], None]
_WRITERS: dict[str, Write] = {}


def write_source(
    source: Source,
    path: str | os.PathLike[str],
    shape: Sequence[int | None] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network, with an open batch where the source's is open. The file is checked, then moved into place.

    shape: of the input, with or without the batch, where the source leaves other sizes open.
    Raises ShapeError where sizes are missing, UnsupportedOpError for what ONNX's opset 17 cannot say, OSError.
    """
    shapes = _input_shapes(source, shape)
    free = [not isinstance(i.shape[0], int) if i.shape else False for i in source.inputs]
    if any(free):
        first, second = (_build(source, shapes, free, batch) for batch in (2, 3))
    else:
        first = second = _build(source, shapes, free, 1)
    writer = _Writer(first, second)
    model = writer.model([o.name for o in source.outputs], metadata or {})
    target = Path(path)
    _check(model, writer.large, target)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        for part in _write(model, writer.large, folder, target.name):
            os.replace(part, target.with_name(part.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(model: onnx.ModelProto, large: list[tuple[str, Weight]], target: Path) -> None:
    """Raises ModelError for what is not valid ONNX. Large weights stand in as inputs."""
    import onnx
    from onnx import checker, helper

    light = onnx.ModelProto()
    light.CopyFrom(model)
    for name, w in large:
        kind = helper.np_dtype_to_tensor_dtype(w.dtype)
        light.graph.input.append(helper.make_tensor_value_info(name, kind, w.shape))
    try:
        checker.check_model(light, full_check=True)
    except (checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise ModelError(f"{target}: the file that was made is not valid ONNX: {e}") from e


def _write(model: onnx.ModelProto, large: list[tuple[str, Weight]], folder: Path, name: str) -> list[Path]:
    """The files, in the order in which they may appear. Holds one weight in memory at a time."""
    import onnx
    from onnx import TensorProto, external_data_helper, helper

    tensors = []
    for label, w in large:
        kind = helper.np_dtype_to_tensor_dtype(w.dtype)
        tensors.append(TensorProto(name=label, dims=w.shape, data_type=kind))
    file = folder / name
    if sum(w.nbytes for _, w in large) > EMBEDDED:
        data = folder / f"{name}.data"
        with open(data, "wb") as out:
            for tensor, (_, w) in zip(tensors, large, strict=True):
                out.write(b"\0" * (-out.tell() % ALIGNMENT))
                tensor.raw_data = b""  # what the next line asks for
                external_data_helper.set_external_data(tensor, data.name, out.tell(), w.nbytes)
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                out.write(_bytes(w))
        model.graph.initializer.extend(tensors)
        onnx.save(model, os.fspath(file))
        return [data, file]
    # By hand, as protobuf would copy every weight several times: the graph is the model's field 7, its initializers are
    # the graph's field 5, their raw data are field 9; each is a tag, a length and as many bytes.
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    heads = [t.SerializeToString() + b"\x4a" + _varint(w.nbytes) for t, (_, w) in zip(tensors, large, strict=True)]
    heads = [b"\x2a" + _varint(len(h) + w.nbytes) + h for h, (_, w) in zip(heads, large, strict=True)]
    size = len(graph) + sum(len(h) + w.nbytes for h, (_, w) in zip(heads, large, strict=True))
    with open(file, "wb") as out:
        out.write(model.SerializeToString() + b"\x3a" + _varint(size) + graph)
        for head, (_, w) in zip(heads, large, strict=True):
            out.write(head)
            out.write(_bytes(w))
    return [file]


def _bytes(weight: Weight) -> memoryview:
    array = np.ascontiguousarray(weight.numpy(), weight.dtype.newbyteorder("<"))
    return array.data.cast("B")


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def _input_shapes(source: Source, shape: Sequence[int | None] | None) -> list[list[int | None]]:
    shapes = []
    for info in source.inputs:
        dims: list[int | None] = [d if isinstance(d, int) else None for d in info.shape]
        if shape is not None and len(source.inputs) == 1:
            asked = [None, *shape] if len(shape) == len(dims) - 1 else list(shape)
            if len(asked) != len(dims) or any(d not in (None, a) for d, a in zip(dims[1:], asked[1:], strict=True)):
                raise ShapeError(f"shape {tuple(shape)} does not fit input {info.name!r} of shape {info.shape}")
            dims = [dims[0], *asked[1:]]
        if any(d is None for d in dims[1:]):
            raise ShapeError(f"input {info.name!r} has free sizes {info.shape}: give a shape to save it for")
        shapes.append(dims)
    return shapes


def _build(source: Source, shapes: list[list[int | None]], free: list[bool], batch: int) -> Graph:
    feeds = {
        info.name: (batch if f else int(dims[0] or 1), *(int(d or 0) for d in dims[1:])) if dims else ()
        for info, dims, f in zip(source.inputs, shapes, free, strict=True)
    }
    return source.build(feeds)


def writes(*ops: str) -> Callable[[Write], Write]:
    def register(fn: Write) -> Write:
        _WRITERS.update(dict.fromkeys(ops, fn))
        return fn

    return register


class _Writer:
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
        from onnx import TensorProto, helper

        g = self.graph
        inputs = []
        for v, w in zip(g.inputs, self.other.inputs, strict=True):
            self.names[v] = self.unique(v.name)
            inputs.append(helper.make_tensor_value_info(self.names[v], TensorProto.FLOAT, _dims(v, w)))
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
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, _dims(v, w)))
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

    def between(self, node: Node, op: str, inputs: Sequence[str]) -> str:
        """A node on the way to what `node` computes."""
        name = self.unique(f"{node.name}/{op}_out")
        self.node(op, inputs, name, f"{self.labels[node]}/{op}")
        return name


def _unique(stem: str, taken: set[str]) -> str:
    name, n = stem or "value", 0
    while name in taken:
        n += 1
        name = f"{stem}_{n}"
    taken.add(name)
    return name


def _dims(v: Value, w: Value) -> list[int | str]:
    return [a if a == b else "N" for a, b in zip(v.shape, w.shape, strict=True)]


def _plain(w: _Writer, node: Node, twin: Node) -> None:
    if {"activation", "scale"} & set(node.attrs):
        raise UnsupportedOpError(f"node {node.name!r}: fused operations are not written")
    attrs: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in node.attrs.items()}
    w.write(node, node.op, **attrs)


@writes("Conv")
def _conv(w: _Writer, node: Node, twin: Node) -> None:
    a = node.attrs
    w.write(
        node, "Conv", kernel_shape=list(node.input(1).shape[2:]), strides=list(a["strides"]),
        dilations=list(a["dilations"]), group=a["group"], pads=list(a["pads"]),
    )  # fmt: skip


@writes("Gemm")
def _gemm(w: _Writer, node: Node, twin: Node) -> None:
    w.write(node, "Gemm", transB=int(bool(node.attrs.get("trans_b"))))


@writes("MaxPool", "AveragePool")
def _pool(w: _Writer, node: Node, twin: Node) -> None:
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


@writes("ReduceMean", "ReduceMax")
def _reduce(w: _Writer, node: Node, twin: Node) -> None:
    w.write(node, node.op, axes=list(node.attrs["axes"]), keepdims=int(bool(node.attrs.get("keepdims", 1))))


@writes("ReduceSum")
def _reduce_sum(w: _Writer, node: Node, twin: Node) -> None:
    axes = w.ints(node.attrs["axes"], f"{node.name}/axes")
    w.write(node, "ReduceSum", [axes], keepdims=int(bool(node.attrs.get("keepdims", 1))))


@writes("Clip")
def _clip(w: _Writer, node: Node, twin: Node) -> None:
    limits = []
    for key in ("min", "max"):
        value = node.attrs.get(key)
        limits.append("" if value is None or math.isinf(value) else w.number(value, f"{node.name}/{key}"))
    w.write(node, "Clip", limits)


@writes("Swish")
def _swish(w: _Writer, node: Node, twin: Node) -> None:
    x = w.name(node.input(0))
    alpha = node.attrs.get("alpha", 1.0) or 1.0
    inner = x if alpha == 1.0 else w.between(node, "Mul", [x, w.number(alpha, f"{node.name}/alpha")])
    w.write(node, "Mul", [w.between(node, "Sigmoid", [inner])])


@writes("Mish")
def _mish(w: _Writer, node: Node, twin: Node) -> None:
    soft = w.between(node, "Softplus", [w.name(node.input(0))])
    w.write(node, "Mul", [w.between(node, "Tanh", [soft])])


@writes("Gelu")
def _gelu(w: _Writer, node: Node, twin: Node) -> None:
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
def _pad(w: _Writer, node: Node, twin: Node) -> None:
    before, after = zip(*node.attrs["pads"], strict=True)
    more = [w.ints([*before, *after], f"{node.name}/pads")]
    if node.attrs.get("mode", "constant") == "constant":
        more.append(w.number(node.attrs.get("value", 0.0), f"{node.name}/value"))
    w.write(node, "Pad", more, mode=node.attrs.get("mode", "constant"))


@writes("Slice")
def _slice(w: _Writer, node: Node, twin: Node) -> None:
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
def _reshape(w: _Writer, node: Node, twin: Node) -> None:
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
def _expand(w: _Writer, node: Node, twin: Node) -> None:
    y, other = node.output.shape, twin.output.shape
    x = (1,) * (len(y) - node.input(0).rank) + node.input(0).shape
    shape = []
    for a, b, have in zip(y, other, x, strict=True):
        if a != b and have != a:
            raise UnsupportedOpError(f"node {node.name!r}: an Expand that depends on the batch")
        shape.append(1 if have == a else a)
    w.write(node, "Expand", [w.ints(shape, f"{node.name}/shape")])
