"""A network of layers as a source of Graphs, for the runtime and for files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fastconv.errors import ShapeError
from fastconv.graph import Graph
from fastconv.layers.base import Scope, outer_shape
from fastconv.onnx.reader import InputInfo, OutputInfo
from fastconv.source import distinct

if TYPE_CHECKING:
    from fastconv.models.model import Model


class LayerSource:
    """A network of layers as a source of Graphs, for the runtime. Shapes here are as users see them."""

    def __init__(self, model: Model) -> None:
        if not model.inputs:
            raise ValueError(f"model {model.name!r} has no input shape yet: call it on an array, or begin with Input")
        self.model, self.name, self.metadata = model, model.name, dict(model.metadata)
        names = distinct(t.name for t in [*model.inputs, *model.outputs])
        ins, outs = names[: len(model.inputs)], names[len(model.inputs) :]
        self.inputs = tuple(
            InputInfo(name, t.shape, np.dtype(np.float32)) for name, t in zip(ins, model.inputs, strict=True)
        )
        self.outputs = tuple(
            OutputInfo(name, tuple(t.shape), np.dtype(np.float32)) for name, t in zip(outs, model.outputs, strict=True)
        )

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
        graph = Graph(self.name)
        scope = Scope(graph)
        values = [scope.channels_first(graph.add_input(i.name, shapes[i.name])) for i in self.inputs]
        made = self.model.emit(scope, *values)
        for info, value, tensor in zip(self.outputs, made, self.model.outputs, strict=True):
            expected = tensor.shape
            if any(e not in (None, d) for e, d in zip(expected[1:], outer_shape(value)[1:], strict=True)):
                raise ShapeError(f"output {info.name!r}: expected shape {expected}, got {outer_shape(value)}")
            scope.name = info.name
            graph.outputs.append(scope.channels_last(value))
        return graph
