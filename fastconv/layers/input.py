"""InputLayer and Input: where models begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv.graph import Value
from fastconv.layers.base import Call, Dims, Layer, Scope, Tensor


class InputLayer(Layer):
    """Where a model begins. shape: without the batch; batch_shape: with it."""

    def __init__(
        self,
        shape: Sequence[int | None] | None = None,
        *,
        batch_shape: Sequence[int | None] | None = None,
        batch_size: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if (shape is None) == (batch_shape is None):
            raise ValueError("Input: expected either shape (without the batch) or batch_shape")
        given = batch_shape if batch_shape is not None else shape
        if isinstance(given, str) or not hasattr(given, "__len__"):
            raise ValueError(f"Input: shape={given!r}: expected a tuple such as (224, 224, 3)")
        dims: Dims = tuple(batch_shape) if batch_shape is not None else (batch_size, *tuple(shape or ()))
        for d in dims:
            if d is not None and (isinstance(d, bool) or not isinstance(d, (int, np.integer)) or d < 1):
                raise ValueError(f"Input: shape {dims}: expected positive sizes, or None where they are free")
        self.built = True
        self.dims: Dims = tuple(None if d is None else int(d) for d in dims)
        self._begin()

    def _begin(self) -> None:
        call = Call(self, ())
        call.outputs = (Tensor(self.dims, self.name, call),)
        self.calls = [call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()

    def __call__(self, inputs: Any = None, *, training: bool | None = None) -> Any:
        raise ValueError(f"input layer {self.name!r} takes no inputs")

    def emit(self, scope: Scope, *inputs: Value) -> list[Value]:
        """Nothing is computed: the inputs are what the model is given."""
        return list(inputs)


def Input(
    shape: Sequence[int | None] | None = None,
    batch_size: int | None = None,
    name: str | None = None,
    *,
    dtype: str | None = None,
    batch_shape: Sequence[int | None] | None = None,
) -> Tensor:
    """A symbolic input: `Input(shape=(640, 480, 3))`. None in the shape is a free size."""
    if dtype not in (None, "float32"):
        raise ValueError(f"Input: dtype={dtype!r}: expected float32; predict converts what it gets")
    if batch_shape is None and shape is None:
        raise ValueError("Input: a shape is missing, such as shape=(224, 224, 3)")
    tensor: Tensor = InputLayer(shape, batch_shape=batch_shape, batch_size=batch_size, name=name).output
    return tensor
