"""Networks from files as layers: a Graph's nodes with their weights as Variables, inside a model of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastconv.cut import Part, layer_names, probe_shape
from fastconv.errors import ModelError
from fastconv.graph import Array, Graph, Node, Value, Weight
from fastconv.layers.base import Call, Dims, Layer, Scope, Tensor, inner_shape, outer_shape
from fastconv.layers.norm import batch_norm
from fastconv.layers.variable import Variable

if TYPE_CHECKING:
    from fastconv.source import Source

PROBES = (299, 331)  # pixels: where a size is free, the shapes for both say what depends on it
MOMENTUM = 0.9  # of moving statistics: ONNX's and torch's
_PARAMETERS = {
    "Conv": {1: "kernel", 2: "bias"},
    "Gemm": {1: "kernel", 2: "bias"},
    "MatMul": {0: "left", 1: "kernel"},
    "BatchNormalization": {1: "gamma", 2: "beta", 3: "moving_mean", 4: "moving_variance"},
    "PRelu": {1: "alpha"},
    "Add": {0: "bias", 1: "bias"},
    "Sub": {1: "bias"},
    "Mul": {0: "scale", 1: "scale"},
    "Div": {1: "scale"},
}


class NodeLayer(Layer):
    """One operation of a file, with its name, and its weights in the file's layout; a part of an Imported network."""

    def __init__(self, node: Node, name: str, owner: Imported) -> None:
        super().__init__(name=name)
        self.owner, known = owner, owner._known
        self.op = node.op
        self.built = True
        self.shape = node.output.shape
        for i, role in _PARAMETERS.get(node.op, {}).items():
            v = node.inputs[i] if i < len(node.inputs) else None
            if v is None or v.weight is None or v.dtype != np.float32:
                continue
            if v.size < 2 and node.op not in ("Conv", "Gemm"):  # a factor such as 1/6
                continue
            key = v.weight.key
            if key not in known:
                kind = FixedVariable if owner.fixed else Variable
                known[key] = variable = kind(role, v.shape, _Stored(v.weight), statistic=role.startswith("moving"))
                variable.path = v.name
            if known[key] not in self.variables:
                self.variables.append(known[key])

    def __call__(self, inputs: Any = None, *, training: bool | None = None) -> Any:
        raise ValueError(f"layer {self.name!r} belongs to the file {self.owner.source.name!r}: apply the whole model")

    def emit(self, scope: Scope, *inputs: Value) -> list[Value]:
        raise ModelError(f"layer {self.name!r} belongs to the file {self.owner.source.name!r}, which runs as a whole")

    @property
    def output(self) -> Any:
        """The network up to here, applied to the same inputs; it shares the weights."""
        if not self.owner.calls:
            raise AttributeError(
                f"layer {self.name!r} of a loaded model: model.features({self.name!r}) gives its output"
            )
        inputs = list(self.owner.calls[0].inputs)
        part = Part(self.owner.source, [self.name], channels_first=True)
        return self.owner.part(part, f"{self.name}/features")(inputs)

    @property
    def output_shape(self) -> Dims:
        return (None, *outer_shape(Value("", self.shape))[1:])

    def __repr__(self) -> str:
        return f"<{self.op} {self.name}>"


class FixedVariable(Variable):
    """A weight of a loaded model, which runs what is in its file."""

    __slots__ = ()

    def set(self, array: npt.ArrayLike) -> None:
        """Raises ModelError."""
        raise ModelError(
            f"weight {self.path!r}: a loaded model keeps its file's weights; the functions of fastconv.applications "
            "make models of files (weights=) whose weights can be changed"
        )


class _Stored:
    """An initializer that reads a file's Weight."""

    pickles = False

    def __init__(self, weight: Weight) -> None:
        self.weight = weight

    def __call__(self, shape: tuple[int, ...], seed: int, layout: str) -> Array:
        array: Array = self.weight.numpy().astype(np.float32, copy=False).view()
        return array


