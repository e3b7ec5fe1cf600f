"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.errors import ShapeError
from fastconv.graph import Value
from fastconv.layers.base import Dims, Layer, Scope, inner_axis
from fastconv.layers.initializers import Initializer, initializer


class BatchNormalization(Layer):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, per channel (Ioffe and Szegedy 2015).

    Weights: gamma and beta (learnt, each may be left out), moving_mean and moving_variance (statistics), all [C].
    Training normalises with the batch's mean and variance and moves the statistics towards them; a layer that is not
    trainable, and one called with training=False, uses the statistics as inference does.
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: str | Initializer = "zeros",
        gamma_initializer: str | Initializer = "ones",
        moving_mean_initializer: str | Initializer = "zeros",
        moving_variance_initializer: str | Initializer = "ones",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis, self.momentum, self.epsilon = axis, float(momentum), float(epsilon)
        if not 0 < self.epsilon < np.inf:
            raise ValueError(f"epsilon={epsilon!r}: expected a positive number")
        self.center, self.scale = bool(center), bool(scale)
        self.initializers = {
            "gamma": initializer(gamma_initializer),
            "beta": initializer(beta_initializer),
            "moving_mean": initializer(moving_mean_initializer),
            "moving_variance": initializer(moving_variance_initializer),
        }

    def build(self, *shapes: Dims) -> None:
        shape = shapes[0]
        if len(shape) not in (2, 4) or self.axis not in (-1, len(shape) - 1):
            raise ValueError(f"layer {self.name!r}: expected the last axis of [N, C] or [N, H, W, C], got {shape}")
        if shape[-1] is None:
            raise ValueError(f"layer {self.name!r}: the number of channels must be known, got shape {shape}")
        wanted = {"gamma": self.scale, "beta": self.center, "moving_mean": True, "moving_variance": True}
        for name, there in wanted.items():
            if there:
                statistic = name.startswith("moving")
                self.add_weight(name, (shape[-1],), self.initializers[name], statistic=statistic)

    def output_shape_of(self, *shapes: Dims) -> Dims:
        if shapes[0][-1] != self.variables[0].graph_shape[0]:
            raise ValueError(
                f"layer {self.name!r}: expected {self.variables[0].graph_shape[0]} channels, got shape {shapes[0]}"
            )
        return shapes[0]

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0]
        c = x.shape[1]
        image = x if x.rank == 4 else scope.reshape(x, (*x.shape, 1, 1))
        parameters = []
        for name, default in (("gamma", 1.0), ("beta", 0.0), ("moving_mean", 0.0), ("moving_variance", 1.0)):
            v = self.variable(name)
            parameters.append(scope.constant(np.full(c, default)) if v is None else scope.weight(v))
        train = scope.training and self.variable("moving_mean") in scope.stateful
        return scope.reshape(batch_norm(scope, image, parameters, self.epsilon, self.momentum, train), x.shape)


def batch_norm(
    scope: Scope, x: Value, parameters: Sequence[Value], epsilon: float, momentum: float, train: bool
) -> Value:
    """x[N, C, H, W] normalised with scale, shift, mean and variance [C].

    train: the batch's own mean and variance count, and the given ones, states, move towards them:
    moving = momentum * moving + (1 - momentum) * batch, with the variance that divides by the count, as in Keras.
    """
    scale, shift, mean, variance = parameters
    if train:
        shapes = [x.shape, mean.shape, variance.shape]
        y, *batch = scope.graph.add_many("BatchNormTrain", [x, scale, shift], shapes, name=scope.name, epsilon=epsilon)
        for moving, value in zip((mean, variance), batch, strict=True):
            scope.update("MovingAverage", [moving, value], momentum=momentum)
        return y
    if all(v.is_const for v in parameters):
        return scope.add("BatchNormalization", [x, *parameters], x.shape, epsilon=epsilon)
    c = mean.shape
    deviation = scope.add("Sqrt", [scope.add("Add", [variance, scope.constant([epsilon])], c)], c)
    factor = scope.add("Div", [scale, deviation], c)
    offset = scope.add("Sub", [shift, scope.add("Mul", [mean, factor], c)], c)
    return scope.add("Affine", [x, factor, offset], x.shape, axis=1)


