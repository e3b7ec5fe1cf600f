"""Layers with several inputs."""

from __future__ import annotations

from typing import Any

from fastconv.graph import Value
from fastconv.layers.base import Dims, Layer, Scope, inner_axis


def _broadcast(layer: Layer, shapes: tuple[Dims, ...]) -> Dims:
    if len(shapes) < 2:
        raise ValueError(f"layer {layer.name!r}: expected a list of at least 2 tensors, got {len(shapes)}")
    if len({len(s) for s in shapes}) != 1:
        raise ValueError(f"layer {layer.name!r}: expected inputs of one rank, got shapes {list(shapes)}")
    out: list[int | None] = []
    for axis, dims in enumerate(zip(*shapes, strict=True)):
        known = {d for d in dims if d is not None and d != 1}
        if len(known) > 1:
            raise ValueError(f"layer {layer.name!r}: shapes {list(shapes)} do not fit along axis {axis}")
        out.append(known.pop() if known else None if None in dims else 1)
    return tuple(out)


class _Merge(Layer):
    op = ""

    def output_shape_of(self, *shapes: Dims) -> Dims:
        return _broadcast(self, shapes)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        y = inputs[0]
        for x in inputs[1:]:
            shape = [max(a, b) if a and b else 0 for a, b in zip(y.shape, x.shape, strict=True)]
            y = scope.add(self.op, [y, x], shape)
        return y


class Add(_Merge):
    """The sum of its inputs, which broadcast."""

    op = "Add"


class Multiply(_Merge):
    """The product of its inputs, element by element; they broadcast."""

    op = "Mul"


class Maximum(_Merge):
    """The largest of its inputs, element by element; they broadcast."""

    op = "Max"


class Minimum(_Merge):
    """The smallest of its inputs, element by element; they broadcast."""

    op = "Min"


class Subtract(_Merge):
    """The first input minus the second; they broadcast."""

    op = "Sub"

    def output_shape_of(self, *shapes: Dims) -> Dims:
        if len(shapes) != 2:
            raise ValueError(f"layer {self.name!r}: expected a list of 2 tensors, got {len(shapes)}")
        return _broadcast(self, shapes)


class Average(_Merge):
    """The mean of its inputs, which broadcast."""

    op = "Add"

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        total = super().emit(scope, *inputs)
        return scope.add("Mul", [total, scope.constant(1 / len(inputs))], total.shape)


class Concatenate(Layer):
    """Inputs one after the other along an axis, by default the channels. It costs nothing: producers write in place."""

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def output_shape_of(self, *shapes: Dims) -> Dims:
        if len(shapes) < 1 or len({len(s) for s in shapes}) != 1:
            raise ValueError(f"layer {self.name!r}: expected inputs of one rank, got shapes {list(shapes)}")
        rank = len(shapes[0])
        inner_axis(self.axis, rank)
        out: list[int | None] = []
        for i, dims in enumerate(zip(*shapes, strict=True)):
            known = {d for d in dims if d is not None}
            if i == self.axis % rank:
                out.append(None if None in dims else sum(d for d in dims if d is not None))
            elif len(known) > 1:
                raise ValueError(f"layer {self.name!r}: shapes {list(shapes)} differ along axis {i}")
            else:
                out.append(known.pop() if known else None)
        return tuple(out)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        if len(inputs) == 1:
            return inputs[0]
        axis = inner_axis(self.axis, inputs[0].rank)
        shape = list(inputs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in inputs)
        return scope.add("Concat", inputs, shape, axis=axis)
