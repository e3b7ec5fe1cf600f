"""Model and Sequential, with Keras' names and arguments."""

from __future__ import annotations

from fastconv.layers.base import Layer
from fastconv.layers.input import Input
from fastconv.layers.variable import Variable
from fastconv.models.heads import load_model
from fastconv.models.model import Model
from fastconv.models.sequential import Sequential
from fastconv.models.source import LayerSource

__all__ = ["Input", "LayerSource", "Model", "Sequential", "all_variables", "load_model"]


def all_variables(model: Model) -> list[tuple[Layer, Variable]]:
    """Every Variable with the innermost layer that owns it, in the order of the layers."""
    found: list[tuple[Layer, Variable]] = []
    seen: set[Variable] = set()

    def walk(layer: Layer) -> None:
        for v in layer.variables:
            if v not in seen:
                seen.add(v)
                found.append((layer, v))
        for inner in layer.sublayers():
            walk(inner)

    walk(model)
    return found