class LocalResponseNormalization(Layer):
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta (Krizhevsky 2012, 3.3).

    The defaults are the paper's, with its alpha of 1e-4 per channel written as torch and ONNX do: 5e-4 for size 5.
    """

    def __init__(
        self, size: int = 5, alpha: float = 5e-4, beta: float = 0.75, bias: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size={size!r}: expected a positive int")
        self.size, self.alpha, self.beta, self.bias = size, float(alpha), float(beta), float(bias)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0]
        return scope.add("LRN", [x], x.shape, size=self.size, alpha=self.alpha, beta=self.beta, bias=self.bias)


class Normalization(Layer):
    """(x - mean) / sqrt(variance), along the last axis. Numbers given here are constants; `adapt` measures them.

    Without numbers they are weights (mean and variance [C]; 0 and 1 until `adapt`) that no gradient changes. Before the
    layer is called on an input, `adapt` builds it.
    """

    def __init__(
        self, axis: int | None = -1, mean: npt.ArrayLike | None = None, variance: npt.ArrayLike | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        if axis not in (-1, None):
            raise ValueError(f"axis={axis!r}: expected -1 or None")
        if (mean is None) != (variance is None):
            raise ValueError("Normalization: expected both mean and variance, or neither")
        self.axis = axis
        self.given = None if mean is None else (np.asarray(mean, np.float64), np.asarray(variance, np.float64))

    def build(self, *shapes: Dims) -> None:
        channels = 1 if self.axis is None else shapes[0][-1]
        if channels is None:
            raise ValueError(f"layer {self.name!r}: the last axis must be known, got shape {shapes[0]}")
        if self.given is None:
            self.add_weight("mean", (channels,), initializer("zeros"), statistic=True)
            self.add_weight("variance", (channels,), initializer("ones"), statistic=True)

    def output_shape_of(self, *shapes: Dims) -> Dims:
        sizes = [a.size for a in self.given] if self.given else [v.size for v in self.variables]
        if any(n not in (1, shapes[0][-1]) for n in sizes):
            raise ValueError(f"layer {self.name!r}: statistics of sizes {sizes} do not fit shape {shapes[0]}")
        return shapes[0]

    def adapt(self, data: Any, batch_size: int | None = None, steps: int | None = None) -> None:
        """Measure mean and variance of an array [N, ..., C], or of an iterable of batches x or (x, y)."""
        if self.given is not None:
            raise ValueError(f"layer {self.name!r} has constants: there is nothing to adapt")
        batches = [data] if hasattr(data, "shape") or isinstance(data, (list, tuple)) else data
        count, mean, spread = 0, np.zeros(1), np.zeros(1)
        for i, batch in enumerate(batches):
            if steps is not None and i >= steps:
                break
            x = np.asarray(batch[0] if isinstance(batch, tuple) else batch, np.float64)
            self.ensure_built((None, *x.shape[1:]))
            rows = x.reshape(-1, 1 if self.axis is None else x.shape[-1])
            if not len(rows):
                continue
            # Chan's rule joins two sets of numbers without cancellation.
            apart, total = rows.mean(0) - mean, count + len(rows)
            spread = spread + rows.var(0) * len(rows) + apart**2 * count * len(rows) / total
            mean, count = mean + apart * len(rows) / total, total
        if not count:
            raise ValueError(f"layer {self.name!r}: adapt got no data")
        for v, values in zip(self.variables, (mean, spread / count), strict=True):
            if values.shape != v.shape:
                raise ShapeError(f"layer {self.name!r}: expected {v.size} channels, got {values.size}")
            v.assign(values)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0]
        shape = tuple(-1 if a == inner_axis(-1, x.rank) else 1 for a in range(x.rank))
        mean, variance = self.given or [v.array.astype(np.float64) for v in self.variables]
        factor = 1 / np.maximum(np.sqrt(variance), 1e-7)
        apart = scope.add("Sub", [x, scope.constant(mean.reshape(shape))], x.shape)
        return scope.add("Mul", [apart, scope.constant(factor.reshape(shape))], x.shape)
