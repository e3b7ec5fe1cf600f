"""Dense layers, activations, and layers that only move or rescale numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.graph import Value
from fastconv.layers.activations import activation_name, emit_activation
from fastconv.layers.base import Dims, Layer, Scope, inner_shape, outer_shape
from fastconv.layers.conv import ActivationName, Linear, check_format, image_shape
from fastconv.layers.initializers import Initializer, initializer
from fastconv.layers.windows import sides, whole


class Dense(Linear):
    """activation(x @ kernel + bias) along the last axis. Weights: kernel [C, units], bias [units]."""

    def __init__(
        self,
        units: int,
        activation: ActivationName = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, use_bias, bias_initializer, **kwargs)
        self.units = whole(units, "units")
        self.kernel_initializer = initializer(kernel_initializer)

    def build(self, *shapes: Dims) -> None:
        c = shapes[0][-1]
        if len(shapes[0]) < 2 or c is None:
            raise ValueError(f"layer {self.name!r}: the last axis must be known, got input shape {shapes[0]}")
        self.add_weight("kernel", (c, self.units), self.kernel_initializer)
        self.add_bias(self.units)

    def output_shape_of(self, *shapes: Dims) -> Dims:
        c = self.variables[0].graph_shape[0]
        if shapes[0][-1] != c:
            raise ValueError(f"layer {self.name!r}: expected {c} numbers along the last axis, got shape {shapes[0]}")
        return (*shapes[0][:-1], self.units)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        x = scope.channels_last(inputs[0])
        lead, c = x.shape[:-1], x.shape[-1]
        rows = scope.reshape(x, (math.prod(lead), c))
        weights: list[Value | None] = [scope.weight(v) for v in self.variables]
        y = scope.add("Gemm", [rows, *weights], (rows.shape[0], self.units), trans_b=False)
        y = scope.channels_first(scope.reshape(y, (*lead, self.units)))
        return emit_activation(scope, y, self.activation)


class Flatten(Layer):
    """All axes but the batch in one, images in the order H W C."""

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_format(data_format)

    def output_shape_of(self, *shapes: Dims) -> Dims:
        n, *rest = shapes[0]
        known = [d for d in rest if d is not None]
        return (n, math.prod(known) if len(known) == len(rest) else None)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        x = scope.channels_last(inputs[0])
        return scope.reshape(x, (x.shape[0], math.prod(x.shape[1:])))


class Reshape(Layer):
    """Another shape of the same numbers, in the order that users see; one size may be -1."""

    def __init__(self, target_shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_shape = tuple(int(d) for d in target_shape)
        if self.target_shape.count(-1) > 1 or any(d < 1 and d != -1 for d in self.target_shape):
            raise ValueError(f"target_shape={tuple(target_shape)}: expected positive sizes, one may be -1")

    def output_shape_of(self, *shapes: Dims) -> Dims:
        n, *rest = shapes[0]
        known = math.prod(d for d in self.target_shape if d != -1)
        if None in rest:
            return (n, *(None if d == -1 else d for d in self.target_shape))
        total = math.prod(d for d in rest if d is not None)
        if total % known or (-1 not in self.target_shape and total != known):
            raise ValueError(f"layer {self.name!r}: shape {shapes[0]} cannot become {self.target_shape}")
        return (n, *(total // known if d == -1 else d for d in self.target_shape))

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        x = scope.channels_last(inputs[0])
        shape = self.output_shape_of(x.shape)
        return scope.channels_first(scope.reshape(x, [d for d in shape if d is not None]))


class Permute(Layer):
    """The axes behind the batch in another order; they count from 1, as in Keras: (2, 3, 1) moves C H W to H W C."""

    def __init__(self, dims: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dims = tuple(int(d) for d in dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ValueError(f"dims={tuple(dims)}: expected the numbers from 1 to {len(self.dims)}, each once")

    def output_shape_of(self, *shapes: Dims) -> Dims:
        if len(shapes[0]) != len(self.dims) + 1:
            raise ValueError(f"layer {self.name!r}: expected rank {len(self.dims) + 1}, got shape {shapes[0]}")
        return (shapes[0][0], *(shapes[0][d] for d in self.dims))

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        return scope.channels_first(scope.transpose(scope.channels_last(inputs[0]), (0, *self.dims)))


class Dropout(Layer):
    """Training sets a share `rate` of the numbers to zero and multiplies the others by 1 / (1 - rate); inference
    changes nothing (Srivastava et al. 2014). seed: None for the one that `fit` is given."""

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate={rate!r}: expected a number from 0 to below 1")
        self.rate, self.seed = float(rate), seed

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0]
        if not scope.training or self.rate == 0:
            return x
        seed = scope.feed((1,), lambda rng: [float(rng.integers(1 << 24))], self.seed)
        return scope.add("Dropout", [x, seed], x.shape, rate=self.rate)


class Activation(Layer):
    """An activation function, by name."""

    def __init__(self, activation: ActivationName, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activation_name(activation)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        return emit_activation(scope, inputs[0], self.activation)


class ReLU(Layer):
    """max(x, 0), with an upper limit `max_value`, or `negative_slope * x` below zero."""

    def __init__(self, max_value: float | None = None, negative_slope: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if max_value is not None and (max_value < 0 or negative_slope):
            raise ValueError(f"max_value={max_value!r}, negative_slope={negative_slope!r}: expected one, not negative")
        self.max_value, self.negative_slope = max_value, float(negative_slope)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0]
        if self.max_value is not None:
            return scope.add("Clip", [x], x.shape, min=0.0, max=float(self.max_value))
        if self.negative_slope:
            return scope.add("LeakyRelu", [x], x.shape, alpha=self.negative_slope)
        return scope.add("Relu", [x], x.shape)


class LeakyReLU(ReLU):
    """x, and `negative_slope * x` below zero."""

    def __init__(self, negative_slope: float = 0.3, **kwargs: Any) -> None:
        super().__init__(None, negative_slope, **kwargs)


class Softmax(Layer):
    """exp(x) / sum exp(x) along the last axis."""

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if axis != -1:
            raise ValueError(f"axis={axis!r}: expected -1")

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        return emit_activation(scope, inputs[0], "softmax")


class ZeroPadding2D(Layer):
    """Zeros around images: p, (vertical, horizontal), or ((top, bottom), (left, right))."""

    def __init__(self, padding: Any = (1, 1), data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_format(data_format)
        self.padding = sides(padding)

    def output_shape_of(self, *shapes: Dims) -> Dims:
        h, w, c = image_shape(self, shapes[0])
        (top, bottom), (left, right) = self.padding
        return shapes[0][0], None if h is None else h + top + bottom, None if w is None else w + left + right, c

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        n, c, h, w = inputs[0].shape
        _, p, q, _ = self.output_shape_of((n, h, w, c))
        assert p is not None and q is not None
        pads = ((0, 0), (0, 0), *self.padding)
        return scope.add("Pad", inputs, (n, c, p, q), pads=pads, value=0.0, mode="constant")


class Cropping2D(Layer):
    """Rows and columns taken off: c, (vertical, horizontal), or ((top, bottom), (left, right))."""

    def __init__(self, cropping: Any = ((0, 0), (0, 0)), data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_format(data_format)
        self.cropping = sides(cropping, "cropping")

    def output_shape_of(self, *shapes: Dims) -> Dims:
        h, w, c = image_shape(self, shapes[0])
        sizes = [None if d is None else d - sum(cut) for d, cut in zip((h, w), self.cropping, strict=True)]
        if any(d is not None and d < 1 for d in sizes):
            raise ValueError(f"layer {self.name!r}: nothing is left of shape {shapes[0]} without {self.cropping}")
        return (shapes[0][0], sizes[0], sizes[1], c)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        shape = inner_shape([d for d in self.output_shape_of(outer_shape(inputs[0])) if d is not None])
        starts = (0, 0, self.cropping[0][0], self.cropping[1][0])
        return scope.add("Slice", inputs, shape, starts=starts, steps=(1, 1, 1, 1))


class Rescaling(Layer):
    """x * scale + offset; both are numbers, or one for each channel."""

    def __init__(self, scale: npt.ArrayLike, offset: npt.ArrayLike = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale, self.offset = np.asarray(scale, np.float32), np.asarray(offset, np.float32)

    def output_shape_of(self, *shapes: Dims) -> Dims:
        for vector in (self.scale, self.offset):
            if vector.ndim > 1 or (vector.ndim == 1 and vector.shape[0] not in (1, shapes[0][-1])):
                raise ValueError(f"layer {self.name!r}: factors of shape {vector.shape} do not fit {shapes[0]}")
        return shapes[0]

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0]
        shape = (1, -1, 1, 1) if x.rank == 4 else (1,) * (x.rank - 1) + (-1,)
        x = scope.add("Mul", [x, scope.constant(self.scale.reshape(shape))], x.shape)
        if np.any(self.offset):
            x = scope.add("Add", [x, scope.constant(self.offset.reshape(shape))], x.shape)
        return x
