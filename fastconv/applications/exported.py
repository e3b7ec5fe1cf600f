"""Applications whose weights come as an ONNX file: the file's own graph, checked, cut or given a new head."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from fastconv.cut import Part, last_dense, probe_shapes
from fastconv.errors import ModelError, ShapeError
from fastconv.graph import Graph, Node, Value
from fastconv.layers import Activation, Dense, Input, Tensor
from fastconv.layers.base import Dims
from fastconv.layers.imported import Imported
from fastconv.models import Model
from fastconv.onnx.reader import InputInfo, OnnxModel, read

if TYPE_CHECKING:
    from fastconv.applications.base import Request


def from_onnx(request: Request) -> Model:
    """The model that `request` asks for, made of the file that its `weights` names.

    With the top, another number of `classes` than the file's gets a new dense layer in place of the last one. Raises
    ModelError where the file's convolutions are not those of the architecture, ShapeError where its size is fixed to
    another one than was asked for.
    """
    from fastconv.applications.base import pooled

    assert request.weights is not None
    source = read(request.weights)
    info, last = _image_input(source, request)
    size = _size(request, info, last)
    graph = source.build(probe_shapes(source))
    _check_convolutions(request, graph)
    x = request.input_tensor if request.input_tensor is not None else Input(shape=size)
    if not request.include_top:
        y = pooled(Imported(Part(source, headless=True), inputs_last=last, name="features")(x), request.pooling)
    else:
        y = _with_top(request, source, graph, x, last)
    return request.finish(Model(request.source(x), y, name=request.name), _mode(request, graph, last), keras=last)


def _with_top(request: Request, source: OnnxModel, graph: Graph, x: Tensor, last: bool) -> Tensor:
    scores = graph.outputs[0]
    if scores.rank != 2:
        raise ModelError(f"{request.weights}: expected scores [N, classes], the output has shape {scores.shape}")
    if scores.shape[1] != request.classes:
        hidden = Imported(Part(source, head=True), inputs_last=last, name="features")(x)
        y: Tensor = Dense(request.classes, activation=request.activation, name="predictions")(hidden)
        return y
    last_dense(graph)  # a network without its classifier has features that may be as many as classes
    end = graph.producers().get(scores)
    if end is not None and end.op == "Softmax" and request.activation is None:
        logits = Imported(Logits(source), inputs_last=last, name="predictions")(x)
        return _tensor(logits)
    y = Imported(source, inputs_last=last, name="features" if end is None else "predictions")(x)
    if request.activation == "softmax" and (end is None or end.op != "Softmax"):
        y = Activation("softmax", name="softmax")(y)
    return y


def _tensor(t: Any) -> Tensor:
    assert isinstance(t, Tensor)
    return t


class Logits:
    """A source whose last Softmax is left out."""

    def __init__(self, base: OnnxModel) -> None:
        self.base, self.name, self.inputs, self.outputs = base, base.name, base.inputs, base.outputs

    def build(self, shapes: Any) -> Graph:
        from fastconv.passes import remove_dead

        graph = self.base.build(shapes)
        graph.outputs = [graph.producers()[graph.outputs[0]].input(0)]
        return remove_dead(graph)


def _image_input(source: OnnxModel, request: Request) -> tuple[InputInfo, bool]:
    """The input, and whether its channels come last."""
    if len(source.inputs) != 1 or len(source.inputs[0].shape) != 4:
        raise ModelError(f"{request.weights}: expected one image as input, got {[i.shape for i in source.inputs]}")
    info = source.inputs[0]
    c = request.arch.channels
    if info.shape[1] == c or not isinstance(info.shape[3], int):
        return info, False
    if info.shape[3] == c:
        return info, True
    raise ModelError(f"{request.weights}: expected {c} channels, the input has shape {info.shape}")


def _size(request: Request, info: InputInfo, last: bool) -> Dims:
    h, w = info.shape[1:3] if last else info.shape[2:4]
    own: Dims = (h if isinstance(h, int) else None, w if isinstance(w, int) else None, request.arch.channels)
    if request.input_tensor is not None:
        asked: Dims = request.input_tensor.shape[1:]
    elif request.input_shape is None and None not in own:
        return own
    else:
        asked = request.shape()
    if any(o is not None and o != a for o, a in zip(own, asked, strict=True)):
        raise ShapeError(f"{request.weights}: the file is made for images of {own}, asked for were {asked}")
    return asked


def _check_convolutions(request: Request, graph: Graph) -> None:
    """The file's convolutions are those of the architecture, in any order, by the shapes of their weights."""
    from dataclasses import replace

    from fastconv.layers.variable import Variable
    from fastconv.models import all_variables

    top = replace(request, weights=None, input_tensor=None, input_shape=None, include_top=False, pooling=None)
    shape = (request.arch.size, request.arch.size, request.arch.channels)
    model = replace(top, input_shape=shape).assemble()
    expected: list[tuple[str, Variable]] = [
        (la.name, v) for la, v in all_variables(model) if v.layout != "plain" and len(v.graph_shape) == 4
    ]
    have: list[Node] = [n for n in graph.nodes if n.op == "Conv"]
    left = Counter(_shape(n.input(1)) for n in have)
    for name, v in expected:
        if not left[v.graph_shape]:
            raise ModelError(
                f"{request.weights}: not {request.arch.name}: layer {name!r} has a convolution of weights "
                f"{v.graph_shape}, which the file lacks (it has {len(have)} convolutions, expected {len(expected)})"
            )
        left[v.graph_shape] -= 1
    for node in have:
        if left[_shape(node.input(1))]:
            raise ModelError(
                f"{request.weights}: not {request.arch.name}: node {node.name!r} is a convolution of weights "
                f"{_shape(node.input(1))} too many"
            )


def _shape(v: Value) -> tuple[int, ...]:
    return v.shape


def _mode(request: Request, graph: Graph, last: bool) -> str:
    """The preprocessing that the file expects: Keras' own where channels come last, else torch's."""
    if last:
        return request.arch.keras_mode
    producers = graph.producers()
    first = next((n for n in graph.nodes if n.op == "Conv"), None)
    before = producers.get(first.input(0)) if first is not None else None
    while before is not None and before.op in ("Pad", "Transpose", "Reshape"):
        before = producers.get(before.input(0))
    return "torch" if before is not None else request.arch.mode  # torchvision's transform_input undoes torch's
