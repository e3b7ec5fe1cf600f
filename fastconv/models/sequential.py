"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv.layers.base import Dims, Layer, Tensor
from fastconv.layers.input import Input, InputLayer
from fastconv.model import Model as Runtime
from fastconv.models.model import Model
from fastconv.taught import only_runs


class Sequential(Model):
    """Layers one after the other. Without an input shape it is built when it first sees an input."""

    def __init__(self, layers: Sequence[Any] | None = None, name: str | None = None, *, trainable: bool = True) -> None:
        Layer.__init__(self, name=name, trainable=trainable)
        self._prepare()
        self.inputs, self.outputs, self._calls, self._layers = [], [], [], []
        self._stack: list[Layer] = []
        self._start: Tensor | None = None
        for layer in layers or ():
            self.add(layer)

    def __reduce__(self) -> tuple[Any, ...]:
        start = [] if self._start is None or self._start.call is None else [self._start.call.layer]
        made = ([*start, *self._stack], self.name, self._trainable)
        return _rebuild, (*made, self.threads, self.preprocess_input, self.metadata, self._copied_precision())

    def add(self, layer: Any) -> None:
        """Append a layer."""
        if isinstance(layer, Tensor) and layer.call is not None and isinstance(layer.call.layer, InputLayer):
            layer = layer.call.layer
        if isinstance(layer, Runtime):
            raise ValueError(f"Sequential: expected a layer, got a model of fastconv.load; {only_runs(layer)}")
        if not isinstance(layer, Layer):
            raise ValueError(f"Sequential: expected a layer, got {type(layer).__name__}")
        if isinstance(layer, InputLayer):
            if self._stack or self._start is not None:
                raise ValueError("Sequential: an input layer comes first")
            self._start = layer.output
            return
        if layer.name in {la.name for la in self._stack}:
            raise ValueError(f"two layers are called {layer.name!r}: the names in a model must be different")
        if not self._stack and self._start is None:
            if layer.asked_shape is not None:
                self._start = Input(batch_shape=layer.asked_shape)
            elif isinstance(layer, Model) and layer.inputs:
                self._start = Input(batch_shape=layer.inputs[0].shape)
        self._stack.append(layer)
        if self._start is not None:
            x = self.outputs[0] if self.outputs else self._start
            self._connect([self._start], [layer(x)])

    def pop(self) -> None:
        """Remove the last layer."""
        if not self._stack:
            raise ValueError("Sequential: there is no layer to remove")
        self._stack.pop()
        self.inputs, self.outputs, self._calls, self._layers, self._runtime = [], [], [], [], None
        if self._start is not None and self._stack:
            self._connect([self._start], [self._stack[-1].calls[-1].outputs[0]])

    def ensure_built(self, *shapes: Dims) -> None:
        if not self.inputs:
            if not self._stack:
                raise ValueError(f"Sequential {self.name!r} has no layers")
            self._start = x = Input(batch_shape=shapes[0])
            for layer in self._stack:
                x = layer(x)
            self._connect([self._start], [x])

    def build(self, *shapes: Dims, input_shape: Dims | None = None) -> None:
        """Build for inputs of this shape, with the batch first, where that has not happened yet."""
        given = [*shapes, *([] if input_shape is None else [input_shape])]
        if len(given) != 1 or not isinstance(given[0], (tuple, list)) or not given[0]:
            raise ValueError(f"Sequential.build: expected one shape with the batch first, got {given}")
        self.ensure_built((None, *given[0][1:]))

    @property
    def layers(self) -> list[Layer]:
        return list(self._stack)

    def sublayers(self) -> Sequence[Layer]:
        return self._stack

    def _arrays(self, x: Any) -> list[Any]:
        if not self.inputs:
            self.build(np.shape(x[0] if isinstance(x, list) and len(x) == 1 else x))
        return super()._arrays(x)


def _rebuild(
    layers: list[Layer],
    name: str,
    trainable: bool,
    threads: int | None,
    preprocess_input: Any,
    metadata: dict[str, str],
    precision: str,
) -> Sequential:
    model = Sequential(layers, name, trainable=trainable)
    model.threads, model.preprocess_input, model.metadata = threads, preprocess_input, metadata
    model.place("cpu", precision)
    return model
