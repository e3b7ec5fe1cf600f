"""The order of calls and layers between a model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastconv.layers.base import Call, Layer, Tensor
from fastconv.layers.input import InputLayer

SHOWN = 30  # names in a message


def tensors(value: Any, what: str) -> list[Tensor]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values or not all(isinstance(t, Tensor) for t in values):
        raise ValueError(f"Model: {what}: expected symbolic tensors, got {value!r}")
    return values


def sorted_calls(inputs: list[Tensor], outputs: list[Tensor]) -> list[Call]:
    """The calls between inputs and outputs, in the order in which they were made."""
    known = set(inputs)
    if len(known) < len(inputs):
        raise ValueError(f"Model: an input is given twice: {[t.name for t in inputs]}")
    found: dict[int, Call] = {}
    todo = [t for t in outputs if t not in known]
    while todo:
        call = todo.pop().call
        assert call is not None
        if call.serial in found:
            continue
        found[call.serial] = call
        if isinstance(call.layer, InputLayer):
            raise ValueError(f"Model: the outputs need {call.layer.name!r}, which is not among the inputs")
        todo.extend(t for t in call.inputs if t not in known)
    used = {t for c in found.values() for t in c.inputs} | set(outputs)
    for t in inputs:
        if t not in used:
            raise ValueError(f"Model: no output needs input {t.name!r}")
        if t.call is not None and isinstance(t.call.layer, InputLayer):
            found[t.call.serial] = t.call
    return [found[s] for s in sorted(found)]


def layer_order(inputs: list[Tensor], outputs: list[Tensor], calls: list[Call]) -> list[Layer]:
    """Keras' order of layers: by their distance from the outputs, then as they were made."""
    depth: dict[Call, int] = {}
    readers: dict[Tensor, list[Call]] = {}
    for call in calls:
        for t in call.inputs:
            readers.setdefault(t, []).append(call)
    layer_depth: dict[Layer, int] = {}
    for call in reversed(calls):
        after = [depth[c] + 1 for t in call.outputs for c in readers.get(t, ())]
        depth[call] = max([layer_depth.get(call.layer, 0), *after])
        layer_depth[call.layer] = depth[call]
    made = {call.layer: i for i, call in reversed(list(enumerate(calls)))}
    return sorted(layer_depth, key=lambda layer: (-layer_depth[layer], made[layer]))


def find_layer(layers: Sequence[Layer], name: str | None, index: int | None) -> Layer:
    """The layer of that name or at that position. Raises ValueError where there is none, or for both or neither."""
    if (name is None) == (index is None):
        raise ValueError("get_layer: expected either a name or an index")
    if index is not None:
        if not -len(layers) <= index < len(layers):
            raise ValueError(f"no layer {index}: the model has {len(layers)} layers")
        return layers[index]
    for layer in layers:
        if layer.name == name:
            return layer
    names = [layer.name for layer in layers]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise ValueError(f"no layer named {name!r}; the layers are {', '.join(names[:SHOWN])}{more}")