class Imported(Layer):
    """The network of a Source as one layer.

    Images go in and come out channels-last, like everywhere among layers. inputs_last and outputs_last: the source's
    own are so too (Keras exports such files); else they are N C H W. fixed: its weights only show the file's.
    """

    def __init__(
        self,
        source: Source,
        *,
        inputs_last: bool = False,
        outputs_last: bool = False,
        name: str | None = None,
        fixed: bool = False,
    ) -> None:
        super().__init__(name=name)
        self.source, self.fixed = source, fixed
        self.inputs_last, self.outputs_last = inputs_last, outputs_last
        self._known: dict[object, Variable] = {}
        self.parts: list[NodeLayer] = []
        self.built_for: tuple[Dims, ...] = ()

    def part(self, part: Part, name: str | None = None) -> Imported:
        """This part of the network as a layer that shares the weights; images come out channels-last."""
        network = Imported(part, inputs_last=self.inputs_last, name=name or self.name)
        network._known = self._known
        return network

    def __getstate__(self) -> dict[str, Any]:
        changed = {(i, j): v.array for i, la in enumerate(self.parts) for j, v in enumerate(la.variables) if v.version}
        state = super().__getstate__()
        for name in ("_known", "parts"):
            del state[name]
        return {**state, "changed": changed, "frozen": [not la.trainable for la in self.parts]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        changed, frozen = state.pop("changed"), state.pop("frozen")
        super().__setstate__(state)
        self._known, self.parts = {}, []
        if self.built:
            self.build(*self.built_for)
        for layer, still in zip(self.parts, frozen, strict=True):
            layer.trainable = not still
        for (i, j), array in changed.items():
            self.parts[i].variables[j].set(array)

    def build(self, *shapes: Dims) -> None:
        self.built_for = shapes
        graph = self._graph([probe_shape(s, PROBES[0]) for s in shapes])
        self.parts = [NodeLayer(node, name, self) for name, node in layer_names(graph).items()]

    def sublayers(self) -> Sequence[Layer]:
        return self.parts

    def _graph(self, shapes: Sequence[Sequence[int]]) -> Graph:
        """The file's Graph for shapes as users see them."""
        feeds = {}
        for info, shape in zip(self.source.inputs, shapes, strict=True):
            feeds[info.name] = tuple(shape) if self.inputs_last else inner_shape(shape)
        return self.source.build(feeds)

    def _output_shapes(self, shapes: Sequence[Sequence[int]]) -> list[Dims]:
        graph = self._graph(shapes)
        return [v.shape if self.outputs_last else outer_shape(v) for v in graph.outputs]

    def make_outputs(self, call: Call) -> tuple[Tensor, ...]:
        shapes = [t.shape for t in call.inputs]
        if len(shapes) != len(self.source.inputs):
            raise ValueError(f"layer {self.name!r} takes {len(self.source.inputs)} inputs, got {len(shapes)}")
        made = self._output_shapes([probe_shape(s, PROBES[0]) for s in shapes])
        if any(d is None for s in shapes for d in s[1:]):
            other = self._output_shapes([probe_shape(s, PROBES[1]) for s in shapes])
            made = [
                tuple(a if a == b else None for a, b in zip(m, o, strict=True))
                for m, o in zip(made, other, strict=True)
            ]
        return tuple(Tensor((shapes[0][0], *m[1:]), self.name, call) for m in made)

    def emit(self, scope: Scope, *inputs: Value) -> list[Value]:
        given = [scope.channels_last(x) if self.inputs_last else x for x in inputs]
        feeds = {info.name: x.shape for info, x in zip(self.source.inputs, given, strict=True)}
        graph = self.source.build(feeds)
        mapping = dict(zip(graph.inputs, given, strict=True))
        trained = {v for la in self.parts if la.trainable for v in la.variables} & scope.stateful
        for node in graph.nodes:
            named = [v if v is None else mapping.get(v, v) for v in node.inputs]
            node.inputs = [v if v is None else self._operand(scope, v) for v in named]
            if node.op == "BatchNormalization" and not all(v.is_const for v in node.inputs[1:] if v is not None):
                x, *parameters = (v for v in node.inputs if v is not None)
                moving = named[3].weight if named[3] is not None else None
                train = scope.training and moving is not None and self._known.get(moving.key) in trained
                epsilon = float(node.attrs.get("epsilon", 1e-5))
                scope.name = node.name
                mapping[node.output] = batch_norm(scope, x, parameters, epsilon, MOMENTUM, train)
            else:
                scope.graph.nodes.append(node)
        outputs = [mapping.get(v, v) for v in graph.outputs]
        if any(v.is_const for v in outputs):
            raise ModelError(f"network {self.name!r}: an output is constant")
        return [scope.channels_first(v) if self.outputs_last else v for v in outputs]

    def _operand(self, scope: Scope, v: Value) -> Value:
        variable = self._known.get(v.weight.key) if v.weight is not None else None
        return v if variable is None else scope.weight(variable)
